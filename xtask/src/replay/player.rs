//! Plays steps on our stack.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use vfio_owner::iommu_core::device_model::{Errno, Progress, Unbind};
use vfio_owner::testbed::{Machine, MachineError};

use super::language::{Action, Call, Handle, MachineStep, Open, Step};

/// What our stack says to a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Answer(Answer),
    /// It cannot be said yet, and why.
    Unknown(&'static str),
}

/// An answer, printed in the recorded form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Ok,
    Value(String),
    /// It waits for a user.
    Blocked,
    Errno(Errno),
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(answer) => answer.fmt(f),
            Self::Unknown(reason) => write!(f, "? ({reason})"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Value(value) => write!(f, "ok {value}"),
            Self::Blocked => f.write_str("blocked"),
            Self::Errno(errno) => errno.fmt(f),
        }
    }
}

/// A machine, and what scenarios leave open on it.
pub(crate) struct Player {
    machine: Machine,
    /// Background steps that wait, the oldest first, each with the device that it is about.
    waiting: VecDeque<(String, Unbind)>,
    /// The device behind each handle that was opened in the recording.
    handles: BTreeMap<Handle, String>,
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
                if doubt { Reply::Unknown("follows a step that is not known yet") } else { Reply::Answer(answer) }
            }
            Action::Open(..) | Action::Call(..) | Action::Close(_) => {
                if step.recorded.as_deref().is_some_and(|answer| answer.starts_with("ok")) {
                    self.note(&step.action);
                }
                Reply::Unknown("a step of VFIO or iommufd: not known yet")
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

    /// Keeps account of what a step that is not known yet claimed or opened in the recording.
    fn note(&mut self, action: &Action) {
        let claimed = match action {
            Action::Open(handle, Open::Group { device } | Open::DeviceFile { device }) => {
                self.handles.insert(handle.clone(), device.clone());
                None
            }
            Action::Open(handle, Open::DeviceOfGroup { device, .. }) => {
                self.handles.insert(handle.clone(), device.clone());
                Some(device.clone())
            }
            Action::Call(handle, Call::SetContainer { .. } | Call::Bind { .. }) => self.handles.get(handle).cloned(),
            _ => None,
        };
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

    fn play_machine(&mut self, step: &MachineStep) -> Answer {
        let machine = &self.machine;
        match step {
            MachineStep::Bind { device, driver } => answer(machine.bind(device, driver)),
            MachineStep::Probe { device } => answer(machine.probe(device)),
            MachineStep::SetType { device, kind } => answer(lookup(machine.set_type(device, kind))),
            MachineStep::Driver { device } => {
                Answer::Value(machine.driver(device).as_deref().unwrap_or("none").to_owned())
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
                Answer::Ok
            }
            MachineStep::Wait => match self.waiting.pop_front() {
                Some((device, unbind)) => self.advance(&device, unbind, Place::Front),
                None => Answer::Ok,
            },
        }
    }

    fn start(&mut self, device: &str, unbind: Result<Unbind, MachineError>) -> Answer {
        match unbind {
            Ok(unbind) => self.advance(device, unbind, Place::Back),
            Err(error) => answer(Err(error)),
        }
    }

    /// Lets an unbinding go on; one that waits is kept.
    fn advance(&mut self, device: &str, mut unbind: Unbind, place: Place) -> Answer {
        match (unbind.try_finish(), place) {
            (Progress::Done, _) => return Answer::Ok,
            (Progress::Waiting { .. }, Place::Front) => self.waiting.push_front((device.to_owned(), unbind)),
            (Progress::Waiting { .. }, Place::Back) => self.waiting.push_back((device.to_owned(), unbind)),
        }
        Answer::Blocked
    }
}

/// Where a step that waits is queued: an old one keeps its place.
#[derive(Clone, Copy)]
enum Place {
    Front,
    Back,
}

/// A file of a device that is not there, as those of groups are not.
fn lookup<T>(result: Result<T, MachineError>) -> Result<T, MachineError> {
    result.map_err(|error| match error {
        MachineError::NoDevice { device } => MachineError::NoGroup { device },
        error => error,
    })
}

fn answer(result: Result<(), MachineError>) -> Answer {
    result.map_or_else(|error| Answer::Errno(error.errno()), |()| Answer::Ok)
}

fn value(result: Result<String, MachineError>) -> Answer {
    lookup(result).map_or_else(|error| Answer::Errno(error.errno()), Answer::Value)
}
