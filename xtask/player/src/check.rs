//! Scenarios against their recordings: what differs, and how much was played.

use std::fmt;
use std::io::{self, Write};
use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use crate::language::{Line, Scenario, Step};
use crate::player::{By, Played, Player};
use crate::system::System;

/// How many steps were played, and what became of them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Scenarios.
    pub files: usize,
    /// Steps.
    pub steps: usize,
    /// Steps whose answer is the recorded one.
    pub agree: usize,
    /// Steps whose answer is another.
    pub differ: usize,
    /// Steps that the system has answered; the rest is the player's own.
    pub reached: usize,
    /// Files that could not be read.
    pub broken: usize,
}

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Print {
    /// The scenario, with the answers of this system.
    Everything,
    /// The steps that differ.
    Differences,
}

impl Tally {
    /// Plays a scenario on the system of a player, prints, and counts.
    ///
    /// # Errors
    /// Fails if nothing can be printed.
    pub fn play<S: System>(
        &mut self,
        scenario: &Scenario,
        mut on: Player<S>,
        print: Print,
        out: &mut impl Write,
    ) -> io::Result<()> {
        self.files += 1;
        for (number, line) in (1..).zip(&scenario.lines) {
            match (line, print) {
                (Line::Text(text), Print::Everything) => writeln!(out, "{text}")?,
                (Line::Text(_), Print::Differences) => {}
                (Line::Step(step), _) => {
                    let played = on.play(step);
                    let verdict = self.compare(step, &played);
                    match (print, verdict) {
                        (Print::Everything, _) => writeln!(out, "{}", step.with_answer(&played.answer))?,
                        (Print::Differences, Some(verdict)) => {
                            writeln!(out, "{}:{number}: {}\n{verdict}", scenario.path.display(), step.text)?;
                        }
                        (Print::Differences, None) => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Counts a step; what to say of it, if anything.
    fn compare(&mut self, step: &Step, played: &Played) -> Option<String> {
        let recorded = step.recorded.as_deref().unwrap_or("nothing");
        self.steps += 1;
        self.reached += usize::from(played.by == By::System);
        if played.answer.to_string() == recorded {
            self.agree += 1;
            return None;
        }
        self.differ += 1;
        Some(format!("    recorded: {recorded}\n    ours:     {}", played.answer))
    }

    /// Adds what another process has counted, from the line that it printed; `None` if it is no such line.
    pub fn add(&mut self, line: &str) -> Option<()> {
        let numbers = line.strip_prefix("replay: ")?.split(|c: char| !c.is_ascii_digit());
        let numbers: Vec<usize> = numbers.filter_map(|number| number.parse().ok()).collect();
        let [files, steps, agree, differ, _unknown, reached, _own] = numbers[..] else { return None };
        *self += Self { files, steps, agree, differ, reached, broken: 0 };
        Some(())
    }

    /// Returns whether all that was asked for was played, and agrees but for so many steps.
    pub fn is_good(&self, unexplained: usize) -> bool {
        self.broken == 0 && self.differ <= unexplained
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.steps += other.steps;
        self.agree += other.agree;
        self.differ += other.differ;
        self.reached += other.reached;
        self.broken += other.broken;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, steps, agree, differ, reached, .. } = self;
        let own = steps - reached;
        // A step that the language does not have makes its file unreadable, so none is unknown.
        write!(f, "replay: {files} files, {steps} steps, {agree} agree, {differ} differ, 0 unknown; ")?;
        write!(f, "{reached} answered by the system, {own} by the player")
    }
}

/// Returns the scenarios in a folder and the folders in it, by name; anything else is a scenario itself.
pub fn scenarios(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else { return vec![path.to_owned()] };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let is_one = |path: &PathBuf| path.is_dir() || path.extension().is_some_and(|extension| extension == "scn");
    paths.iter().filter(|path| is_one(path)).flat_map(|path| scenarios(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_added_up() {
        let counted = Tally { files: 1, steps: 12, agree: 10, differ: 2, reached: 9, broken: 0 };
        let mut sum = counted;
        sum.add(&counted.to_string()).unwrap();
        assert_eq!(sum, Tally { files: 2, steps: 24, agree: 20, differ: 4, reached: 18, broken: 0 });
        assert_eq!(sum.add("f.scn:3: driver 0000:00:03.0"), None);
    }
}
