//! Plays steps on our stack.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use vfio_owner::backend::{Extension, Unmap};
use vfio_owner::device_ops::{DeviceKind, ResetError};
use vfio_owner::error::{OpenGroupError, UnmapDmaError};
use vfio_owner::iommu_core::device_model::{Errno, Progress, Unbind};
use vfio_owner::iommu_core::software::{LockedPages, Process};
use vfio_owner::iommu_core::{Access, Iova, UserAddr};
use vfio_owner::iommufd_owner::compat::CompatError;

use vfio_owner::iommufd_owner::{Context, CopyRequest, MapRequest, NoObjectError, ObjectId, Place, UnmapError};
use vfio_owner::testbed::{Machine, MachineError};
use vfio_owner::{Container, DeviceFile, GroupFile, GroupStatus, OpenDevice};

use super::language::{Action, Call, Handle, IommuType, MachineStep, Open, Step};

/// The buffer of the process that maps.
const BUFFER_BYTES: u64 = 64 << 20;

const BAD_HANDLE: Answer = Answer::Errno(Errno::EBADF);
const NOT_A_CALL: Answer = Answer::Errno(Errno::ENOTTY);

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
    /// Open files by their numbers. A new one gets the lowest that is free, and a name that outlives its file means the
    /// next one with its number, as in the recordings.
    files: BTreeMap<u32, File>,
    names: BTreeMap<Handle, Name>,
    /// For a device file: the iommufd that it was bound to, and its id there.
    bound: BTreeMap<u32, (u32, ObjectId)>,
}

/// What a handle names.
#[derive(Clone, Copy)]
enum Name {
    File(u32),
    /// An object of the iommufd with this number.
    Object(u32, ObjectId),
}

/// An open file.
enum File {
    Container(Container),
    Group(GroupFile),
    /// Opened through its group.
    Device(OpenDevice),
    DeviceFile(DeviceFile),
    Iommufd(Context),
}

impl Player {
    pub(crate) fn new(machine: Machine) -> Result<Self> {
        let process = Process::new(machine.memory(), LockedPages::unlimited());
        let buffer = process.allocate(BUFFER_BYTES, Access::ReadWrite).context("no memory for the buffer")?;
        Ok(Self {
            machine,
            process,
            buffer,
            waiting: VecDeque::new(),
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            bound: BTreeMap::new(),
        })
    }

    /// Plays one step.
    pub(crate) fn play(&mut self, step: &Step) -> Answer {
        match &step.action {
            Action::Machine(step) => self.play_machine(step),
            Action::Open(handle, what) => match self.opened(what) {
                Ok(name) => {
                    self.names.insert(handle.clone(), name);
                    Answer::Ok
                }
                Err(answer) => answer,
            },
            Action::Close(handle) => match self.names.remove(handle) {
                Some(Name::File(number)) if self.files.remove(&number).is_some() => {
                    self.bound.remove(&number);
                    // Whoever waited for this user goes on.
                    for unbind in &mut self.waiting {
                        let _ = unbind.try_finish();
                    }
                    Answer::Ok
                }
                _ => BAD_HANDLE,
            },
            Action::Call(handle, call) => match self.names.get(handle).copied() {
                Some(Name::File(number)) => self.call_file(number, call),
                Some(Name::Object(iommufd, id)) => self.call_object(handle, iommufd, id, call),
                None => BAD_HANDLE,
            },
        }
    }

    /// Gives a file its number.
    fn file(&mut self, file: File) -> Name {
        let number = (0..u32::MAX).find(|number| !self.files.contains_key(number)).unwrap_or(u32::MAX);
        self.files.insert(number, file);
        Name::File(number)
    }

    fn named(&self, handle: &Handle) -> Result<&File, Answer> {
        match self.names.get(handle) {
            Some(Name::File(number)) => self.files.get(number).ok_or(BAD_HANDLE),
            _ => Err(BAD_HANDLE),
        }
    }

    fn iommufd(&self, number: u32) -> Result<&Context, Answer> {
        match self.files.get(&number) {
            Some(File::Iommufd(context)) => Ok(context),
            Some(_) => Err(NOT_A_CALL),
            None => Err(BAD_HANDLE),
        }
    }

    fn opened(&mut self, what: &Open) -> Result<Name, Answer> {
        let file = match what {
            Open::Container => File::Container(self.machine.vfio().open_container()),
            Open::Iommufd => File::Iommufd(self.machine.open_iommufd("iommufd")),
            Open::Group { device } => {
                lookup(self.machine.open_group(device)).map(File::Group).map_err(|error| refused(error.errno()))?
            }
            Open::DeviceFile { device } => {
                self.machine.open_device(device).map(File::DeviceFile).map_err(|error| refused(error.errno()))?
            }
            Open::DeviceOfGroup { group, device } => match self.named(group)? {
                File::Group(file) => file.device(device).map(File::Device).map_err(|error| refused(error.errno()))?,
                _ => return Err(NOT_A_CALL),
            },
            Open::Ioas { iommufd } => {
                let Some(Name::File(number)) = self.names.get(iommufd).copied() else { return Err(BAD_HANDLE) };
                let id = self.iommufd(number)?.ioas_alloc().map_err(|error| refused(error.errno()))?;
                return Ok(Name::Object(number, id));
            }
            Open::PageTable { bound, parent } => return self.page_table(bound, parent),
        };
        Ok(self.file(file))
    }

    /// A page table for a bound device, from the iommufd that it is bound to.
    fn page_table(&self, bound: &Handle, parent: &Handle) -> Result<Name, Answer> {
        let Some(Name::File(device)) = self.names.get(bound) else { return Err(BAD_HANDLE) };
        let Some((iommufd, id)) = self.bound.get(device) else { return Err(BAD_HANDLE) };
        let Some(Name::Object(_, parent)) = self.names.get(parent) else { return Err(BAD_HANDLE) };
        let made = self.iommufd(*iommufd)?.hwpt_alloc(*id, *parent);
        made.map(|id| Name::Object(*iommufd, id)).map_err(|error| refused(error.errno()))
    }

    fn call_file(&mut self, number: u32, call: &Call) -> Answer {
        match (self.files.get(&number), call) {
            (None, _) => BAD_HANDLE,
            (Some(File::DeviceFile(device)), Call::Bind { iommufd }) => {
                let result = self.bind(device, iommufd);
                match result {
                    Ok(bound) => {
                        self.bound.insert(number, bound);
                        Answer::Ok
                    }
                    Err(answer) => answer,
                }
            }
            (Some(File::Container(container)), _) => self.call_container(container, call),
            (Some(File::Group(group)), _) => self.call_group(group, call),
            // What only a device's own file has.
            (Some(File::Device(_)), Call::Bind { .. }) => Answer::Errno(Errno::EINVAL),
            (Some(File::Device(_)), Call::Attach { to }) if !self.names.contains_key(to) => BAD_HANDLE,
            (Some(File::Device(_)), Call::Attach { .. } | Call::Detach) => Answer::Errno(Errno::ENOTTY),
            (Some(File::Device(device)), _) => Self::call_device(device, call),
            (Some(File::DeviceFile(file)), _) => self.call_device_file(file, call),
            (Some(File::Iommufd(context)), _) => self.call_compat(context, call),
        }
    }

    fn bind(&self, device: &DeviceFile, iommufd: &Handle) -> Result<(u32, ObjectId), Answer> {
        let Some(Name::File(number)) = self.names.get(iommufd) else { return Err(BAD_HANDLE) };
        let Some(File::Iommufd(context)) = self.files.get(number) else {
            return Err(Answer::Errno(self.bind_to_what_is_no_iommufd(device)));
        };
        device.bind_iommufd(context).map(|bound| (*number, bound.iommufd_id())).map_err(|error| refused(error.errno()))
    }

    /// What the file of the device is asked for is looked at first.
    fn bind_to_what_is_no_iommufd(&self, device: &DeviceFile) -> Errno {
        if device.bound().is_ok() {
            return Errno::EINVAL;
        }
        match self.machine.open_group(device.name()) {
            Err(MachineError::OpenGroup(OpenGroupError::Open { .. })) => Errno::EBUSY,
            _ => Errno::EBADFD,
        }
    }

    fn call_object(&mut self, handle: &Handle, iommufd: u32, id: ObjectId, call: &Call) -> Answer {
        let context = match self.iommufd(iommufd) {
            Ok(context) => context,
            Err(answer) => return answer,
        };
        if *call != Call::Destroy {
            return self.call_ioas(context, id, call);
        }
        match context.destroy(id) {
            Ok(()) => {
                self.names.remove(handle);
                Answer::Ok
            }
            Err(error) => Answer::Errno(error.errno()),
        }
    }

    fn call_group(&self, group: &GroupFile, call: &Call) -> Answer {
        let answer = match call {
            Call::Status => group.status().map(|status| Answer::Value(flags(status).to_owned())).map_err(|e| e.errno()),
            Call::SetContainer { container } => match self.named(container) {
                Ok(File::Container(container)) => done(group.set_container(container).map_err(|e| e.errno())),
                Ok(File::Iommufd(context)) => done(group.set_iommufd(context).map_err(|e| e.errno())),
                // What the group is asked for is looked at first.
                Ok(_) => Err(match group.status() {
                    Err(gone) => gone.errno(),
                    Ok(GroupStatus::InContainer) => Errno::EINVAL,
                    Ok(GroupStatus::Viable | GroupStatus::NotViable) => Errno::EBADFD,
                }),
                Err(answer) => return answer,
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

    fn call_device(device: &OpenDevice, call: &Call) -> Answer {
        match call {
            Call::DeviceInfo => {
                let info = device.info();
                let kind = if info.kind == DeviceKind::Pci { 2 } else { 0 };
                let flags = kind | u32::from(info.resettable);
                Answer::Value(format!("flags {flags:#x} regions {} irqs {}", info.regions, info.irqs))
            }
            Call::Reset => done(device.reset().map_err(ResetError::errno)).unwrap_or_else(Answer::Errno),
            _ => NOT_A_CALL,
        }
    }

    fn call_device_file(&self, file: &DeviceFile, call: &Call) -> Answer {
        let answer = match call {
            Call::DeviceInfo | Call::Reset => {
                file.bound().map(|device| Self::call_device(&device, call)).map_err(|error| error.errno())
            }
            Call::Attach { to } => match (self.names.get(to), file.bound()) {
                (Some(Name::Object(_, id)), Ok(device)) => {
                    done(device.attach_iommufd_pt(*id).map(drop).map_err(|error| error.errno()))
                }
                (Some(Name::Object(..)), Err(error)) => Err(error.errno()),
                _ => Err(Errno::EBADF),
            },
            Call::Detach => done(file.bound().map(|device| device.detach_iommufd_pt()).map_err(|error| error.errno())),
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
                IommuType::Type1 => done(context.compat_set_iommu(Extension::TYPE1).map_err(|e| e.errno())),
                IommuType::Type1v2 => done(context.compat_set_iommu(Extension::TYPE1_V2).map_err(|e| e.errno())),
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
        let request = MapRequest { iova: Iova::new(iova), bytes, process, addr, access: Access::ReadWrite };
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
            Call::CopyFrom { source, from, bytes, to } => match self.names.get(source) {
                Some(Name::Object(_, source)) => {
                    let (from, place) = (Iova::new(*from), Place::Fixed(Iova::new(*to)));
                    let request = CopyRequest { from, bytes: *bytes, place, access: Access::ReadWrite };
                    done(context.ioas_copy(id, *source, request).map(drop).map_err(|error| error.errno()))
                }
                _ => Err(Errno::EBADF),
            },
            Call::Ranges => context.ioas_iova_ranges(id).map_err(NoObjectError::errno).map(|ranges| {
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
        let request = MapRequest { iova: place, bytes, process: self.process.clone(), addr, access: Access::ReadWrite };
        context.ioas_map(id, request).map_err(|error| error.errno())
    }

    fn map(&self, container: &Container, iova: u64, bytes: u64, offset: u64) -> Result<(), Errno> {
        let addr = self.buffer.checked_add(offset).ok_or(Errno::EINVAL)?;
        let request =
            MapRequest { iova: Iova::new(iova), bytes, process: self.process.clone(), addr, access: Access::ReadWrite };
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
            MachineStep::Type { device } => value(machine.group(device).map(|group| {
                group.default_domain_type().map_or("unknown", |kind| kind.domain_kind().name()).to_owned()
            })),
            MachineStep::Unbind { device } => self.start(machine.unbind(device)),
            MachineStep::Remove { device } => self.start(machine.remove(device)),
            MachineStep::Rescan => {
                machine.rescan();
                Answer::Ok
            }
            MachineStep::Wait => match self.waiting.pop_front() {
                Some(unbind) => self.advance(unbind, Queue::Front),
                None => Answer::Errno(Errno::ESRCH),
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

fn unmapped_from_ioas(result: Result<u64, UnmapError>) -> Result<Answer, Errno> {
    result.map(|bytes| Answer::Value(format!("{bytes:#x}"))).map_err(|error| error.errno())
}

fn bytes_or_errno(result: Result<u64, CompatError>) -> Result<Answer, Errno> {
    result.map(|bytes| Answer::Value(format!("{bytes:#x}"))).map_err(|error| error.errno())
}
