//! What is reported of a client.

use std::time::Duration;

use anstream::println;
use serde::Serialize;

use super::Client;
use super::checks::Checks;
use crate::style::{BAD, DIM, GOOD};

/// How a client went.
#[derive(Serialize)]
pub(super) struct Report {
    name: &'static str,
    shows: &'static str,
    verdict: Verdict,
    /// How many checks passed.
    passed: usize,
    /// Which failed, and how.
    failed: Vec<String>,
    /// What could not be run or checked here, and why.
    lacking: Vec<String>,
    notes: Vec<String>,
    seconds: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Passed,
    Failed,
    /// It needs what is not here.
    Skipped,
}

impl Report {
    /// Makes the report of a client; one with needs that are `unmet` was not run.
    pub(super) fn new(client: &Client, checks: Checks, unmet: Vec<String>, took: Duration) -> Self {
        let verdict = match (unmet.is_empty(), checks.failed.is_empty()) {
            (false, _) => Verdict::Skipped,
            (true, false) => Verdict::Failed,
            (true, true) => Verdict::Passed,
        };
        Self {
            name: client.name,
            shows: client.shows,
            verdict,
            passed: checks.passed,
            failed: checks.failed,
            lacking: unmet.into_iter().chain(checks.lacking).collect(),
            notes: checks.notes,
            seconds: took.as_secs_f64(),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn has_failed(&self) -> bool {
        self.verdict == Verdict::Failed
    }

    /// What could not be run or checked, with the name of the client.
    pub(super) fn lacking(&self) -> Option<String> {
        (!self.lacking.is_empty()).then(|| format!("{}: {}", self.name, self.lacking.join(", ")))
    }

    /// Prints it, a line and one for each failure.
    pub(super) fn print(&self) {
        let (mark, style) = match self.verdict {
            Verdict::Passed => (" ok ", GOOD),
            Verdict::Failed => ("FAIL", BAD),
            Verdict::Skipped => ("skip", DIM),
        };
        let mut remarks = Vec::new();
        if self.verdict != Verdict::Skipped {
            remarks.push(format!("{} passed", self.passed));
        }
        remarks.extend(self.notes.iter().cloned());
        if !self.lacking.is_empty() {
            remarks.push(self.lacking.join(", "));
        }
        println!(
            "{style} {mark} {style:#} {:<17} {DIM}{:>6.1} s{DIM:#}  {}",
            self.name,
            self.seconds,
            remarks.join("; ")
        );
        for failure in &self.failed {
            println!("       {BAD}{failure}{BAD:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    const CLIENT: Client = Client { name: "c", shows: "s", needs: &[], wants: &[], run: |_| Ok(()) };

    fn report(make: impl FnOnce(&mut Checks), unmet: &[&str]) -> Report {
        let mut checks = Checks::of(CLIENT.name);
        make(&mut checks);
        Report::new(&CLIENT, checks, unmet.iter().map(ToString::to_string).collect(), Duration::ZERO)
    }

    #[test]
    fn a_check_that_fails_is_named_and_keeps_none_from_being_made() {
        let report = report(
            |checks| {
                checks.check("first", || bail!("no"));
                checks.attempt("group", |checks| {
                    checks.check("second", || Ok(()));
                    checks.count(3);
                    bail!("it ended")
                });
                checks.check("third", || Ok(()));
            },
            &[],
        );
        assert!(report.has_failed());
        assert_eq!(report.failed, ["first: no", "group: it ended"]);
        assert_eq!(report.passed, 5);
    }

    #[test]
    fn what_is_lacking_is_no_failure() {
        let skipped = report(|_| (), &["no lspci (package pciutils)"]);
        assert!(!skipped.has_failed() && skipped.verdict == Verdict::Skipped);
        assert_eq!(skipped.lacking().as_deref(), Some("c: no lspci (package pciutils)"));
        let partly = report(|checks| checks.lacks("huge pages for 22"), &[]);
        assert!(!partly.has_failed() && partly.verdict == Verdict::Passed);
        assert_eq!(partly.lacking().as_deref(), Some("c: huge pages for 22"));
        assert_eq!(report(|_| (), &[]).lacking(), None);
    }
}
