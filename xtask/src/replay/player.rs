//! Plays steps on our stack.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use vfio_owner::iommu_core::device_model::{Progress, Unbind};
use vfio_owner::testbed::{Machine, MachineError};

use super::language::{Action, MachineStep, Step};

/// What our stack says to a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The answer, in the recorded form.
    Answer(String),
    /// It cannot be said yet, and why.
    Unknown(String),
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(answer) => f.write_str(answer),
            Self::Unknown(reason) => write!(f, "? ({reason})"),
        }
    }
}

/// A machine, and what scenarios leave open on it.
pub(crate) struct Player {
    machine: Machine,
    /// Background steps that wait, the oldest first, each with the device that it is about.
    waiting: VecDeque<(String, Unbind)>,
    /// The device behind each handle that was opened in the recording.
    handles: BTreeMap<String, String>,
    /// Devices whose group a step that is not known yet may have changed.
    doubtful: BTreeSet<String>,
}

impl Player {
    pub(crate) fn new(machine: Machine) -> Self {
        Self { machine, waiting: VecDeque::new(), handles: BTreeMap::new(), doubtful: BTreeSet::new() }
    }

    /// Plays one step.
    pub(crate) fn play(&mut self, step: &Step) -> Reply {
        match &step.action {
            Action::Machine(machine_step) => {
                let doubt = self.doubts(machine_step);
                let answer = self.play_machine(machine_step);
                if doubt {
                    Reply::Unknown("follows a step that is not known yet".to_owned())
                } else {
                    Reply::Answer(answer)
                }
            }
            Action::Handle { opens, words } => {
                self.note(opens.as_deref(), words, step.recorded.as_deref());
                Reply::Unknown(format!("`{}` is not known yet", verb(opens.is_some(), words)))
            }
        }
    }

    /// Whether the answer may depend on a step that was not played.
    fn doubts(&self, step: &MachineStep) -> bool {
        match (step, step.device()) {
            (_, Some(device)) => self.doubtful.contains(device),
            (MachineStep::Wait, None) => self.waiting.front().is_none_or(|(device, _)| self.doubtful.contains(device)),
            (_, None) => !self.doubtful.is_empty(),
        }
    }

    /// Keeps account of what a step that is not known yet would have claimed or opened.
    fn note(&mut self, opens: Option<&str>, words: &[String], recorded: Option<&str>) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if !recorded.is_some_and(|answer| answer.starts_with("ok")) {
            return;
        }
        let (opened, claimed) = match words.as_slice() {
            ["group" | "cdev", device] => (Some((*device).to_owned()), None),
            [_, "get-device", device] => (Some((*device).to_owned()), Some((*device).to_owned())),
            [handle, "set-container" | "bind", ..] => (None, self.handles.get(*handle).cloned()),
            _ => (None, None),
        };
        if let (Some(handle), Some(device)) = (opens, opened) {
            self.handles.insert(handle.to_owned(), device);
        }
        if let Some(device) = claimed {
            self.doubt_group_of(&device);
        }
    }

    fn doubt_group_of(&mut self, device: &str) {
        self.doubtful.insert(device.to_owned());
        if let Ok(group) = self.machine.group(device) {
            self.doubtful.extend(group.members().into_iter().map(|member| member.device.to_string()));
        }
    }

    fn play_machine(&mut self, step: &MachineStep) -> String {
        let machine = &self.machine;
        match step {
            MachineStep::Bind { device, driver } => answer(machine.bind(device, driver)),
            MachineStep::Probe { device } => answer(machine.probe(device)),
            MachineStep::SetType { device, kind } => answer(lookup(machine.set_type(device, kind))),
            MachineStep::Driver { device } => {
                format!("ok {}", machine.driver(device).as_deref().unwrap_or("none"))
            }
            MachineStep::Group { device } => value(machine.group(device).map(|group| {
                let names: Vec<_> = group.members().into_iter().map(|member| member.device.to_string()).collect();
                names.join(" ")
            })),
            MachineStep::Type { device } => value(
                machine
                    .group(device)
                    .map(|group| group.default_domain_type().map_or("unknown", |kind| kind.kind().name()).to_owned()),
            ),
            MachineStep::Unbind { device } => {
                let unbind = machine.unbind(device);
                self.start(device, unbind)
            }
            MachineStep::Remove { device } => {
                let removal = machine.remove(device);
                self.start(device, removal)
            }
            MachineStep::Rescan => {
                machine.rescan();
                "ok".to_owned()
            }
            MachineStep::Wait => match self.waiting.pop_front() {
                Some((device, unbind)) => self.advance(&device, unbind, Place::Front),
                None => "ok".to_owned(),
            },
        }
    }

    fn start(&mut self, device: &str, unbind: Result<Unbind, MachineError>) -> String {
        match unbind {
            Ok(unbind) => self.advance(device, unbind, Place::Back),
            Err(error) => answer(Err(error)),
        }
    }

    /// Lets an unbinding go on; one that waits is kept.
    fn advance(&mut self, device: &str, mut unbind: Unbind, place: Place) -> String {
        match (unbind.try_finish(), place) {
            (Progress::Done, _) => return "ok".to_owned(),
            (Progress::Waiting { .. }, Place::Front) => self.waiting.push_front((device.to_owned(), unbind)),
            (Progress::Waiting { .. }, Place::Back) => self.waiting.push_back((device.to_owned(), unbind)),
        }
        "blocked".to_owned()
    }
}

/// Where a step that waits is queued: an old one keeps its place.
#[derive(Clone, Copy)]
enum Place {
    Front,
    Back,
}

fn verb(opens: bool, words: &[String]) -> &str {
    let first = words.first().map_or("", String::as_str);
    match words.get(1) {
        Some(second) if !(first == "close" || opens && ["group", "cdev"].contains(&first)) => second,
        _ => first,
    }
}

/// A file of a device that is not there, as those of groups are not.
fn lookup<T>(result: Result<T, MachineError>) -> Result<T, MachineError> {
    result.map_err(|error| match error {
        MachineError::NoDevice { device } => MachineError::NoGroup { device },
        error => error,
    })
}

fn answer(result: Result<(), MachineError>) -> String {
    result.map_or_else(|error| error.errno().to_string(), |()| "ok".to_owned())
}

fn value(result: Result<String, MachineError>) -> String {
    lookup(result).map_or_else(|error| error.errno().to_string(), |value| format!("ok {value}"))
}
