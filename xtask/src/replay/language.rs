//! The scenario language: a step a line, the recorded answer behind `->`, comments behind `#`.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

/// A scenario file.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) path: PathBuf,
    /// The machine that it is played on.
    pub(crate) topology: String,
    pub(crate) lines: Vec<Line>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Anything that is not played, as it stands: a comment, a blank line, the topology.
    Text(String),
    Step(Step),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) action: Action,
    pub(crate) run: Run,
    /// As it stands in the file, without answer and comment.
    pub(crate) text: String,
    pub(crate) recorded: Option<String>,
    pub(crate) comment: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Run {
    Foreground,
    /// Behind `&`: a step that may wait for a user.
    Background,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Machine(MachineStep),
    /// A step on a handle of VFIO or iommufd: what opens or uses it, by its verb.
    Handle {
        opens: Option<String>,
        words: Vec<String>,
    },
}

/// What is done to the machine through sysfs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MachineStep {
    Bind { device: String, driver: String },
    Unbind { device: String },
    Probe { device: String },
    Driver { device: String },
    Group { device: String },
    Type { device: String },
    SetType { device: String, kind: String },
    Remove { device: String },
    Rescan,
    Wait,
}

/// What opens a handle: the word behind `H =`, or behind `H = X`.
const OPENERS: [&str; 7] = ["container", "group", "iommufd", "cdev", "get-device", "ioas-alloc", "hwpt-alloc"];
/// What is done with a handle: the word behind it.
const VERBS: [&str; 21] = [
    "status",
    "set-container",
    "unset-container",
    "check-extension",
    "set-iommu",
    "map",
    "unmap",
    "unmap-all",
    "map-any",
    "copy-from",
    "ranges",
    "allow",
    "bind",
    "attach",
    "detach",
    "destroy",
    "info",
    "reset",
    "get-device",
    "ioas-alloc",
    "hwpt-alloc",
];

impl Scenario {
    /// Reads a file; an error names the line.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        Self::parse(path, &text)
    }

    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self> {
        let mut topology = None;
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let parsed = Line::parse(line).with_context(|| format!("{}:{}", path.display(), number + 1))?;
            if let Line::Text(text) = &parsed
                && let Some(name) = text.strip_prefix("topology ")
            {
                topology = Some(name.trim().to_owned());
            }
            lines.push(parsed);
        }
        let topology = topology.with_context(|| format!("{}: no line `topology NAME`", path.display()))?;
        Ok(Self { path: path.to_owned(), topology, lines })
    }
}

impl Line {
    fn parse(line: &str) -> Result<Self> {
        let (body, comment) = match line.split_once('#') {
            Some((body, comment)) => (body, Some(comment.trim().to_owned())),
            None => (line, None),
        };
        if body.trim().is_empty() || body.trim_start().starts_with("topology ") {
            return Ok(Self::Text(line.to_owned()));
        }
        let (text, recorded) = match body.split_once("->") {
            Some((text, answer)) => (text.trim(), Some(answer.split_whitespace().collect::<Vec<_>>().join(" "))),
            None => (body.trim(), None),
        };
        ensure!(recorded.as_deref() != Some(""), "nothing stands behind `->`");
        let (command, run) = match text.strip_suffix('&') {
            Some(command) => (command.trim(), Run::Background),
            None => (text, Run::Foreground),
        };
        let action = Action::parse(&command.split_whitespace().collect::<Vec<_>>())?;
        let waits = matches!(action, Action::Machine(MachineStep::Unbind { .. } | MachineStep::Remove { .. }));
        ensure!(run == Run::Foreground || waits, "only `unbind` and `remove` run in the background");
        Ok(Self::Step(Step { action, run, text: text.to_owned(), recorded, comment }))
    }
}

impl Action {
    fn parse(words: &[&str]) -> Result<Self> {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        if let Some(step) = MachineStep::parse(words)? {
            return Ok(Self::Machine(step));
        }
        match words {
            [handle, "=", rest @ ..] => {
                ensure!(rest.iter().take(2).any(|word| OPENERS.contains(word)), "nothing known opens {handle}");
                Ok(Self::Handle { opens: Some((*handle).to_owned()), words: owned(rest) })
            }
            ["close", _] => Ok(Self::Handle { opens: None, words: owned(words) }),
            [_, verb, ..] if VERBS.contains(verb) => Ok(Self::Handle { opens: None, words: owned(words) }),
            _ => bail!("not a step: `{}`", words.join(" ")),
        }
    }
}

impl MachineStep {
    /// `None` when the words do not begin like a step of the machine.
    fn parse(words: &[&str]) -> Result<Option<Self>> {
        let [verb, arguments @ ..] = words else { return Ok(None) };
        let device = || arguments.first().map(|word| (*word).to_owned()).context("a device is missing");
        let second = |what: &'static str| {
            arguments.get(1).map(|word| (*word).to_owned()).with_context(|| format!("a {what} is missing"))
        };
        let (step, arity) = match *verb {
            "bind" => (Self::Bind { device: device()?, driver: second("driver")? }, 2),
            "unbind" => (Self::Unbind { device: device()? }, 1),
            "probe" => (Self::Probe { device: device()? }, 1),
            "driver" => (Self::Driver { device: device()? }, 1),
            "group" => (Self::Group { device: device()? }, 1),
            "type" => (Self::Type { device: device()? }, 1),
            "set-type" => (Self::SetType { device: device()?, kind: second("type")? }, 2),
            "remove" => (Self::Remove { device: device()? }, 1),
            "rescan" => (Self::Rescan, 0),
            "wait" => (Self::Wait, 0),
            _ => return Ok(None),
        };
        ensure!(arguments.len() == arity, "`{verb}` takes {arity} words, not {}", arguments.len());
        Ok(Some(step))
    }

    /// The device that it is about.
    pub(crate) fn device(&self) -> Option<&str> {
        match self {
            Self::Bind { device, .. }
            | Self::Unbind { device }
            | Self::Probe { device }
            | Self::Driver { device }
            | Self::Group { device }
            | Self::Type { device }
            | Self::SetType { device, .. }
            | Self::Remove { device } => Some(device),
            Self::Rescan | Self::Wait => None,
        }
    }
}

impl Step {
    /// The step in the recorded form, with `answer` in the place of the recorded one.
    pub(crate) fn with_answer(&self, answer: &dyn fmt::Display) -> String {
        let comment = self.comment.as_ref().map_or_else(String::new, |comment| format!("  # {comment}"));
        format!("{:<44} -> {answer}{comment}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recording_is_printed_as_it_stands() {
        let mut files = 0;
        for path in crate::replay::recordings() {
            let text = std::fs::read_to_string(&path).unwrap();
            let scenario = Scenario::parse(&path, &text).unwrap();
            let printed: Vec<String> = scenario
                .lines
                .iter()
                .map(|line| match line {
                    Line::Text(text) => text.clone(),
                    Line::Step(step) => step.with_answer(step.recorded.as_ref().unwrap()),
                })
                .collect();
            assert_eq!(printed.join("\n") + "\n", text, "{}", path.display());
            files += 1;
        }
        assert!(files > 100, "only {files} recordings");
    }

    #[test]
    fn an_error_names_the_line_and_the_reason() {
        let of = |text: &str| format!("{:#}", Scenario::parse(Path::new("f.scn"), text).unwrap_err());
        assert_eq!(of("topology pc\nbind 0000:00:03.0 -> ok"), "f.scn:2: a driver is missing");
        assert_eq!(of("topology pc\nfrobnicate -> ok"), "f.scn:2: not a step: `frobnicate`");
        assert_eq!(of("rescan & -> ok"), "f.scn:1: only `unbind` and `remove` run in the background");
        assert_eq!(of("x = y -> ok"), "f.scn:1: nothing known opens x");
        assert_eq!(of("rescan ->"), "f.scn:1: nothing stands behind `->`");
        assert_eq!(of("# nothing"), "f.scn: no line `topology NAME`");
    }
}
