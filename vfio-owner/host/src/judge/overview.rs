//! Overview of the groups of a machine, and who owns each.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::{SysfsDevice, SysfsGroup};
use vfio_owner::viability::{Standing, Verdict};

use super::explanation::Ids;
use super::naming::{Names, class_of};
use super::neighbour::{direct_region, standings};
use super::obstacle::held;
use super::reason::Reason;
use crate::read::{Holder, OtherMember, Purpose};
use crate::{Fact, Host, Source};

/// A group, or devices without a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GroupEntry {
    /// Number of the group.
    pub group: Fact<u32>,
    /// The group file, `/dev/vfio/3`.
    pub group_file: Option<String>,
    /// Type of the default domain as in sysfs, as far as shown.
    pub domain: Option<String>,
    /// Who owns the group.
    #[serde(flatten)]
    pub possession: Possession,
    /// PCI functions of the group.
    pub devices: Vec<DeviceEntry>,
    /// Other members of the group.
    pub other_members: Vec<OtherMember>,
}

/// A device of a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeviceEntry {
    /// The device.
    pub device: PciAddress,
    /// Kind of device.
    pub class: Cow<'static, str>,
    /// Vendor and name.
    pub name: Arc<str>,
    /// Vendor and device id.
    pub ids: Option<Ids>,
    /// The driver that is bound.
    pub driver: Fact<String>,
    /// Name of the device file, `vfio3`.
    pub device_file: Option<String>,
    /// NUMA node.
    pub numa_node: Option<u32>,
    /// What the host uses it for, as far as known.
    pub purposes: Vec<Purpose>,
}

/// Who owns a group, or can claim it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "possession", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Possession {
    /// No owner: user space can claim it.
    Free,
    /// No kernel driver prevents a claim; the source does not show whether user space owns it already.
    Viable,
    /// User space owns it.
    InUse {
        /// The process.
        holder: Holder,
    },
    /// User space owns it, but no process that is shown.
    InUseUnseen,
    /// Kernel drivers use it.
    Kernel {
        /// The drivers, each once.
        drivers: Vec<String>,
    },
    /// Only the kernel can use it: firmware requires a direct mapping for its devices at all times.
    Blocked {
        /// First address of the mapping, as far as shown.
        first: Option<String>,
        /// Last address.
        last: Option<String>,
    },
    /// Not known: these drivers are unknown, or drivers or devices of the group are not shown.
    Unknown {
        /// The drivers that are shown and unknown.
        drivers: Vec<String>,
    },
    /// No IOMMU serves these devices; they cannot be assigned.
    NoIommu,
    /// The groups of these devices are not shown.
    GroupNotShown,
}

impl fmt::Display for Possession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free => f.write_str("free"),
            Self::Viable => f.write_str("viable; whether it is in use is not shown"),
            Self::InUse { holder } => write!(f, "in use by {holder}"),
            Self::InUseUnseen => f.write_str("in use by a process that is not shown"),
            Self::Kernel { drivers } => write!(f, "kernel drivers: {}", drivers.join(", ")),
            Self::Blocked { first: Some(first), last: Some(last) } => {
                write!(f, "blocked: firmware needs {first} to {last}")
            }
            Self::Blocked { .. } => f.write_str("blocked: firmware needs it (RMRR), says the kernel's log"),
            Self::Unknown { drivers } if drivers.is_empty() => {
                f.write_str("unknown: not all its devices and drivers are shown")
            }
            Self::Unknown { drivers } => write!(f, "unknown: {} may do DMA for the kernel", drivers.join(", ")),
            Self::NoIommu => f.write_str("no IOMMU"),
            Self::GroupNotShown => f.write_str("not shown"),
        }
    }
}

/// Returns all groups by number, then those whose number is not shown, then the devices without a group, then those whose group is not shown.
pub fn overview(host: &Host) -> Vec<GroupEntry> {
    let mut numbers: Vec<u32> = host.pci.groups.iter().map(|group| group.number).collect();
    numbers.extend(host.other_members.iter().map(|member| member.group));
    numbers.sort_unstable();
    numbers.dedup();
    let mut names = Names::default();
    let mut groups: Vec<GroupEntry> =
        numbers.into_iter().filter_map(|number| entry_of(host, number, &mut names)).collect();
    for (group, possession) in [(Fact::Absent, Possession::NoIommu), (Fact::Unknown, Possession::GroupNotShown)] {
        let devices = host.pci.devices.iter().filter(|device| host.group_of(device) == group);
        let devices: Vec<DeviceEntry> = devices.map(|device| device_entry(host, device, &mut names)).collect();
        if !devices.is_empty() {
            let other_members = Vec::new();
            groups.push(GroupEntry { group, group_file: None, domain: None, possession, devices, other_members });
        }
    }
    groups
}

fn entry_of(host: &Host, number: u32, names: &mut Names) -> Option<GroupEntry> {
    let empty = SysfsGroup { number, ..SysfsGroup::default() };
    let group = host.pci.group(number).unwrap_or(&empty);
    let members = group.members.iter().filter_map(|member| host.pci.device(*member));
    let devices: Vec<DeviceEntry> = members.map(|device| device_entry(host, device, names)).collect();
    let other_members = host.other_members(number).to_vec();
    if devices.is_empty() && other_members.is_empty() {
        return None;
    }
    let shown = host.numbered(Fact::Is(number));
    Some(GroupEntry {
        group: shown,
        group_file: shown.known().map(|number| format!("/dev/vfio/{number}")),
        domain: group.domain.map(|domain| domain.to_string()),
        possession: possession(host, group, &other_members),
        devices,
        other_members,
    })
}

fn device_entry(host: &Host, device: &SysfsDevice, names: &mut Names) -> DeviceEntry {
    let address = device.function.address;
    let config = &device.function.config;
    let ids = config.vendor().zip(config.device()).map(|(vendor, device)| Ids { vendor, device });
    DeviceEntry {
        device: address,
        class: class_of(host, device),
        name: names.of(host, device),
        ids: ids.filter(|ids| ids.vendor != 0),
        driver: host.driver(address).map(ToOwned::to_owned),
        device_file: host.device_files.get(&address).cloned(),
        numa_node: host.numa_nodes.get(&address).copied(),
        purposes: host.purposes(address).cloned().collect(),
    }
}

fn possession(host: &Host, group: &SysfsGroup, others: &[OtherMember]) -> Possession {
    if let Some(region) = direct_region(group) {
        let [first, last] = [region.first, region.last].map(|iova| Some(iova.to_string()));
        return Possession::Blocked { first, last };
    }
    if group.members.iter().any(|member| host.refused.contains(member)) {
        return Possession::Blocked { first: None, last: None };
    }
    let held = held(host, Some(group.number), &group.members);
    if let Some(Reason::Held { holder }) = held {
        return Possession::InUse { holder };
    }
    if held == Some(Reason::HeldUnseen) {
        return Possession::InUseUnseen;
    }
    let pci = standings(host, group.number).into_iter().map(|member| member.standing);
    let standings: Vec<Standing> = pci.chain(others.iter().map(OtherMember::standing)).collect();
    let drivers = |verdict: Verdict| {
        let mut names: Vec<String> = Vec::new();
        for standing in standings.iter().filter(|standing| standing.verdict() == verdict) {
            if let Standing::KernelUse { driver } | Standing::UnknownDriver { driver } = standing
                && !names.iter().any(|known| **known == **driver)
            {
                names.push(driver.to_string());
            }
        }
        names
    };
    let worst = |verdict| standings.iter().any(|standing| standing.verdict() == verdict);
    let not_shown = host.gaps.members.contains(&group.number) || !host.gaps.doubtful_lines.is_empty();
    if worst(Verdict::NotViable) {
        Possession::Kernel { drivers: drivers(Verdict::NotViable) }
    } else if worst(Verdict::Unknown) || not_shown {
        Possession::Unknown { drivers: drivers(Verdict::Unknown) }
    } else if held.is_some() || host.source == Source::Listing {
        Possession::Viable
    } else {
        Possession::Free
    }
}
