//! Plays steps on a system.

mod address_space;
mod device;
mod iommufd;
mod names;
mod structure;
mod sysfs;

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::time::Duration;

use nix::errno::Errno;

use crate::language::{Action, Call, Field, Handle, Open, ProcessStep, Step};
use crate::system::{Access, Fd, System};
use names::{Name, Names};
use structure::{Called, Structure};

/// How long a step in the background may take before it counts as waiting for a user.
const PATIENCE: Duration = Duration::from_millis(400);

/// The calls of VFIO and iommufd: `_IO(';', number)`.
const CALL_TYPE: u32 = (b';' as u32) << 8;

mod number {
    pub(super) const CHECK_EXTENSION: u8 = 101;
    pub(super) const SET_IOMMU: u8 = 102;
    pub(super) const GROUP_GET_STATUS: u8 = 103;
    pub(super) const GROUP_SET_CONTAINER: u8 = 104;
    pub(super) const GROUP_UNSET_CONTAINER: u8 = 105;
    pub(super) const GROUP_GET_DEVICE_FD: u8 = 106;
}

/// An answer, printed in the recorded form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It succeeded.
    Ok,
    /// It succeeded with this value.
    Value(String),
    /// It waits for a user.
    Blocked,
    /// It failed.
    Errno(Errno),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Value(value) => write!(f, "ok {value}"),
            Self::Blocked => f.write_str("blocked"),
            Self::Errno(errno) => write!(f, "{errno:?}"),
        }
    }
}

impl From<Errno> for Answer {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Result<(), Errno>> for Answer {
    fn from(result: Result<(), Errno>) -> Self {
        result.map_or_else(Self::Errno, |()| Self::Ok)
    }
}

/// A step that was played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    /// The answer.
    pub answer: Answer,
    /// Who gave it.
    pub by: By,
}

/// Who answered a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The system.
    System,
    /// The player: a handle does not exist, or the step is the player's own.
    Player,
}

/// The answer of a step that ends early, or what goes on.
type Or<T> = Result<T, Answer>;

/// A system, and what a scenario has open on it.
#[derive(Debug)]
pub struct Player<S: System> {
    /// Before the system: children go first.
    names: Names<S::Child>,
    system: S,
    /// Background steps that have not answered, the oldest first.
    waiting: VecDeque<S::Write>,
    /// How many calls the system has answered.
    calls: u64,
}

impl<S: System> Player<S> {
    /// Creates a player on a system as it is after boot.
    pub fn new(system: S) -> Self {
        Self { names: Names::default(), system, waiting: VecDeque::new(), calls: 0 }
    }

    /// Plays one step.
    pub fn play(&mut self, step: &Step) -> Played {
        let before = self.calls;
        let played = match &step.action {
            Action::Machine(machine) => self.play_machine(machine, step.run),
            Action::Process(process) => self.play_process(process),
            Action::Open(handle, what) => self.play_open(handle, what),
            Action::Call(handle, call) => self.play_call(handle, call),
            Action::Close(handle) => self.close(handle),
            Action::Wait => self.wait(),
        };
        let by = if self.calls > before { By::System } else { By::Player };
        Played { answer: played.unwrap_or_else(|answer| answer), by }
    }

    fn play_process(&mut self, step: &ProcessStep) -> Or<Answer> {
        let answer = match step {
            ProcessStep::Memory { kind, offset, bytes } => {
                let at = self.address(*offset);
                self.system.change_memory(*kind, at, *bytes)
            }
            ProcessStep::IpcLock { held } => self.system.set_ipc_lock(*held),
            ProcessStep::Memlock(bytes) => self.system.set_memlock(*bytes),
            ProcessStep::Locked => {
                let (locked, pinned) = self.system.locked()?;
                return Ok(Answer::Value(format!("locked {locked} pinned {pinned}")));
            }
            ProcessStep::Kill(handle) => match self.names.take_child(handle) {
                Some(child) => self.system.kill(child),
                None => Err(Errno::EBADF),
            },
        };
        Ok(answer.into())
    }

    fn play_open(&mut self, handle: &Handle, what: &Open) -> Or<Answer> {
        let name = match what {
            Open::Container => Name::File(self.open("/dev/vfio/vfio")?),
            Open::Iommufd => Name::File(self.open("/dev/iommu")?),
            Open::Event => Name::File(self.system.eventfd()?),
            Open::Fork => Name::Child(self.system.fork()?),
            Open::Group { device } => Name::File(self.open_group(device)?),
            Open::DeviceFile { device } => Name::File(self.open_device_file(device)?),
            Open::Dup { file } => {
                let fd = self.names.file(file)?;
                Name::File(self.system.dup(fd)?)
            }
            Open::DeviceOfGroup { group, device } => {
                let fd = self.names.file(group)?;
                Name::File(self.device_of_group(fd, device)?)
            }
            Open::Ioas { iommufd } => self.ioas_alloc(iommufd)?,
            Open::FaultQueue { iommufd, flags } => self.fault_queue_alloc(iommufd, *flags)?,
            Open::PageTable { bound, parent, flags, data, fault } => {
                self.hwpt_alloc(bound, parent, *flags, *data, fault.as_ref())?
            }
        };
        self.names.give(handle, name);
        Ok(Answer::Ok)
    }

    fn open(&mut self, path: &str) -> Or<Fd> {
        self.calls += 1;
        Ok(self.system.open(path, Access::ReadWrite)?)
    }

    fn device_of_group(&mut self, group: Fd, device: &str) -> Or<Fd> {
        let mut name = Structure::default();
        name.bytes(device.as_bytes());
        let fd = self.call(group, number::GROUP_GET_DEVICE_FD, &name).result?;
        Fd::try_from(fd).map_err(|_| Errno::EBADF.into())
    }

    fn close(&mut self, handle: &Handle) -> Or<Answer> {
        let file = self.names.file(handle);
        self.names.take(handle);
        let file = file?;
        self.calls += 1;
        Ok(self.system.close(file).into())
    }

    /// The oldest background step again.
    fn wait(&mut self) -> Or<Answer> {
        let Some(mut write) = self.waiting.pop_front() else { return Err(Errno::ESRCH.into()) };
        self.calls += 1;
        if let Some(result) = self.system.ended(&mut write, PATIENCE) {
            return Ok(result.map(drop).into());
        }
        self.waiting.push_front(write);
        Ok(Answer::Blocked)
    }

    fn play_call(&mut self, handle: &Handle, call: &Call) -> Or<Answer> {
        match call {
            Call::Ioctl { number, fields } => {
                let fd = self.names.number(handle)?;
                self.raw(fd, *number, fields)
            }
            Call::IoctlNull { number } => {
                let fd = self.names.number(handle)?;
                Ok(Answer::Value(self.ioctl(fd, *number, 0)?.to_string()))
            }
            Call::Status
            | Call::SetContainer { .. }
            | Call::UnsetContainer
            | Call::CheckExtension(_)
            | Call::SetIommu(_) => self.call_group_or_container(handle, call),
            Call::Map { .. }
            | Call::MapVaddr { .. }
            | Call::Unmap { .. }
            | Call::UnmapAll
            | Call::UnmapVaddr { .. }
            | Call::UnmapDirty { .. }
            | Call::IommuInfo
            | Call::Dirty(_) => {
                if let Some((iommufd, id)) = self.names.object(handle) {
                    return self.call_object(handle, iommufd, id, call);
                }
                let fd = self.names.file(handle)?;
                self.call_address_space(fd, call)
            }
            Call::MapAny { .. }
            | Call::CopyFrom { .. }
            | Call::Ranges(_)
            | Call::Allow(_)
            | Call::HugePages(_)
            | Call::Invalidate { .. }
            | Call::HwInfo { .. }
            | Call::Destroy => {
                let (iommufd, id) = self.names.object(handle).ok_or(Errno::EBADF)?;
                self.call_object(handle, iommufd, id, call)
            }
            Call::RlimitMode(_) | Call::VfioIoas(_) => {
                let fd = self.names.file(handle)?;
                self.call_iommufd(fd, call)
            }
            _ => {
                let fd = self.names.file(handle)?;
                self.call_device(handle, fd, call)
            }
        }
    }

    fn call_group_or_container(&mut self, handle: &Handle, call: &Call) -> Or<Answer> {
        let fd = self.names.file(handle)?;
        Ok(match call {
            Call::Status => {
                let mut status = Structure::default();
                status.word(8).word(0);
                let flags = self.call(fd, number::GROUP_GET_STATUS, &status).done()?.word_at(1);
                let names = [(1, "viable"), (2, "container-set")];
                let set: Vec<_> = names.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name).collect();
                Answer::Value(if set.is_empty() { "none".to_owned() } else { set.join(",") })
            }
            Call::SetContainer { container } => {
                let container = self.names.file(container)?;
                let mut file = Structure::default();
                file.file(container);
                return self.succeed(fd, number::GROUP_SET_CONTAINER, &file);
            }
            Call::UnsetContainer => self.ioctl(fd, number::GROUP_UNSET_CONTAINER, 0).map(drop).into(),
            Call::CheckExtension(kind) => {
                Answer::Value(self.ioctl(fd, number::CHECK_EXTENSION, u64::from(*kind))?.to_string())
            }
            Call::SetIommu(kind) => self.ioctl(fd, number::SET_IOMMU, u64::from(*kind)).map(drop).into(),
            _ => Answer::Errno(Errno::ENOTTY),
        })
    }

    /// A call by its fields: what it returns, and the words of its structure that changed.
    fn raw(&mut self, fd: Fd, number: u8, fields: &[Field]) -> Or<Answer> {
        let mut structure = Structure::default();
        for field in fields {
            match field {
                Field::Word(word) => structure.word(*word),
                Field::Quad(quad) => structure.quad(*quad),
                Field::Address(offset) => structure.quad(self.address(*offset)),
                Field::Id(object) => structure.word(self.names.object(object).ok_or(Errno::EBADF)?.1),
                Field::File(file) => structure.file(self.names.file(file)?),
            };
        }
        let Called { result, after } = self.call(fd, number, &structure);
        let mut answer = result?.to_string();
        for (place, word) in structure.changed(&after) {
            let _ = write!(answer, " [{place}]={word:#x}");
        }
        Ok(Answer::Value(answer))
    }

    /// The address of a place in the buffer.
    fn address(&self, offset: u64) -> u64 {
        self.system.buffer().wrapping_add(offset)
    }

    /// Makes a call with a structure.
    fn call(&mut self, fd: Fd, number: u8, structure: &Structure) -> Called {
        let at = self.system.scratch();
        self.system.poke(at, &structure.padded());
        let result = self.ioctl(fd, number, at);
        let mut after = structure.padded();
        self.system.peek(at, &mut after);
        Called { result, after: after.into() }
    }

    /// Makes a call that says no more than that it succeeded.
    fn succeed(&mut self, fd: Fd, number: u8, structure: &Structure) -> Or<Answer> {
        self.call(fd, number, structure).result?;
        Ok(Answer::Ok)
    }

    /// Makes a call, its argument as it is.
    fn ioctl(&mut self, fd: Fd, number: u8, argument: u64) -> Result<u32, Errno> {
        self.calls += 1;
        self.system.ioctl(fd, CALL_TYPE | u32::from(number), argument)
    }

    /// The address of what a structure points to, filled with `bytes`.
    fn pointee(&mut self, bytes: &[u8]) -> u64 {
        let at = self.system.scratch() + structure::POINTEES;
        self.system.poke(at, bytes);
        at
    }

    /// What a structure points to.
    fn pointed_to(&self, bytes: usize) -> Vec<u8> {
        let mut into = vec![0; bytes];
        self.system.peek(self.system.scratch() + structure::POINTEES, &mut into);
        into
    }
}
