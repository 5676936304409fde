//! Files of sysfs.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::GroupId;
use iommu_core::device_model::{Device, DeviceId, DriverHandle};

use super::super::machine::{Machine, MachineError, Pci};
use super::Shared;
use super::error::AttributeError;
use super::later::Task;
use super::settings::Switch;
use super::{device_text, dynamic_id};

/// A page: what a text file has at most, and its nominal size.
pub(super) const PAGE: usize = 4096;

/// A file of sysfs. What it contains is read from the machine when it is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attribute {
    owner: Owner,
    content: Content,
}

/// What an attribute belongs to. When that is gone, reads and writes of open files fail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    Machine,
    Device { name: Arc<str>, id: DeviceId },
    Driver(Arc<str>),
    Group(GroupId),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Content {
    /// What never changes while the file is there.
    Text(Arc<str>),
    /// What udev is told.
    Uevent(Arc<str>),
    /// There is nothing to read.
    Command(Command),
    // Of a device.
    DeviceUevent,
    Config(u64),
    Resource {
        bytes: u64,
    },
    DriverOverride,
    Enable,
    Switch(Switch),
    NumaNode,
    PowerState,
    RuntimeStatus,
    VirtualFunctions,
    ResetMethod,
    // Of the bus.
    DriversAutoprobe,
    // Of debugfs: whatever is set, every fault point counts.
    FaultSetting {
        file: &'static str,
        initial: &'static str,
    },
    // Of a group.
    Type,
    ReservedRegions,
}

/// What a write to a file does that can only be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Command {
    // Of the bus, and of a device.
    Rescan,
    // Of a device.
    Remove,
    Reset,
    // Of a driver.
    Bind,
    Unbind,
    NewId,
    RemoveId,
    // Of the bus.
    DriversProbe,
    /// Tells udev of a bus or a driver, of which nothing can be read.
    Uevent,
}

impl Attribute {
    pub(super) const fn new(owner: Owner, content: Content) -> Self {
        Self { owner, content }
    }

    /// Returns the permissions, nine bits. The owner is root.
    pub fn mode(&self) -> u16 {
        match &self.content {
            Content::Text(_) | Content::PowerState | Content::RuntimeStatus | Content::ReservedRegions => 0o444,
            Content::Uevent(_)
            | Content::DeviceUevent
            | Content::Config(_)
            | Content::DriverOverride
            | Content::Enable
            | Content::Switch(_)
            | Content::NumaNode
            | Content::VirtualFunctions
            | Content::ResetMethod
            | Content::DriversAutoprobe
            | Content::Type => 0o644,
            Content::Resource { .. } | Content::FaultSetting { .. } => 0o600,
            Content::Command(_) => 0o200,
        }
    }

    /// Returns the size that `stat` gives, which for a text is a page, whatever there is to read.
    pub fn size(&self) -> u64 {
        match self.content {
            Content::Config(bytes) | Content::Resource { bytes } => bytes,
            // A page fits.
            _ => PAGE as u64,
        }
    }

    /// Returns whether it is read and written by offset. A text is written as a whole, whatever the offset.
    pub fn is_binary(&self) -> bool {
        matches!(self.content, Content::Config(_) | Content::Resource { .. })
    }

    pub(super) fn content(&self) -> &Content {
        &self.content
    }

    /// What it contains now.
    pub(super) fn read(&self, vfs: &Shared) -> Result<Vec<u8>, AttributeError> {
        let machine = &*vfs.machine;
        let device = || self.owner.device(machine);
        let text = match &self.content {
            Content::Text(text) | Content::Uevent(text) => {
                self.owner.check(machine)?;
                text.to_string()
            }
            Content::DeviceUevent => device_text::uevent(&*device()?),
            Content::Config(_) => return Ok(vfs.machine.settings.config(&*device()?)),
            Content::DriverOverride => device_text::driver_override(&*device()?),
            Content::Enable => {
                let dev = device()?;
                let enabled =
                    vfs.machine.settings.is_on(&dev, Switch::Enabled) || device_text::is_enabled(machine, &*dev);
                format!("{}\n", u8::from(enabled))
            }
            Content::Switch(switch) => switch.text(vfs.machine.settings.is_on(&*device()?, *switch)).into(),
            Content::NumaNode => {
                self.owner.check(machine)?;
                "-1\n".into()
            }
            Content::PowerState => device_text::power_state(machine, &*device()?).to_string(),
            Content::RuntimeStatus => device_text::runtime_status(machine, &*device()?).to_string(),
            Content::VirtualFunctions => {
                format!("{}\n", machine.virtual_functions(device()?.name()).len())
            }
            Content::FaultSetting { file, initial } => {
                vfs.machine.settings.fault_setting(file).unwrap_or_else(|| (*initial).into())
            }
            Content::ResetMethod => device_text::reset_method(&*device()?),
            Content::DriversAutoprobe => format!("{}\n", u8::from(machine.pci().drivers_autoprobe())),
            Content::Type => {
                let kind = self.owner.group(machine)?.default_domain_type();
                format!("{}\n", kind.map_or("unknown", |kind| kind.domain_kind().name()))
            }
            Content::ReservedRegions => {
                let regions = self.owner.group(machine)?.reserved_regions();
                regions.iter().fold(String::new(), |text, region| text + &format!("{region}\n"))
            }
            Content::Resource { .. } | Content::Command(_) => return Err(AttributeError::NotReadable),
        };
        Ok(text.into_bytes())
    }

    /// Takes what was written by one call.
    pub(super) fn write(&self, vfs: &Shared, offset: u64, bytes: &[u8]) -> Result<Task, AttributeError> {
        let machine = &*vfs.machine;
        let text = text_of(bytes);
        match &self.content {
            Content::Command(command) => return command.run(machine, &self.owner, &text),
            Content::VirtualFunctions => {
                let dev = self.owner.device(machine)?;
                // What does not fit is more than there can be.
                let count = number(&text)?.try_into().unwrap_or(u16::MAX);
                return Ok(Task::Removals(machine.set_virtual_functions(dev.name(), count)?.into()));
            }
            Content::DriversAutoprobe => machine.pci().set_drivers_autoprobe(!text.starts_with('0')),
            Content::DriverOverride => self.owner.device(machine)?.write_driver_override(&text)?,
            Content::Type => {
                let group = self.owner.group(machine)?;
                let request = text.parse().map_err(MachineError::UnknownType)?;
                machine.iommu().set_default_domain_type(&group, request).map_err(MachineError::SetType)?;
            }
            Content::Enable => {
                let dev = self.owner.device(machine)?;
                let on = device_text::enable(vfs, &dev, &text)?;
                vfs.machine.settings.set(&vfs.machine, dev.id(), Switch::Enabled, on);
            }
            Content::Switch(switch) => {
                let dev = self.owner.device(machine)?;
                vfs.machine.settings.set(&vfs.machine, dev.id(), *switch, switch.parse(&text)?);
            }
            Content::NumaNode => {
                self.owner.check(machine)?;
                if name_in(&text) != "-1" {
                    return Err(AttributeError::Malformed { text, expected: "a node of the machine, which has none" });
                }
            }
            Content::FaultSetting { file, initial } => vfs.machine.settings.set_fault_setting(file, initial, &text),
            Content::ResetMethod => device_text::set_reset_method(&*self.owner.device(machine)?, &text)?,
            Content::Uevent(_) | Content::DeviceUevent => {
                self.owner.check(machine)?;
                check_action(&text)?;
            }
            Content::Config(_) => {
                vfs.machine.settings.write_config(&vfs.machine, &*self.owner.device(machine)?, offset, bytes);
            }
            Content::Text(_)
            | Content::PowerState
            | Content::RuntimeStatus
            | Content::ReservedRegions
            | Content::Resource { .. } => return Err(AttributeError::NotWritable),
        }
        Ok(Task::Done)
    }
}

impl Command {
    fn run(self, machine: &Machine, owner: &Owner, text: &str) -> Result<Task, AttributeError> {
        match self {
            Self::Bind => return Task::bind(machine, owner.driver(machine)?, name_in(text)),
            Self::Unbind => return Task::unbind(machine, &owner.driver(machine)?, name_in(text)),
            Self::Remove => {
                let dev = owner.device(machine)?;
                return Ok(if is_set(text)? { Task::Unbind(dev.remove()) } else { Task::Done });
            }
            Self::Rescan => {
                owner.check(machine)?;
                if is_set(text)? {
                    machine.rescan();
                }
            }
            Self::Reset => device_text::reset(machine, &*owner.device(machine)?, text)?,
            Self::NewId => dynamic_id::add(machine, &owner.driver(machine)?, text)?,
            Self::RemoveId => dynamic_id::remove(machine, &owner.driver(machine)?, text)?,
            Self::DriversProbe => machine.probe(name_in(text))?,
            Self::Uevent => {
                owner.check(machine)?;
                check_action(text)?;
            }
        }
        Ok(Task::Done)
    }
}

impl Owner {
    fn gone(&self) -> AttributeError {
        AttributeError::Gone {
            owner: match self {
                Self::Machine => "machine".into(),
                Self::Device { name, .. } | Self::Driver(name) => name.to_string(),
                Self::Group(group) => format!("group {group}"),
            },
        }
    }

    fn check(&self, machine: &Machine) -> Result<(), AttributeError> {
        match self {
            Self::Machine => Ok(()),
            Self::Device { .. } => self.device(machine).map(drop),
            Self::Driver(_) => self.driver(machine).map(drop),
            Self::Group(_) => self.group(machine).map(drop),
        }
    }

    fn device(&self, machine: &Machine) -> Result<Arc<Device<Pci>>, AttributeError> {
        match self {
            Self::Device { name, id } => machine.pci().device(name).filter(|dev| dev.id() == *id),
            _ => None,
        }
        .ok_or_else(|| self.gone())
    }

    fn driver(&self, machine: &Machine) -> Result<DriverHandle<Pci>, AttributeError> {
        match self {
            Self::Driver(name) => machine.pci().driver(name),
            _ => None,
        }
        .ok_or_else(|| self.gone())
    }

    fn group(&self, machine: &Machine) -> Result<Arc<iommu_core::Group>, AttributeError> {
        match self {
            Self::Group(id) => machine.iommu().group(*id),
            _ => None,
        }
        .ok_or_else(|| self.gone())
    }
}

/// What the kernel takes as the text: up to the first zero byte.
fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// The name of a device: one newline behind it does not count.
// 1.8.
fn name_in(text: &str) -> &str {
    text.strip_suffix('\n').unwrap_or(text)
}

/// A whole number, decimal, octal or hexadecimal as in C, with one newline behind it at most.
pub(super) fn number(text: &str) -> Result<u64, AttributeError> {
    let malformed = || AttributeError::Malformed { text: text.into(), expected: "a number" };
    let digits = name_in(text);
    let digits = digits.strip_prefix('+').unwrap_or(digits);
    let (digits, radix) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(rest) => (rest, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (digits, 8),
        None => (digits, 10),
    };
    if !digits.starts_with(|first: char| first.is_ascii_hexdigit()) {
        return Err(malformed());
    }
    u64::from_str_radix(digits, radix).map_err(|_| malformed())
}

pub(super) fn is_set(text: &str) -> Result<bool, AttributeError> {
    number(text).map(|number| number != 0)
}

/// The first word of what is written to `uevent`.
fn check_action(text: &str) -> Result<(), AttributeError> {
    const ACTIONS: [&str; 8] = ["add", "remove", "change", "move", "online", "offline", "bind", "unbind"];
    let action = text.split([' ', '\n']).next().unwrap_or_default();
    if ACTIONS.contains(&action) {
        return Ok(());
    }
    Err(AttributeError::Malformed { text: text.into(), expected: "an action" })
}
