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
use vfio_owner::iommufd_owner::compat::{CompatError, CompatMap, CompatType};
use vfio_owner::iommufd_owner::error::UnmapErr;
use vfio_owner::iommufd_owner::{Context, CopyRequest, MapRequest, ObjectId, Place};
use vfio_owner::testbed::{Machine, MachineError};
use vfio_owner::{Container, DeviceFile, GroupFile, GroupStatus};

use super::language::{Action, Call, Handle, IommuType, MachineStep, Open, Step};

/// The buffer of the process that maps.
const BUFFER_BYTES: u64 = 64 << 20;

const BAD_HANDLE: Answer = Answer::Errno(Errno::EBADF);
const NOT_A_CALL: Answer = Answer::Errno(Errno::ENOTTY);
const EBADFD: Errno = Errno::new(77);

/// An answer, printed in the recorded form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Ok,
    Value(String),
    /// It waits for a user.
    Blocked,
    Errno(Errno),
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
    Iommufd(Context),
    /// An address space or a page table of an iommufd that is open.
    Object(Context, ObjectId),
}

impl Player {
    pub(crate) fn new(machine: Machine) -> Result<Self> {
        let process = Process::new(machine.memory(), LockedPages::unlimited());
        let buffer = process.allocate(BUFFER_BYTES, Access::ReadWrite).context("no memory for the buffer")?;
        Ok(Self { machine, process, buffer, waiting: VecDeque::new(), open: BTreeMap::new() })
    }

    /// Plays one step.
    pub(crate) fn play(&mut self, step: &Step) -> Answer {
        match &step.action {
            Action::Machine(step) => self.play_machine(step),
            Action::Open(handle, what) => match self.opened(what) {
                Ok(opened) => {
                    self.open.insert(handle.clone(), opened);
                    Answer::Ok
                }
                Err(answer) => answer,
            },
            Action::Close(handle) => self.close(handle),
            Action::Call(handle, Call::Destroy) => self.destroy(handle),
            Action::Call(handle, call) => match self.open.get(handle) {
                Some(opened) => self.call(opened, call),
                None => BAD_HANDLE,
            },
        }
    }

    /// Closes what the handle names; what lives in an iommufd is named no more.
    fn close(&mut self, handle: &Handle) -> Answer {
        match self.open.remove(handle) {
            None => BAD_HANDLE,
            Some(Opened::Iommufd(context)) => {
                self.open.retain(|_, opened| !matches!(opened, Opened::Object(owner, _) if owner.is(&context)));
                Answer::Ok
            }
            Some(_) => Answer::Ok,
        }
    }

    fn destroy(&mut self, handle: &Handle) -> Answer {
        let Some(opened) = self.open.get(handle) else { return BAD_HANDLE };
        let Opened::Object(context, id) = opened else { return NOT_A_CALL };
        match context.destroy(*id) {
            Ok(()) => {
                self.open.remove(handle);
                Answer::Ok
            }
            Err(error) => Answer::Errno(error.errno()),
        }
    }

    fn opened(&self, what: &Open) -> Result<Opened, Answer> {
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
            Open::Iommufd => Ok(Opened::Iommufd(Context::new("iommufd"))),
            Open::DeviceFile { device } => {
                self.machine.open_device(device).map(Opened::Device).map_err(|error| refused(error.errno()))
            }
            Open::Ioas { iommufd } => match self.open.get(iommufd) {
                Some(Opened::Iommufd(context)) => match context.ioas_alloc() {
                    Ok(id) => Ok(Opened::Object(context.clone(), id)),
                    Err(error) => Err(refused(error.errno())),
                },
                Some(_) => Err(NOT_A_CALL),
                None => Err(BAD_HANDLE),
            },
            Open::PageTable { bound, parent } => self.page_table(bound, parent),
        }
    }

    /// A page table for a bound device: of the iommufd that has the parent.
    fn page_table(&self, bound: &Handle, parent: &Handle) -> Result<Opened, Answer> {
        let Some(Opened::Device(device)) = self.open.get(bound) else { return Err(BAD_HANDLE) };
        let Some(Opened::Object(context, parent)) = self.open.get(parent) else { return Err(BAD_HANDLE) };
        // Before it is bound, the device has no id to name.
        let Ok(id) = device.iommufd_id() else { return Err(BAD_HANDLE) };
        match context.hwpt_alloc(id, *parent) {
            Ok(id) => Ok(Opened::Object(context.clone(), id)),
            Err(error) => Err(refused(error.errno())),
        }
    }

    fn call(&self, opened: &Opened, call: &Call) -> Answer {
        match opened {
            Opened::Container(container) => self.call_container(container, call),
            Opened::Group(group) => self.call_group(group, call),
            Opened::Device(device) => self.call_device(device, call),
            Opened::Iommufd(context) => self.call_compat(context, call),
            Opened::Object(context, id) => self.call_ioas(context, *id, call),
        }
    }

    fn call_group(&self, group: &GroupFile, call: &Call) -> Answer {
        let answer = match call {
            Call::Status => group.status().map(|status| Answer::Value(flags(status).to_owned())).map_err(|e| e.errno()),
            Call::SetContainer { container } => match self.open.get(container) {
                Some(Opened::Container(container)) => done(group.set_container(container).map_err(|e| e.errno())),
                Some(Opened::Iommufd(context)) => done(group.set_iommufd(context).map_err(|e| e.errno())),
                Some(_) => Err(EBADFD),
                None => return BAD_HANDLE,
            },
            Call::UnsetContainer => done(group.unset_container().map_err(|e| e.errno())),
            _ => return NOT_A_CALL,
        };
        answer.unwrap_or_else(Answer::Errno)
    }

    fn call_container(&self, container: &Container, call: &Call) -> Answer {
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
        answer.unwrap_or_else(Answer::Errno)
    }

    fn call_device(&self, device: &DeviceFile, call: &Call) -> Answer {
        let answer = match call {
            Call::DeviceInfo => device.info().map_err(|error| error.errno()).map(|info| {
                let kind = if info.kind == DeviceKind::Pci { 2 } else { 0 };
                let flags = kind | u32::from(info.resettable);
                Answer::Value(format!("flags {flags:#x} regions {} irqs {}", info.regions, info.irqs))
            }),
            Call::Reset => done(device.reset().map_err(NotResettable::errno)),
            Call::Bind { iommufd } => match self.open.get(iommufd) {
                Some(Opened::Iommufd(context)) => done(device.bind_iommufd(context).map(drop).map_err(|e| e.errno())),
                Some(_) => Err(EBADFD),
                None => Err(Errno::EBADF),
            },
            Call::Attach { to } => match self.open.get(to) {
                Some(Opened::Object(_, id)) => done(device.attach_iommufd_pt(*id).map(drop).map_err(|e| e.errno())),
                _ => Err(Errno::EBADF),
            },
            Call::Detach => done(device.detach_iommufd_pt().map_err(|error| error.errno())),
            _ => return NOT_A_CALL,
        };
        answer.unwrap_or_else(Answer::Errno)
    }

    /// VFIO's calls on an iommufd.
    fn call_compat(&self, context: &Context, call: &Call) -> Answer {
        let answer = match call {
            Call::CheckExtension(kind) => {
                let known = matches!(kind, IommuType::Type1 | IommuType::Type1v2);
                Ok(Answer::Value(u8::from(known).to_string()))
            }
            Call::SetIommu(kind) => match kind {
                IommuType::Type1 => done(context.compat_set_iommu(CompatType::Type1).map_err(|e| e.errno())),
                IommuType::Type1v2 => done(context.compat_set_iommu(CompatType::Type1v2).map_err(|e| e.errno())),
                IommuType::Spapr | IommuType::Nesting => Err(Errno::EINVAL),
            },
            Call::Map { iova, bytes, offset } => done(self.compat_map(context, *iova, *bytes, offset.unwrap_or(0))),
            Call::Unmap { iova, bytes } => bytes_or_errno(context.compat_unmap(Iova::new(*iova), *bytes)),
            Call::UnmapAll => bytes_or_errno(context.compat_unmap_all()),
            _ => return NOT_A_CALL,
        };
        answer.unwrap_or_else(Answer::Errno)
    }

    fn compat_map(&self, context: &Context, iova: u64, bytes: u64, offset: u64) -> Result<(), Errno> {
        let addr = self.buffer.checked_add(offset).ok_or(Errno::EINVAL)?;
        let process = self.process.clone();
        let request = CompatMap { iova: Iova::new(iova), bytes, process, addr, access: Access::ReadWrite };
        context.compat_map(request).map_err(|error| error.errno())
    }

    fn call_ioas(&self, context: &Context, id: ObjectId, call: &Call) -> Answer {
        let answer = match call {
            Call::Map { iova, bytes, offset } => {
                let place = Place::Fixed(Iova::new(*iova));
                done(self.ioas_map(context, id, place, *bytes, offset.unwrap_or(0)).map(drop))
            }
            Call::MapAny { bytes, offset } => self
                .ioas_map(context, id, Place::Anywhere, *bytes, offset.unwrap_or(0))
                .map(|iova| Answer::Value(iova.to_string())),
            Call::Unmap { iova, bytes } => unmapped_from_ioas(context.ioas_unmap(id, Iova::new(*iova), *bytes)),
            Call::UnmapAll => unmapped_from_ioas(context.ioas_unmap(id, Iova::new(0), u64::MAX)),
            Call::CopyFrom { source, from, bytes, to } => match self.open.get(source) {
                Some(Opened::Object(_, source)) => {
                    let (from, place) = (Iova::new(*from), Place::Fixed(Iova::new(*to)));
                    let request = CopyRequest { from, bytes: *bytes, place, access: Access::ReadWrite };
                    done(context.ioas_copy(id, *source, request).map(drop).map_err(|error| error.errno()))
                }
                _ => Err(Errno::EBADF),
            },
            Call::Ranges => context.ioas_iova_ranges(id).map_err(|error| error.errno()).map(|ranges| {
                let ranges: Vec<_> = ranges.ranges.iter().map(ToString::to_string).collect();
                Answer::Value(ranges.join(" "))
            }),
            Call::Allow(ranges) => {
                let ranges: Vec<_> =
                    ranges.iter().map(|range| (Iova::new(range.first), Iova::new(range.last))).collect();
                done(context.ioas_allow_iovas(id, &ranges).map_err(|error| error.errno()))
            }
            _ => return NOT_A_CALL,
        };
        answer.unwrap_or_else(Answer::Errno)
    }

    fn ioas_map(&self, context: &Context, id: ObjectId, place: Place, bytes: u64, offset: u64) -> Result<Iova, Errno> {
        let addr = self.buffer.checked_add(offset).ok_or(Errno::EOVERFLOW)?;
        let request = MapRequest { place, bytes, process: self.process.clone(), addr, access: Access::ReadWrite };
        context.ioas_map(id, request).map_err(|error| error.errno())
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
                Some(unbind) => self.advance(unbind, Queue::Front),
                None => Answer::Ok,
            },
        }
    }

    fn start(&mut self, unbind: Result<Unbind, MachineError>) -> Answer {
        match unbind {
            Ok(unbind) => self.advance(unbind, Queue::Back),
            Err(error) => Answer::Errno(error.errno()),
        }
    }

    /// Lets an unbinding go on; one that waits is kept.
    fn advance(&mut self, mut unbind: Unbind, place: Queue) -> Answer {
        match (unbind.try_finish(), place) {
            (Progress::Done, _) => return Answer::Ok,
            (Progress::Waiting { .. }, Queue::Front) => self.waiting.push_front(unbind),
            (Progress::Waiting { .. }, Queue::Back) => self.waiting.push_back(unbind),
        }
        Answer::Blocked
    }
}

/// Where a step that waits is queued: an old one keeps its place.
#[derive(Clone, Copy)]
enum Queue {
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

fn refused(errno: Errno) -> Answer {
    Answer::Errno(errno)
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

fn unmapped_from_ioas(result: Result<u64, UnmapErr>) -> Result<Answer, Errno> {
    result.map(|bytes| Answer::Value(format!("{bytes:#x}"))).map_err(|error| error.errno())
}

fn bytes_or_errno(result: Result<u64, CompatError>) -> Result<Answer, Errno> {
    result.map(|bytes| Answer::Value(format!("{bytes:#x}"))).map_err(|error| error.errno())
}
