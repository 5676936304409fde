//! What the explorer tells.

use std::collections::BTreeMap;

use super::grouped;

/// A line of it.
#[derive(serde::Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Line {
    /// A question that can be asked.
    Question { question: String, asks: String, facts: String, designs: Vec<String> },
    /// A search begins.
    Begin { question: String, design: String },
    /// It has come so far.
    Progress { schedules: u64 },
    /// It has ended.
    End(Answer),
}

/// What came of one search.
#[derive(serde::Deserialize)]
pub(crate) struct Answer {
    pub(crate) question: String,
    pub(super) asks: String,
    pub(super) facts: String,
    pub(super) design: String,
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
    pub(super) wrong: bool,
    pub(super) locks: Vec<String>,
    pub(super) ownership: String,
}

impl Answer {
    pub(crate) fn is_expected(&self) -> bool {
        (self.violations > 0) == (self.expected == Expected::Fails)
    }

    /// How many schedules there were, and how they ended.
    pub(super) fn extent(&self) -> String {
        let all = grouped(self.schedules);
        match (self.method, self.reduced) {
            (Method::Compared, Some(reduced)) if self.violations == 0 => {
                format!("{} schedules end in all the ways of all {all}", grouped(reduced))
            }
            (Method::Compared, _) => format!("{} outcomes of all {all} schedules are missing", self.violations),
            (Method::Sampled, _) => format!("{} of {all} schedules, chosen at random", grouped(self.violations)),
            (Method::Every, _) => format!("{} of {all} schedules", grouped(self.violations)),
        }
    }

    /// The ways in which schedules ended, and how often.
    pub(super) fn endings(&self) -> String {
        let ways: Vec<_> = self.outcomes.iter().map(|(way, count)| format!("{way}: {}", grouped(*count))).collect();
        ways.join("; ")
    }
}
