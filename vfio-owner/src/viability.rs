//! Viability: whether a group can be assigned to user space, and if not, which device prevents it and what would change
//! that.
//!
//! ```
//! # #[cfg(feature = "testbed")] {
//! use vfio_owner::testbed;
//! use vfio_owner::viability::{Verdict, of_snapshot};
//!
//! let viability = of_snapshot(&testbed::pc(), 3).expect("the group is there");
//! assert_eq!(viability.verdict, Verdict::NotViable);
//! let in_the_way: Vec<String> = viability.in_the_way().map(|device| device.to_string()).collect();
//! assert_eq!(in_the_way, [
//!     "0000:00:04.0: its driver e1000 does DMA for the kernel; unbind it",
//!     "0000:00:04.1: its driver e1000 does DMA for the kernel; unbind it",
//! ]);
//! # }
//! ```
//!
//! [`of_group`] asks a group of this stack, which counts every kernel use, so its answer is exact. [`of_snapshot`]
//! reads a sysfs tree, which names drivers but does not show who owns a group: what it cannot know it reports as
//! unknown, with the reason.

mod drivers;
mod in_tree;
#[cfg(feature = "serde")]
pub mod region;

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use iommu_core::reserved::{RegionKind, ReservedRegion};
#[cfg(feature = "testbed")]
use iommu_core::sysfs::{Snapshot, SysfsGroup};
use iommu_core::{ClaimError, Group, GroupId};

pub use drivers::{DmaBus, DriverDma, dma_of, dma_on};

/// Whether a group can be claimed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Verdict {
    /// The group can be claimed.
    Viable,
    /// The group cannot be claimed.
    NotViable,
    /// The source does not show whether the group can be claimed.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viable => "viable",
            Self::NotViable => "not viable",
            Self::Unknown => "unknown",
        })
    }
}

/// A group, and what each of its devices means for a claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Viability {
    /// The group.
    pub group: GroupId,
    /// Whether the group can be claimed.
    pub verdict: Verdict,
    /// All devices of the group, by name.
    pub devices: Vec<DeviceViability>,
    /// What prevents a claim, or makes it doubtful, independently of single devices.
    pub group_reason: Option<GroupReason>,
}

/// A device, and what it means for a claim of its group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceViability {
    /// The device.
    pub device: Arc<str>,
    /// The driver that is bound to the device, as far as the source shows it.
    pub driver: Option<Arc<str>>,
    /// Whether the device prevents a claim.
    pub standing: Standing,
}

/// Whether, and why, a device prevents a claim of its group.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "standing", rename_all = "kebab-case")
)]
#[non_exhaustive]
pub enum Standing {
    /// The device has no driver.
    // D65.
    NoDriver,
    /// The driver does no DMA, or claims ownership itself (`driver_managed_dma`).
    // D63.
    Managed {
        /// The driver.
        driver: Arc<str>,
    },
    /// No kernel driver uses the device for DMA; which driver is bound, if any, does not matter.
    NotInUse,
    /// Prevents a claim: the driver does DMA for the kernel.
    KernelUse {
        /// The driver.
        driver: Arc<str>,
    },
    /// Prevents a claim: firmware requires a direct mapping of a range at all times.
    // I33.
    DirectRegion {
        /// The range.
        #[cfg_attr(feature = "serde", serde(with = "region"))]
        region: ReservedRegion,
    },
    /// Doubtful: the driver is not known, and may manage its own DMA.
    UnknownDriver {
        /// The driver.
        driver: Arc<str>,
    },
    /// Doubtful: the source does not show whether it has a driver.
    DriverNotShown,
    /// Doubtful: one device of the group requires a direct mapping at all times, and the source does not say which.
    MaybeDirectRegion {
        /// The range.
        #[cfg_attr(feature = "serde", serde(with = "region"))]
        region: ReservedRegion,
    },
}

impl Standing {
    /// Returns what this device alone means for its group.
    pub const fn verdict(&self) -> Verdict {
        match self {
            Self::NoDriver | Self::Managed { .. } | Self::NotInUse => Verdict::Viable,
            Self::KernelUse { .. } | Self::DirectRegion { .. } | Self::MaybeDirectRegion { .. } => Verdict::NotViable,
            Self::UnknownDriver { .. } | Self::DriverNotShown => Verdict::Unknown,
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDriver => f.write_str("no driver"),
            Self::Managed { driver } => write!(f, "its driver {driver} does no DMA for the kernel"),
            Self::NotInUse => f.write_str("no kernel driver uses it"),
            Self::KernelUse { driver } => write!(f, "its driver {driver} does DMA for the kernel; unbind it"),
            Self::DirectRegion { region } => {
                write!(
                    f,
                    "firmware needs it to reach {} to {} at all times; no step clears that",
                    region.first, region.last
                )
            }
            Self::UnknownDriver { driver } => {
                write!(f, "it is not known whether its driver {driver} does DMA for the kernel; unbind it")
            }
            Self::DriverNotShown => f.write_str("its driver is not shown"),
            Self::MaybeDirectRegion { region } => write!(
                f,
                "firmware needs a device of the group to reach {} to {} at all times; no step clears that",
                region.first, region.last
            ),
        }
    }
}

impl fmt::Display for DeviceViability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.device, self.standing)
    }
}

/// What prevents or may prevent a claim of a group as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum GroupReason {
    /// A claim made now is refused with this error.
    Refused(ClaimError),
    /// A device is bound to a driver that hands it to user space, and a sysfs tree does not show whether it is in use.
    PerhapsOwned {
        /// The device.
        device: Arc<str>,
        /// The driver.
        driver: Arc<str>,
    },
}

impl fmt::Display for GroupReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::PerhapsOwned { device, driver } => {
                write!(f, "{device} is on {driver}: sysfs does not show whether user space has the group open")
            }
        }
    }
}

impl Viability {
    /// Returns the devices that prevent a claim.
    pub fn in_the_way(&self) -> impl Iterator<Item = &DeviceViability> {
        self.devices.iter().filter(|device| device.standing.verdict() == Verdict::NotViable)
    }

    /// Returns the devices for which it is not known.
    pub fn doubtful(&self) -> impl Iterator<Item = &DeviceViability> {
        self.devices.iter().filter(|device| device.standing.verdict() == Verdict::Unknown)
    }
}

#[cfg(feature = "testbed")]
fn worst(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    verdicts.into_iter().fold(Verdict::Viable, |sum, verdict| match (sum, verdict) {
        (Verdict::NotViable, _) | (_, Verdict::NotViable) => Verdict::NotViable,
        (Verdict::Unknown, _) | (_, Verdict::Unknown) => Verdict::Unknown,
        (Verdict::Viable, Verdict::Viable) => Verdict::Viable,
    })
}

/// Returns the viability of a group of this stack. Takes the group lock; the answer may be stale at once.
pub fn of_group(group: &Group) -> Viability {
    let refusal = group.check_claim().err();
    let devices: Vec<_> = group
        .members()
        .into_iter()
        .map(|member| {
            let direct = member.reserved.iter().find(|region| region.kind == RegionKind::Direct);
            let standing = match (&member.kernel_user, direct) {
                (Some(driver), _) => Standing::KernelUse { driver: driver.clone() },
                (None, Some(region)) => Standing::DirectRegion { region: *region },
                (None, None) => Standing::NotInUse,
            };
            DeviceViability { device: member.device, driver: member.kernel_user, standing }
        })
        .collect();
    let verdict = if refusal.is_some() { Verdict::NotViable } else { Verdict::Viable };
    Viability { group: group.id(), verdict, devices, group_reason: refusal.map(GroupReason::Refused) }
}

/// Returns the viability of a group as far as a sysfs tree shows it, or `None` when the tree has no such group.
#[cfg(feature = "testbed")]
pub fn of_snapshot(snapshot: &Snapshot, number: u32) -> Option<Viability> {
    let group = snapshot.group(number)?;
    let mut devices: Vec<_> = group
        .members
        .iter()
        .filter_map(|address| snapshot.device(*address))
        .map(|device| {
            let standing = device.driver.as_deref().map_or(Standing::NoDriver, standing_of);
            let driver = device.driver.as_deref().map(Arc::from);
            DeviceViability { device: device.function.address.to_string().into(), driver, standing }
        })
        .collect();
    blame_direct_region(group, &mut devices);
    let group_reason = perhaps_owned(&devices);
    let doubt = group_reason.is_some().then_some(Verdict::Unknown);
    let verdict = worst(devices.iter().map(|device| device.standing.verdict()).chain(doubt));
    Some(Viability { group: GroupId::new(number), verdict, devices, group_reason })
}

#[cfg(feature = "testbed")]
fn standing_of(driver: &str) -> Standing {
    let name = driver.into();
    match dma_of(driver) {
        DriverDma::Kernel => Standing::KernelUse { driver: name },
        DriverDma::Managed | DriverDma::UserSpace => Standing::Managed { driver: name },
        DriverDma::Unknown => Standing::UnknownDriver { driver: name },
    }
}

/// The tree tells the regions of a group, not whose they are.
#[cfg(feature = "testbed")]
fn blame_direct_region(group: &SysfsGroup, devices: &mut [DeviceViability]) {
    let Some(region) = group.reserved.iter().find(|region| region.kind == RegionKind::Direct).copied() else { return };
    let alone = devices.len() == 1;
    for device in devices.iter_mut().filter(|device| device.standing.verdict() != Verdict::NotViable) {
        device.standing =
            if alone { Standing::DirectRegion { region } } else { Standing::MaybeDirectRegion { region } };
    }
}

#[cfg(feature = "testbed")]
fn perhaps_owned(devices: &[DeviceViability]) -> Option<GroupReason> {
    devices.iter().find_map(|device| match &device.driver {
        Some(driver) if dma_of(driver) == DriverDma::UserSpace => {
            Some(GroupReason::PerhapsOwned { device: device.device.clone(), driver: driver.clone() })
        }
        _ => None,
    })
}

/// One line for a person: the verdict, and what is behind it.
impl fmt::Display for Viability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {} is {}", self.group, self.verdict)?;
        let devices = self.devices.iter().filter(|device| device.standing.verdict() != Verdict::Viable);
        let reasons: Vec<String> = devices.map(ToString::to_string).collect();
        match (&self.group_reason, reasons.is_empty()) {
            (Some(reason), true) => write!(f, ": {reason}"),
            (_, false) => write!(f, ": {}", reasons.join(", ")),
            (None, true) => Ok(()),
        }
    }
}
