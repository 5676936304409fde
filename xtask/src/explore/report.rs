//! What the explorer tells.

use std::collections::BTreeMap;

use super::grouped;

/// A line of it.
#[derive(serde::Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Line {
    /// A question that can be asked.
    Question { question: String, asks: String, designs: Vec<String> },
    /// A search begins.
    Begin { question: String, design: String },
    /// It has come so far.
    Progress { schedules: u64 },
    /// It has ended.
    End(Box<Answer>),
}

/// What came of one search.
#[derive(serde::Deserialize)]
pub(crate) struct Answer {
    pub(crate) question: String,
    pub(super) asks: String,
    pub(super) design: String,
    /// What the design's label stands for.
    pub(super) meaning: String,
    pub(super) memory: Memory,
    pub(super) expected: Expected,
    pub(super) method: Method,
    pub(super) schedules: u64,
    /// How many are left when orders that make no difference are left out.
    reduced: Option<u64>,
    pub(super) violations: u64,
    pub(super) seconds: f64,
    /// How often it ended in which way.
    pub(super) outcomes: BTreeMap<String, u64>,
    pub(super) counterexample: Option<Play>,
    /// What the design that ships does in that schedule.
    pub(super) counted: Option<Play>,
}

#[derive(serde::Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Memory {
    Sequential,
    Weak,
}

#[derive(serde::Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Expected {
    Holds,
    Fails,
}

#[derive(serde::Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Method {
    Every,
    Sampled,
    Compared,
}

/// A schedule.
#[derive(serde::Deserialize)]
pub(crate) struct Play {
    pub(super) broken: Option<String>,
    pub(super) threads: Vec<String>,
    /// Who had the group before.
    pub(super) before: String,
    pub(super) steps: Vec<Step>,
}

/// One step of one thread.
#[derive(serde::Deserialize)]
pub(crate) struct Step {
    pub(super) thread: usize,
    pub(super) what: String,
    /// It says what is wrong, rather than what is done.
    pub(super) wrong: bool,
    /// The locks that are held after it.
    pub(super) locks: Vec<Held>,
    pub(super) ownership: String,
}

/// A lock that is held.
#[derive(serde::Deserialize, PartialEq, Eq)]
pub(crate) struct Held {
    pub(super) lock: String,
    /// By which thread.
    pub(super) thread: usize,
}

impl Answer {
    pub(crate) fn is_expected(&self) -> bool {
        (self.violations > 0) == (self.expected == Expected::Fails)
    }

    /// Whether it is a question about designs, rather than about the search or the model of memory.
    pub(super) fn judges_a_design(&self) -> bool {
        self.method != Method::Compared && self.family() != "memory"
    }

    /// The design without its variant.
    pub(super) fn family(&self) -> &str {
        self.design.split(',').next().unwrap_or_default()
    }

    /// How many schedules there were, and how they ended.
    pub(super) fn extent(&self) -> String {
        let all = grouped(self.schedules);
        let memory = match self.memory {
            Memory::Sequential => "",
            Memory::Weak => ", weak memory",
        };
        match (self.method, self.reduced) {
            (Method::Compared, Some(reduced)) if self.violations == 0 => {
                format!("{} schedules end in all the ways of all {all}{memory}", grouped(reduced))
            }
            (Method::Compared, _) => format!("{} outcomes of all {all} schedules are missing{memory}", self.violations),
            (Method::Sampled, _) => {
                format!("{} of {all} schedules, chosen at random{memory}", grouped(self.violations))
            }
            (Method::Every, _) => format!("{} of {all} schedules{memory}", grouped(self.violations)),
        }
    }

    /// The ways in which schedules ended, and how often.
    pub(super) fn endings(&self) -> String {
        let ways = self.outcomes.iter().filter(|(way, _)| !way.is_empty());
        let ways: Vec<_> = ways.map(|(way, count)| format!("{way}: {}", grouped(*count))).collect();
        ways.join("; ")
    }

    /// The answer as the name of a file: the question, and the design's variant.
    pub(super) fn picture(&self) -> String {
        let word = |text: &str| {
            let kept = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect::<String>();
            kept.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
        };
        format!("{}.{}", self.question, word(&self.design))
    }
}
