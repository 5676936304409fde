//! Checks: what a client was to do, and what of it it did.

use std::io::IsTerminal as _;

use anstream::eprint;
use anyhow::Result;

use crate::style::DIM;

/// The checks of one client. A check that fails does not keep the others from being made.
pub(super) struct Checks {
    client: &'static str,
    pub(super) passed: usize,
    /// Which failed, and how.
    pub(super) failed: Vec<String>,
    /// What could not be checked here, and why.
    pub(super) lacking: Vec<String>,
    /// What is worth telling of it.
    pub(super) notes: Vec<String>,
}

impl Checks {
    pub(super) fn of(client: &'static str) -> Self {
        Self { client, passed: 0, failed: Vec::new(), lacking: Vec::new(), notes: Vec::new() }
    }

    /// Makes one check: it passes if `run` succeeds.
    pub(super) fn check(&mut self, name: &str, run: impl FnOnce() -> Result<()>) {
        let mut passed = 0;
        self.attempt(name, |_| {
            run()?;
            passed = 1;
            Ok(())
        });
        self.passed += passed;
    }

    /// Makes several checks, or counts them, in `run`, which fails as a whole if it cannot go on.
    pub(super) fn attempt(&mut self, name: &str, run: impl FnOnce(&mut Self) -> Result<()>) {
        self.progress(name);
        if let Err(error) = run(self) {
            self.failed.push(format!("{name}: {error:#}"));
        }
    }

    /// Counts checks that a program made itself, and passed.
    pub(super) fn count(&mut self, passed: usize) {
        self.passed += passed;
    }

    /// Says what cannot be checked here, and why.
    pub(super) fn lacks(&mut self, what: impl Into<String>) {
        self.lacking.push(what.into());
    }

    /// Says what is worth telling beside the count.
    pub(super) fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    /// Shows on a terminal what is being checked.
    fn progress(&self, name: &str) {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K{DIM}  ..  {:<17} {name}{DIM:#}", self.client);
        }
    }

    /// Clears what a terminal shows of them.
    pub(super) fn clear(&self) {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}
