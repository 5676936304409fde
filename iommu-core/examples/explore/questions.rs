//! The questions, each with the designs that answer it.

mod argument;
mod shipping;

use std::sync::Arc;

use crate::search::{Method, Scene};

/// Every device of every scene.
pub(crate) const DEVICES: [&str; 3] = ["A", "B", "C"];

/// What is known about a design, so that the explorer finds a change of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// No schedule breaks a rule.
    Holds,
    /// Some schedule does.
    Fails,
}

/// A design's answer to a question is searched for here.
pub(crate) struct Run {
    pub(crate) design: &'static str,
    pub(crate) expected: Expected,
    pub(crate) method: Method,
    pub(crate) scene: Scene,
}

/// One question.
pub(crate) struct Question {
    pub(crate) name: &'static str,
    /// What is asked; "no" is the good answer.
    pub(crate) asks: &'static str,
    /// The facts that it is about.
    pub(crate) facts: &'static str,
    pub(crate) runs: Vec<Run>,
}

impl Question {
    fn new(name: &'static str, asks: &'static str, facts: &'static str) -> Self {
        Self { name, asks, facts, runs: Vec::new() }
    }

    fn run(
        mut self,
        design: &'static str,
        expected: Expected,
        method: Method,
        scene: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        self.runs.push(Run { design, expected, method, scene: Arc::new(scene) });
        self
    }

    /// The design that ships never breaks a rule.
    fn ships(self, scene: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.run("counted (ships)", Expected::Holds, Method::Every, scene)
    }

    /// As [`ships`](Self::ships), in so many schedules.
    fn sampled(self, budget: usize, scene: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.run("counted (ships)", Expected::Holds, Method::Sampled(budget), scene)
    }

    /// This variant of the walk does break one.
    fn fails(self, design: &'static str, scene: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.run(design, Expected::Fails, Method::Every, scene)
    }

    /// The search finds the same with and without leaving orders out.
    fn compared(self, design: &'static str, scene: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.run(design, Expected::Holds, Method::Compared, scene)
    }

    /// This one does not.
    fn holds(self, design: &'static str, scene: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.run(design, Expected::Holds, Method::Every, scene)
    }
}

/// All questions: those of the argument first.
pub(crate) fn all() -> Vec<Question> {
    argument::questions().into_iter().chain(shipping::questions()).collect()
}

/// Yes or no, for outcomes.
pub(crate) fn won(name: &str, result: bool) -> String {
    format!("{name} {}", if result { "won" } else { "refused" })
}
