//! What a step does: each word read into its type.

use std::fmt;

use anyhow::{Result, bail};

use super::call::Call;
use super::form::meant;
use super::number::{number, word};

/// What a step does.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// To the machine, through sysfs.
    Machine(MachineStep),
    /// To the process that plays, by itself.
    Process(ProcessStep),
    /// Opens something, which the handle then names.
    Open(Handle, Open),
    /// Calls what a handle names.
    Call(Handle, Call),
    /// Closes what a handle names.
    Close(Handle),
    /// Lets the oldest background step go on.
    Wait,
}

/// The name that a file gives to something: an open file, an object, a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handle(String);

/// What is done to the machine through sysfs.
#[derive(Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the words of the step")]
pub enum MachineStep {
    /// Writes `driver_override`, `bind`, and `driver_override` again.
    Bind { device: String, driver: String },
    /// Writes `unbind`.
    Unbind { device: String },
    /// Writes `drivers_probe`.
    Probe { device: String },
    /// Reads the `driver` link.
    Driver { device: String },
    /// Lists the members of the group.
    Group { device: String },
    /// Reads `type`.
    Type { device: String },
    /// Writes `type`.
    SetType { device: String, kind: String },
    /// Reads `reserved_regions`.
    Reserved { device: String },
    /// Lists the devices of the bus.
    Devices,
    /// Writes `remove`.
    Remove { device: String },
    /// Writes `rescan`.
    Rescan,
    /// Writes `sriov_numvfs`.
    Sriov { device: String, count: String },
}

/// What is done to the process that plays.
#[derive(Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the words of the step")]
pub enum ProcessStep {
    /// Changes what stands at a place of the buffer.
    Memory { kind: MemoryKind, offset: u64, bytes: u64 },
    /// Takes or gives back `CAP_IPC_LOCK`.
    IpcLock { held: bool },
    /// Sets `RLIMIT_MEMLOCK`, in bytes; `None` for no limit.
    Memlock(Option<u64>),
    /// Reads how many pages are locked and pinned.
    Locked,
    /// Ends a child.
    Kill(Handle),
}

/// What can stand at a place of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryKind {
    /// What is there, only to be read.
    ReadOnly,
    /// What is there, not to be touched.
    NoAccess,
    /// What is there, to be read and written.
    ReadWrite,
    /// Nothing.
    Hole,
    /// New private anonymous memory.
    Fresh,
    /// New shared anonymous memory.
    Shared,
    /// A private mapping of a file, only to be read.
    FileReadOnly,
}

/// What a handle can be opened on.
#[derive(Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the words of the step")]
pub enum Open {
    Container,
    Iommufd,
    /// An eventfd.
    Event,
    /// A child that keeps everything open.
    Fork,
    Group {
        device: String,
    },
    DeviceFile {
        device: String,
    },
    /// A second descriptor of the same open file.
    Dup {
        file: Handle,
    },
    DeviceOfGroup {
        group: Handle,
        device: String,
    },
    Ioas {
        iommufd: Handle,
    },
    FaultQueue {
        iommufd: Handle,
        flags: u32,
    },
    PageTable {
        bound: Handle,
        parent: Handle,
        flags: u32,
        /// The type of the data, and how many bytes of it.
        data: (u32, u32),
        fault: Option<Handle>,
    },
}

impl Handle {
    /// Returns the handle of the id that an iommufd gave to the device that this one names.
    #[must_use]
    pub fn dev(&self) -> Self {
        Self(format!("{}.dev", self.0))
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Action {
    /// Reads the words of a step, without `&`.
    pub(super) fn parse(words: &[&str]) -> Result<Self> {
        let read = match words {
            [name, "=", rest @ ..] => Open::parse(rest)?.map(|open| Self::Open(handle(name), open)),
            ["wait"] => Some(Self::Wait),
            ["close", name] => Some(Self::Close(handle(name))),
            _ => match (MachineStep::parse(words), ProcessStep::parse(words)?) {
                (Some(step), _) => Some(Self::Machine(step)),
                (None, Some(step)) => Some(Self::Process(step)),
                (None, None) => match words {
                    [name, call @ ..] => Call::parse(call)?.map(|call| Self::Call(handle(name), call)),
                    [] => None,
                },
            },
        };
        match (read, meant(words)) {
            (Some(action), _) => Ok(action),
            (None, Some(form)) => bail!("not a step: `{}`; this one is `{form}`", words.join(" ")),
            (None, None) => bail!("not a step: `{}`", words.join(" ")),
        }
    }
}

impl MachineStep {
    fn parse(words: &[&str]) -> Option<Self> {
        let text = |word: &&str| (*word).to_owned();
        Some(match words {
            ["bind", device, driver] => Self::Bind { device: text(device), driver: text(driver) },
            ["unbind", device] => Self::Unbind { device: text(device) },
            ["probe", device] => Self::Probe { device: text(device) },
            ["driver", device] => Self::Driver { device: text(device) },
            ["group", device] => Self::Group { device: text(device) },
            ["type", device] => Self::Type { device: text(device) },
            ["set-type", device, kind] => Self::SetType { device: text(device), kind: text(kind) },
            ["reserved", device] => Self::Reserved { device: text(device) },
            ["devices"] => Self::Devices,
            ["remove", device] => Self::Remove { device: text(device) },
            ["rescan"] => Self::Rescan,
            ["sriov", device, count] => Self::Sriov { device: text(device), count: text(count) },
            _ => return None,
        })
    }
}

impl ProcessStep {
    fn parse(words: &[&str]) -> Result<Option<Self>> {
        Ok(Some(match words {
            ["mem", kind, offset, bytes] => {
                Self::Memory { kind: MemoryKind::parse(kind)?, offset: number(offset)?, bytes: number(bytes)? }
            }
            ["ipc-lock", "on"] => Self::IpcLock { held: true },
            ["ipc-lock", "off"] => Self::IpcLock { held: false },
            ["memlock", "none"] => Self::Memlock(None),
            ["memlock", bytes] => Self::Memlock(Some(number(bytes)?)),
            ["locked"] => Self::Locked,
            ["kill", child] => Self::Kill(handle(child)),
            _ => return Ok(None),
        }))
    }
}

impl MemoryKind {
    fn parse(word: &str) -> Result<Self> {
        Ok(match word {
            "ro" => Self::ReadOnly,
            "none" => Self::NoAccess,
            "rw" => Self::ReadWrite,
            "hole" => Self::Hole,
            "fresh" => Self::Fresh,
            "shared" => Self::Shared,
            "file-ro" => Self::FileReadOnly,
            _ => bail!("not a kind of memory: `{word}` (ro, none, rw, hole, fresh, shared, file-ro)"),
        })
    }
}

impl Open {
    fn parse(words: &[&str]) -> Result<Option<Self>> {
        Ok(Some(match words {
            ["container"] => Self::Container,
            ["iommufd"] => Self::Iommufd,
            ["event"] => Self::Event,
            ["fork"] => Self::Fork,
            ["group", device] => Self::Group { device: (*device).to_owned() },
            ["cdev", device] => Self::DeviceFile { device: (*device).to_owned() },
            [file, "dup"] => Self::Dup { file: handle(file) },
            [group, "get-device", device] => Self::DeviceOfGroup { group: handle(group), device: (*device).to_owned() },
            [iommufd, "ioas-alloc"] => Self::Ioas { iommufd: handle(iommufd) },
            [iommufd, "fault-alloc"] => Self::FaultQueue { iommufd: handle(iommufd), flags: 0 },
            [iommufd, "fault-alloc", flags] => Self::FaultQueue { iommufd: handle(iommufd), flags: word(flags)? },
            [bound, "hwpt-alloc", parent, rest @ ..] => {
                let (flags, data, fault) = match rest {
                    [] => (0, (0, 0), None),
                    [flags] => (word(flags)?, (0, 0), None),
                    [flags, kind, length] => (word(flags)?, (word(kind)?, word(length)?), None),
                    [flags, kind, length, fault] => (word(flags)?, (word(kind)?, word(length)?), Some(handle(fault))),
                    _ => return Ok(None),
                };
                Self::PageTable { bound: handle(bound), parent: handle(parent), flags, data, fault }
            }
            _ => return Ok(None),
        }))
    }
}

pub(super) fn handle(word: &str) -> Handle {
    Handle(word.to_owned())
}
