//! The questions, each with the designs that answer it.

mod argument;
mod atomics;
mod defence;
mod memory;
mod objections;
mod shipping;

use std::sync::Arc;

use crate::counted::Counted;
use crate::design::{Design, Kind};
use crate::designs::{self, Label};
use crate::proposed::Proposed;
use crate::search::{Memory, Method, Scene};
use crate::stage;
use crate::walk::Walk;

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
    pub(crate) design: Label,
    pub(crate) expected: Expected,
    pub(crate) method: Method,
    pub(crate) memory: Memory,
    pub(crate) scene: Scene,
}

/// One question.
pub(crate) struct Question {
    pub(crate) name: &'static str,
    /// What is asked; "no" is the good answer.
    pub(crate) asks: &'static str,
    /// The facts of the specification that it is about.
    pub(crate) facts: &'static str,
    pub(crate) runs: Vec<Run>,
}

impl Question {
    fn new(name: &'static str, asks: &'static str, facts: &'static str) -> Self {
        Self { name, asks, facts, runs: Vec::new() }
    }

    /// What holds is tried under weak memory, what fails under the strongest: so either answer says more.
    fn run(self, design: Label, expected: Expected, scene: impl Fn() -> String + Send + Sync + 'static) -> Self {
        let memory = match expected {
            Expected::Holds => Memory::Weak,
            Expected::Fails => Memory::Sequential,
        };
        self.under(memory, design, expected, Method::Every, scene)
    }

    fn under(
        mut self,
        memory: Memory,
        design: Label,
        expected: Expected,
        method: Method,
        scene: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        self.runs.push(Run { design, expected, method, memory, scene: Arc::new(scene) });
        self
    }

    /// The design that ships never breaks a rule.
    fn ships(self, scene: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.run(designs::COUNTED, Expected::Holds, scene)
    }

    /// As [`ships`](Self::ships), on two devices that nobody uses.
    fn counted(self, scene: fn(&Counted) -> String) -> Self {
        self.ships(move || scene(&Counted::new()))
    }

    /// As [`ships`](Self::ships), in so many schedules.
    fn sampled(self, budget: usize, scene: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.under(Memory::Sequential, designs::COUNTED, Expected::Holds, Method::Sampled(budget), scene)
    }

    /// The search finds the same with and without leaving orders out.
    fn compared(self, memory: Memory, design: Label, scene: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.under(memory, design, Expected::Holds, Method::Compared, scene)
    }

    fn walk(self, expected: Expected, walk: designs::Walk, scene: fn(&Walk) -> String) -> Self {
        self.run(walk.0, expected, move || scene(&Walk::new(walk.1)))
    }

    fn proposed(self, expected: Expected, proposed: designs::Proposed, scene: fn(&Proposed) -> String) -> Self {
        self.run(proposed.0, expected, move || scene(&Proposed::new(proposed.1)))
    }
}

/// All questions: those of the argument first.
pub(crate) fn all() -> Vec<Question> {
    let argument = argument::questions().into_iter().chain(defence::questions()).chain(objections::questions());
    argument.chain(memory::questions()).chain(shipping::questions()).chain(atomics::questions()).collect()
}

/// Starts a thread of a scene, which has the design for itself.
pub(crate) fn start<D: Design, T: Send + 'static>(
    design: &D,
    title: &'static str,
    work: impl FnOnce(&D) -> T + Send + 'static,
) -> stage::Thread<T> {
    let design = design.clone();
    stage::thread(title, move || work(&design))
}

/// Starts a bind in a thread of its own.
pub(crate) fn bind<D: Design>(
    design: &D,
    title: &'static str,
    driver: Kind,
    device: &'static str,
) -> stage::Thread<bool> {
    start(design, title, move |design| design.bind(driver, device))
}

/// Starts an unbind in a thread of its own.
pub(crate) fn unbind<D: Design>(
    design: &D,
    title: &'static str,
    driver: Kind,
    device: &'static str,
) -> stage::Thread<()> {
    start(design, title, move |design| design.unbind(driver, device))
}

/// Yes or no, for outcomes.
pub(crate) fn won(name: &str, result: bool) -> String {
    format!("{name} {}", if result { "won" } else { "refused" })
}
