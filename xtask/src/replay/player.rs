//! Plays steps on our stack.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use vfio_owner::backend::{Extension, MapDma, Unmap};
use vfio_owner::device_ops::{DeviceKind, NotResettable};
use vfio_owner::error::UnmapDmaError;
use vfio_owner::iommu_core::device_model::{Errno, Progress, Unbind};
use vfio_owner::iommu_core::software::{LockedPages, Process};
use vfio_owner::iommu_core::{Access, Iova, UserAddr};
use vfio_owner::testbed::{Machine, MachineError};
use vfio_owner::{Container, DeviceFile, GroupFile, GroupStatus};

use super::language::{Action, Call, Handle, IommuType, MachineStep, Open, Step};

/// The buffer of the process that maps.
const BUFFER_BYTES: u64 = 64 << 20;

const BAD_HANDLE: Reply = Reply::Answer(Answer::Errno(Errno::EBADF));
const NOT_A_CALL: Reply = Reply::Answer(Answer::Errno(Errno::ENOTTY));
const UNKNOWN: Reply = Reply::Unknown("a step of iommufd: not known yet");

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
    process: Arc<Process>,
    /// Where its buffer begins.
    buffer: UserAddr,
    /// Background steps that wait, the oldest first.
    waiting: VecDeque<Unbind>,
    open: BTreeMap<Handle, Opened>,
}

/// What a handle names.
enum Opened {
    Container(Container),
    Group(GroupFile),
    Device(DeviceFile),
}

impl Player {
    pub(crate) fn new(machine: Machine) -> Result<Self> {
        let process = Process::new(machine.memory(), LockedPages::unlimited());
        let buffer = process.allocate(BUFFER_BYTES, Access::ReadWrite).context("no memory for the buffer")?;
        Ok(Self { machine, process, buffer, waiting: VecDeque::new(), open: BTreeMap::new() })
    }

    /// Plays one step.
    pub(crate) fn play(&mut self, step: &Step) -> Reply {
        match &step.action {
            Action::Machine(step) => Reply::Answer(self.play_machine(step)),
            Action::Open(handle, what) => match self.opened(what) {
                Ok(opened) => {
                    self.open.insert(handle.clone(), opened);
                    Reply::Answer(Answer::Ok)
                }
                Err(reply) => reply,
            },
            Action::Close(handle) => self.open.remove(handle).map_or(BAD_HANDLE, |_| Reply::Answer(Answer::Ok)),
            Action::Call(handle, call) => match self.open.get(handle) {
                Some(opened) => self.call(opened, call),
                None => BAD_HANDLE,
            },
        }
    }

    fn opened(&self, what: &Open) -> Result<Opened, Reply> {
        match what {
            Open::Container => Ok(Opened::Container(self.machine.vfio().open_container())),
            Open::Group { device } => {
                lookup(self.machine.open_group(device)).map(Opened::Group).map_err(|error| refused(error.errno()))
            }
            Open::DeviceOfGroup { group, device } => match self.open.get(group) {
                Some(Opened::Group(file)) => {
                    file.device(device).map(Opened::Device).map_err(|error| refused(error.errno()))
                }
                Some(_) => Err(NOT_A_CALL),
                None => Err(BAD_HANDLE),
            },
            Open::Iommufd | Open::DeviceFile { .. } | Open::Ioas { .. } | Open::PageTable { .. } => Err(UNKNOWN),
        }
    }

    fn call(&self, opened: &Opened, call: &Call) -> Reply {
        match opened {
            Opened::Container(container) => self.call_container(container, call),
            Opened::Group(group) => self.call_group(group, call),
            Opened::Device(device) => call_device(device, call),
        }
    }

    fn call_group(&self, group: &GroupFile, call: &Call) -> Reply {
        let answer = match call {
            Call::Status => group.status().map(|status| Answer::Value(flags(status).to_owned())).map_err(|e| e.errno()),
            Call::SetContainer { container } => match self.open.get(container) {
                Some(Opened::Container(container)) => done(group.set_container(container).map_err(|e| e.errno())),
                Some(_) => Err(Errno::new(77)),
                None => return BAD_HANDLE,
            },
            Call::UnsetContainer => done(group.unset_container().map_err(|e| e.errno())),
            _ => return NOT_A_CALL,
        };
        Reply::Answer(answer.unwrap_or_else(Answer::Errno))
    }

    fn call_container(&self, container: &Container, call: &Call) -> Reply {
        let answer = match call {
            Call::CheckExtension(kind) => Ok(Answer::Value(container.check_extension(extension(*kind)).to_string())),
            Call::SetIommu(kind) => done(container.set_iommu(extension(*kind)).map_err(|e| e.errno())),
            Call::Map { iova, bytes, offset } => done(self.map(container, *iova, *bytes, offset.unwrap_or(0))),
            Call::Unmap { iova, bytes } => {
                unmapped(container.unmap(Unmap::Range { iova: Iova::new(*iova), bytes: *bytes }))
            }
            Call::UnmapAll => unmapped(container.unmap(Unmap::All)),
            _ => return NOT_A_CALL,
        };
        Reply::Answer(answer.unwrap_or_else(Answer::Errno))
    }

    fn map(&self, container: &Container, iova: u64, bytes: u64, offset: u64) -> Result<(), Errno> {
        let addr = self.buffer.checked_add(offset).ok_or(Errno::EINVAL)?;
        let request =
            MapDma { iova: Iova::new(iova), bytes, process: self.process.clone(), addr, access: Access::ReadWrite };
        container.map(request).map_err(|error| error.errno())
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
            MachineStep::Unbind { device } => self.start(machine.unbind(device)),
            MachineStep::Remove { device } => self.start(machine.remove(device)),
            MachineStep::Rescan => {
                machine.rescan();
                Answer::Ok
            }
            MachineStep::Wait => match self.waiting.pop_front() {
                Some(unbind) => self.advance(unbind, Place::Front),
                None => Answer::Ok,
            },
        }
    }

    fn start(&mut self, unbind: Result<Unbind, MachineError>) -> Answer {
        match unbind {
            Ok(unbind) => self.advance(unbind, Place::Back),
            Err(error) => Answer::Errno(error.errno()),
        }
    }

    /// Lets an unbinding go on; one that waits is kept.
    fn advance(&mut self, mut unbind: Unbind, place: Place) -> Answer {
        match (unbind.try_finish(), place) {
            (Progress::Done, _) => return Answer::Ok,
            (Progress::Waiting { .. }, Place::Front) => self.waiting.push_front(unbind),
            (Progress::Waiting { .. }, Place::Back) => self.waiting.push_back(unbind),
        }
        Answer::Blocked
    }
}

fn call_device(device: &DeviceFile, call: &Call) -> Reply {
    let answer = match call {
        Call::DeviceInfo => {
            let info = device.info();
            let kind = if info.kind == DeviceKind::Pci { 2 } else { 0 };
            let flags = kind | u32::from(info.resettable);
            Ok(Answer::Value(format!("flags {flags:#x} regions {} irqs {}", info.regions, info.irqs)))
        }
        Call::Reset => done(device.reset().map_err(NotResettable::errno)),
        _ => return NOT_A_CALL,
    };
    Reply::Answer(answer.unwrap_or_else(Answer::Errno))
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

fn refused(errno: Errno) -> Reply {
    Reply::Answer(Answer::Errno(errno))
}

fn done(result: Result<(), Errno>) -> Result<Answer, Errno> {
    result.map(|()| Answer::Ok)
}

fn unmapped(result: Result<u64, UnmapDmaError>) -> Result<Answer, Errno> {
    result.map(|bytes| Answer::Value(format!("{bytes:#x}"))).map_err(|error| error.errno())
}

fn flags(status: GroupStatus) -> &'static str {
    match status {
        GroupStatus::NotViable => "none",
        GroupStatus::Viable => "viable",
        GroupStatus::InContainer => "viable,container-set",
    }
}

fn extension(kind: IommuType) -> Extension {
    match kind {
        IommuType::Type1 => Extension::TYPE1,
        IommuType::Type1v2 => Extension::TYPE1_V2,
        IommuType::Spapr => Extension::SPAPR,
        IommuType::Nesting => Extension::NESTING,
    }
}
