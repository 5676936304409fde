//! The test anything protocol, which the kernel's test programs speak, and ours.

use anyhow::{Context as _, Result, ensure};

/// What a test program says of its tests.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) passed: usize,
    pub(super) skipped: usize,
    pub(super) failed: Vec<String>,
}

impl Totals {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut totals = Self { passed: 0, skipped: 0, failed: Vec::new() };
        let planned = text.lines().find_map(|line| line.strip_prefix("1..")?.parse::<usize>().ok());
        for line in text.lines() {
            let (verdict, rest) = match line.split_once("ok ") {
                Some(("", rest)) => (true, rest),
                Some(("not ", rest)) => (false, rest),
                _ => continue,
            };
            let (_, name) = rest.split_once(' ').unwrap_or_default();
            match (verdict, name.split_once(" # SKIP")) {
                (true, None) => totals.passed += 1,
                (true, Some(_)) => totals.skipped += 1,
                (false, _) => totals.failed.push(name.to_owned()),
            }
        }
        let seen = totals.passed + totals.skipped + totals.failed.len();
        let planned = planned.context("the test program did not begin")?;
        ensure!(seen == planned, "the test program ended after {seen} of {planned} tests");
        Ok(totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planned_test_counts() {
        let text =
            "TAP version 13\n1..3\n# RUN a\nok 1 f.a\nnot ok 2 f.huge\nok 3 f.c # SKIP no reason\n# Totals: pass:1\n";
        let totals = Totals::parse(text).unwrap();
        assert_eq!(totals, Totals { passed: 1, skipped: 1, failed: vec!["f.huge".into()] });
        assert!(Totals::parse(&text.replace("1..3", "1..4")).is_err(), "one did not run");
        assert!(Totals::parse("").is_err());
    }
}
