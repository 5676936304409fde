//! The groups of a machine, and who has each.

use std::fmt;

use serde::Serialize;
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::SysfsGroup;
use vfio_owner::viability::Standing;

use super::explanation::{direct_region, held, standings};
use super::naming::{class_name, device_name};
use super::reason::Reason;
use crate::Host;
use crate::read::Holder;
use crate::read::Purpose;

/// A group, or what is in none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct GroupEntry {
    /// Its number; `None` for the devices that are in no group.
    pub group: Option<u32>,
    /// What its devices are attached to: the word of sysfs, as far as it is shown.
    pub domain: Option<String>,
    /// Who has it.
    #[serde(flatten)]
    pub possession: Possession,
    /// Its devices.
    pub devices: Vec<DeviceEntry>,
}

/// A device of a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DeviceEntry {
    /// The device.
    pub device: PciAddress,
    /// What kind of device it is.
    pub class: String,
    /// Its maker and name.
    pub name: String,
    /// The driver that it is on.
    pub driver: Option<String>,
    /// What the machine has it for, as far as that is known.
    pub purposes: Vec<Purpose>,
}

/// Who has a group, or can have it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "possession", rename_all = "kebab-case")]
pub enum Possession {
    /// Nobody; user space can have it.
    Free,
    /// Kernel drivers.
    Kernel {
        /// The drivers, each once.
        drivers: Vec<String>,
    },
    /// User space.
    UserSpace {
        /// Who.
        holder: Holder,
    },
    /// User space, but no process that is shown.
    UserSpaceUnseen,
    /// User space or nobody: it is not shown.
    PerhapsUserSpace,
    /// Nobody can have it but the kernel: firmware needs its devices to reach a range at all times.
    Blocked {
        /// The first address of the range.
        first: String,
        /// The last.
        last: String,
    },
    /// It cannot be told: these drivers are not known, or are not shown.
    Unknown {
        /// The drivers.
        drivers: Vec<String>,
    },
    /// No IOMMU serves these devices; user space cannot have them.
    NoIommu,
}

impl fmt::Display for Possession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free => f.write_str("free"),
            Self::Kernel { drivers } => write!(f, "used by {}", drivers.join(", ")),
            Self::UserSpace { holder } => write!(f, "held by {holder}"),
            Self::UserSpaceUnseen => f.write_str("held by a process that is not shown"),
            Self::PerhapsUserSpace => f.write_str("free or held by user space: not shown"),
            Self::Blocked { first, last } => write!(f, "blocked: firmware needs {first} to {last}"),
            Self::Unknown { drivers } if drivers.is_empty() => f.write_str("unknown: drivers are not shown"),
            Self::Unknown { drivers } => write!(f, "unknown: {} may do DMA for the kernel", drivers.join(", ")),
            Self::NoIommu => f.write_str("no IOMMU"),
        }
    }
}

/// Every group by number, then the devices that are in none.
pub fn overview(host: &Host) -> Vec<GroupEntry> {
    let mut groups: Vec<GroupEntry> = host
        .pci
        .groups
        .iter()
        .filter(|group| !group.members.is_empty())
        .map(|group| GroupEntry {
            group: Some(group.number),
            domain: group.domain.map(|domain| domain.to_string()),
            possession: possession(host, group),
            devices: group.members.iter().filter_map(|member| entry(host, *member)).collect(),
        })
        .collect();
    let alone = host.pci.devices.iter().filter(|device| device.group.is_none());
    let devices: Vec<DeviceEntry> = alone.filter_map(|device| entry(host, device.function.address)).collect();
    if !devices.is_empty() {
        groups.push(GroupEntry { group: None, domain: None, possession: Possession::NoIommu, devices });
    }
    groups
}

fn entry(host: &Host, address: PciAddress) -> Option<DeviceEntry> {
    let device = host.pci.device(address)?;
    Some(DeviceEntry {
        device: address,
        class: class_name(&device.function.config),
        name: device_name(&device.function.config),
        driver: device.driver.clone(),
        purposes: host.purposes(address).cloned().collect(),
    })
}

fn possession(host: &Host, group: &SysfsGroup) -> Possession {
    if let Some(region) = direct_region(group) {
        let [first, last] = [region.first, region.last].map(|iova| iova.to_string());
        return Possession::Blocked { first, last };
    }
    let held = held(host, Some(group.number), &group.members);
    if let Some(Reason::Held { holder }) = held {
        return Possession::UserSpace { holder };
    }
    if held == Some(Reason::HeldUnseen) {
        return Possession::UserSpaceUnseen;
    }
    let mut using: Vec<String> = Vec::new();
    let mut doubtful: Vec<String> = Vec::new();
    let mut not_shown = false;
    for member in standings(host, group.number) {
        let (list, driver) = match member.standing {
            Standing::KernelUse { driver } => (&mut using, driver),
            Standing::UnknownDriver { driver } => (&mut doubtful, driver),
            Standing::DriverNotShown => {
                not_shown = true;
                continue;
            }
            _ => continue,
        };
        if !list.iter().any(|known| **known == *driver) {
            list.push((*driver).into());
        }
    }
    if !using.is_empty() {
        Possession::Kernel { drivers: using }
    } else if !doubtful.is_empty() || not_shown {
        Possession::Unknown { drivers: doubtful }
    } else if held.is_some() {
        Possession::PerhapsUserSpace
    } else {
        Possession::Free
    }
}
