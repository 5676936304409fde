//! Scenarios against their recordings: what differs, and how much was played.

use std::fmt;
use std::io::{self, Write};
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
    /// Plays a scenario, prints, and counts.
    ///
    /// # Errors
    /// Fails if nothing can be printed.
    pub fn play<S: System>(
        &mut self,
        scenario: &Scenario,
        mut player: Player<S>,
        print: Print,
        out: &mut impl Write,
    ) -> io::Result<()> {
        self.files += 1;
        for (number, line) in (1..).zip(&scenario.lines) {
            match (line, print) {
                (Line::Text(text), Print::Everything) => writeln!(out, "{text}")?,
                (Line::Text(_), Print::Differences) => {}
                (Line::Step(step), _) => {
                    let played = player.play(step);
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

    /// Returns whether all that was asked for was played, and agrees.
    pub fn is_good(&self) -> bool {
        self.broken == 0 && self.differ == 0
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

/// Returns the scenarios in a folder, by name; anything else is a scenario itself.
pub fn scenarios(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else { return vec![path.to_owned()] };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "scn"))
        .collect();
    files.sort();
    files
}
