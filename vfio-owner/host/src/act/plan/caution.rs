//! What a plan could not take into account.

use std::fmt;

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::SysfsDevice;

use super::Step;
use crate::read::{Holders, Unseen};
use crate::{Host, Source, Type1};

/// What a plan could not take into account, since its source does not show it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Caution {
    /// Devices in use by the host.
    LifelinesNotShown,
    /// Devices in use by the host; and hosts often need a device of this kind.
    PerhapsNeeded {
        /// The device.
        device: PciAddress,
        /// What it may be needed for.
        need: Need,
    },
    /// Whether a process has a device of the groups open.
    HoldersNotShown,
    /// Direct mappings that firmware requires.
    ReservedRegionsNotShown,
    /// Part of the devices in use by the host, or of the processes that have them open.
    NotSeen(Unseen),
    /// Capabilities of the devices: unprivileged users read only 64 bytes of configuration space.
    CapabilitiesNotShown,
    /// The module without which no container can be used is not loaded.
    Type1NotLoaded,
}

impl fmt::Display for Caution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSeen(unseen) => return unseen.fmt(f),
            Self::CapabilitiesNotShown => {
                "the configuration space of some devices is shown without capabilities (to root it is shown whole): why \
                 they share groups, and how they reset, is not known"
            }
            Self::Type1NotLoaded => {
                "vfio_iommu_type1 is not loaded: a container needs it (modprobe vfio_iommu_type1), iommufd does not"
            }
            Self::LifelinesNotShown => {
                "it is not shown what the machine lives on: look for disks, network and display among the devices"
            }
            Self::PerhapsNeeded { device, need } => return write!(f, "{device}: {need}"),
            Self::HoldersNotShown => "it is not shown whether user space has one of these groups open",
            Self::ReservedRegionsNotShown => "it is not shown whether firmware needs these devices",
        })
    }
}

/// What hosts often need a device of a kind for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Need {
    /// Its disks.
    Disks,
    /// Its network.
    Network,
    /// Its display.
    Display,
}

impl Need {
    /// Returns what devices of a class are needed for.
    fn of_class(class: u32) -> Option<Self> {
        match class >> 16 {
            0x01 => Some(Self::Disks),
            0x02 => Some(Self::Network),
            0x03 => Some(Self::Display),
            _ => None,
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disks => "the system's disk may be behind it: look before you unbind it",
            Self::Network => "the machine's network may go over it: look before you unbind it",
            Self::Display => "it may be the machine's display",
        })
    }
}

/// Shorter, and no capability can be in it.
const CONFIG_WITH_CAPABILITIES: usize = 256;

pub(super) fn cautions(host: &Host, steps: &[Step]) -> Vec<Caution> {
    let mut cautions = Vec::new();
    if host.lifelines.is_none() {
        cautions.push(Caution::LifelinesNotShown);
        cautions.extend(steps.iter().filter_map(|step| {
            let Step::Unbind { device, .. } = step else { return None };
            let need = Need::of_class(host.pci.device(*device)?.function.config.class()?)?;
            Some(Caution::PerhapsNeeded { device: *device, need })
        }));
    }
    if matches!(host.holders, Holders::Some(_)) {
        cautions.push(Caution::HoldersNotShown);
    }
    if host.source == Source::Listing {
        cautions.push(Caution::ReservedRegionsNotShown);
    }
    cautions.extend(host.unseen.iter().cloned().map(Caution::NotSeen));
    let is_short = |device: &SysfsDevice| device.function.config.len() < CONFIG_WITH_CAPABILITIES;
    if matches!(host.source, Source::Live | Source::Capture) && host.pci.devices.iter().any(is_short) {
        cautions.push(Caution::CapabilitiesNotShown);
    }
    if host.type1 == Some(Type1::NotLoaded) {
        cautions.push(Caution::Type1NotLoaded);
    }
    cautions
}
