//! The scenario language: a step a line, the recorded answer behind `->`, comments behind `#`.

mod call;
mod form;
mod number;
mod step;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

pub use call::{Call, CopyTo, Dirty, Field, Range, Rights, VfioIoas};
pub use step::{Action, Handle, MachineStep, MemoryKind, Open, ProcessStep};

/// A scenario file.
#[derive(Debug)]
pub struct Scenario {
    /// The file.
    pub path: PathBuf,
    /// The machine that it is played on.
    pub topology: String,
    /// Its lines, in order.
    pub lines: Vec<Line>,
}

/// A line of a scenario.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Anything that is not played, as it stands: a comment, a blank line, the topology.
    Text(String),
    /// A step.
    Step(Step),
}

/// A step, and what the recording says of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// What it does.
    pub action: Action,
    /// Whether the player waits for it.
    pub run: Run,
    /// As it stands in the file, without answer and comment, single blanks between the words.
    pub text: String,
    /// The answer in the recorded form, single blanks between the words.
    pub recorded: Option<String>,
    /// What stands behind `#`.
    pub comment: Option<String>,
}

/// Whether the player waits for a step.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Run {
    /// It does.
    Foreground,
    /// Behind `&`: a step that may wait for a user.
    Background,
}

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// Fails if it cannot be read, or a line is not of the language; names the file, and the line with its reason.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        Self::parse(path, &text)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// Fails as [`read`](Self::read) does.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let mut topology = None;
        let mut lines = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let read = read_line(line, &mut topology).with_context(|| format!("{}:{number}", path.display()))?;
            lines.push(read);
        }
        let topology = topology.with_context(|| format!("{}: no line `topology NAME`", path.display()))?;
        Ok(Self { path: path.to_owned(), topology, lines })
    }
}

fn read_line(line: &str, topology: &mut Option<String>) -> Result<Line> {
    let (body, comment) = match line.split_once('#') {
        Some((body, comment)) => (body, Some(comment.trim().to_owned())),
        None => (line, None),
    };
    let words: Vec<&str> = body.split_whitespace().collect();
    match words.as_slice() {
        [] => return Ok(Line::Text(line.to_owned())),
        ["topology", name] => {
            ensure!(topology.is_none(), "a second `topology`");
            *topology = Some((*name).to_owned());
            return Ok(Line::Text(line.to_owned()));
        }
        ["topology", ..] => bail!("not a step: `{}`; this one is `topology NAME`", words.join(" ")),
        _ => ensure!(topology.is_some(), "a step before the line `topology NAME`"),
    }
    let (words, recorded) = match words.iter().position(|word| *word == "->") {
        Some(arrow) => {
            let (step, answer) = words.split_at(arrow);
            (step, Some(recorded(answer)?))
        }
        None => (words.as_slice(), None),
    };
    let (command, run) = match words.split_last() {
        Some((&"&", command)) => (command, Run::Background),
        _ => (words, Run::Foreground),
    };
    let action = Action::parse(command)?;
    let waits = matches!(
        action,
        Action::Machine(MachineStep::Unbind { .. } | MachineStep::Remove { .. } | MachineStep::Sriov { .. })
    );
    ensure!(run == Run::Foreground || waits, "only `unbind`, `remove` and `sriov` run in the background");
    Ok(Line::Step(Step { action, run, text: words.join(" "), recorded, comment }))
}

/// The words from `->` on: `ok`, `ok VALUE`, `blocked` or the name of an errno, any that Linux may have.
fn recorded(words: &[&str]) -> Result<String> {
    let errno = |word: &str| word.strip_prefix('E').is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_alphanumeric()));
    match words {
        [_] => bail!("nothing stands behind `->`"),
        [_, "ok", ..] | [_, "blocked"] => {}
        [_, word] if errno(word) => {}
        _ => bail!("not an answer: `{}`", words.join(" ")),
    }
    Ok(words.split_first().map_or_else(String::new, |(_, answer)| answer.join(" ")))
}

impl Step {
    /// Returns the step in the recorded form, with `answer` in the place of the recorded one.
    pub fn with_answer(&self, answer: &dyn fmt::Display) -> String {
        let comment = self.comment.as_ref().map_or_else(String::new, |comment| format!("  # {comment}"));
        format!("{:<44} -> {answer}{comment}", self.text)
    }
}
