//! Errors of groups. Each names the group, its owner, and the devices that prevent the operation.

use alloc::sync::Arc;
use core::fmt;

use device_model::Errno;

use crate::group_id::GroupId;
use crate::hardware::HardwareError;
use crate::ownership::Owner;

/// A device whose kernel driver prevents a claim of its group.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct InTheWay {
    /// The device.
    pub device: Arc<str>,
    /// The kernel driver that uses it.
    pub driver: Arc<str>,
}

impl fmt::Display for InTheWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.device, self.driver)
    }
}

/// How many devices an error names.
const NAMED: usize = 3;

/// The first few of many items, and how many there are: errors do not allocate.
///
/// [`Group::blockers`](crate::Group::blockers) lists all of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FirstFew<T> {
    first: [Option<T>; NAMED],
    total: usize,
}

impl<T> FirstFew<T> {
    /// Returns the items that are named, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().flatten()
    }

    /// Returns how many there are, the named ones included.
    pub const fn total(&self) -> usize {
        self.total
    }

    /// Makes an item of each of those named, which have been picked as something cheaper.
    pub(crate) fn map<U>(self, item: impl Fn(T) -> U) -> FirstFew<U> {
        FirstFew { first: self.first.map(|one| one.map(&item)), total: self.total }
    }
}

/// Keeps the least, in order.
impl<T: Ord> FromIterator<T> for FirstFew<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut few = Self { first: [const { None }; NAMED], total: 0 };
        for item in items {
            few.total += 1;
            let mut carried = Some(item);
            for place in &mut few.first {
                if place.is_none() || (carried.is_some() && carried < *place) {
                    core::mem::swap(place, &mut carried);
                }
            }
        }
        few
    }
}

impl<T: fmt::Display> fmt::Display for FirstFew<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, item) in self.iter().enumerate() {
            write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
        }
        match self.total.saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// A group could not be attached to another domain. Every device is back on its previous domain, unless hardware refused
/// that as well: [`Group::members`](crate::Group::members) says which devices are blocked then.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{device} of group {group} could not be attached")]
pub struct SwitchError {
    /// The group.
    pub group: GroupId,
    /// The device that refused.
    pub device: Arc<str>,
    /// Why.
    #[source]
    pub cause: HardwareError,
}

impl SwitchError {
    /// Returns the IOMMU driver's error number.
    pub const fn errno(&self) -> Errno {
        self.cause.errno
    }
}

/// Why a kernel driver may not use a device for DMA.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UseError {
    /// User space owns the group.
    #[error("group {group} belongs to {holder}")]
    Owned {
        /// The group.
        group: GroupId,
        /// The owner.
        holder: Owner,
    },
    /// The driver of another device of the group has attached a domain of its own, or uses PASIDs.
    #[error("group {group} is attached to a domain of its driver: {devices}")]
    DomainInUse {
        /// The group.
        group: GroupId,
        /// The kernel drivers in it.
        devices: FirstFew<InTheWay>,
    },
    /// The group has no default domain yet; it is being set up.
    #[error("group {group} has no default domain yet")]
    NoDefaultDomain {
        /// The group.
        group: GroupId,
    },
    /// The device, or its whole group, was blocked after a hardware failure, and cannot be attached to the default domain.
    #[error("the device stays blocked after a hardware failure")]
    Blocked(#[source] SwitchError),
    /// The device has been removed from its group.
    #[error("{device} is in no IOMMU group any more")]
    NoGroup {
        /// The device.
        device: Arc<str>,
    },
    /// The use count would overflow.
    #[error("group {group} has too many users")]
    TooManyUsers {
        /// The group.
        group: GroupId,
    },
}

impl UseError {
    /// Returns `EBUSY`; `EPROBE_DEFER` without a default domain; the IOMMU driver's error number where hardware refused.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Owned { .. } | Self::DomainInUse { .. } => Errno::EBUSY,
            Self::NoDefaultDomain { .. } => Errno::EPROBE_DEFER,
            Self::Blocked(error) => error.errno(),
            Self::NoGroup { .. } => Errno::ENODEV,
            Self::TooManyUsers { .. } => Errno::EOVERFLOW,
        }
    }
}

/// Why a claim of a group was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Kernel drivers of the group use the DMA API.
    #[error("group {group} is used by kernel drivers: {devices}")]
    KernelUse {
        /// The group.
        group: GroupId,
        /// The devices in use, with their drivers.
        devices: FirstFew<InTheWay>,
    },
    /// The group has an owner: another one, or for a group claim also the same one.
    #[error("group {group} belongs to {holder}")]
    Owned {
        /// The group.
        group: GroupId,
        /// The owner.
        holder: Owner,
    },
    /// A driver that does not claim ownership has attached a domain or PASIDs.
    #[error("group {group} is attached to a domain of a driver: {devices}")]
    DomainInUse {
        /// The group.
        group: GroupId,
        /// The devices in it.
        devices: FirstFew<Arc<str>>,
    },
    /// A device needs a 1:1 mapping at all times, so the group cannot be blocked.
    #[error("{device} of group {group} needs a direct mapping at all times")]
    DirectRegion {
        /// The group.
        group: GroupId,
        /// The device with the region.
        device: Arc<str>,
    },
    /// The device is in no group (any more).
    #[error("{device} is in no IOMMU group")]
    NoGroup {
        /// The device.
        device: Arc<str>,
    },
    /// The group has no device left.
    #[error("group {group} is empty")]
    Empty {
        /// The group.
        group: GroupId,
    },
    /// A blocking domain could not be allocated.
    #[error("no blocking domain for {device} of group {group}")]
    NoBlockingDomain {
        /// The group.
        group: GroupId,
        /// The device that it was needed for.
        device: Arc<str>,
        /// Why.
        #[source]
        cause: HardwareError,
    },
    /// Hardware refused to block the group.
    #[error("group {} could not be blocked", .0.group)]
    Switch(#[source] SwitchError),
    /// The number of claims would overflow.
    #[error("group {group} has too many claims")]
    TooManyClaims {
        /// The group.
        group: GroupId,
    },
}

impl ClaimError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::KernelUse { .. } | Self::Owned { .. } => Errno::EPERM,
            Self::DomainInUse { .. } => Errno::EBUSY,
            Self::DirectRegion { .. } => Errno::EINVAL,
            Self::NoGroup { .. } | Self::Empty { .. } => Errno::ENODEV,
            Self::NoBlockingDomain { cause, .. } => cause.errno,
            Self::Switch(error) => error.errno(),
            Self::TooManyClaims { .. } => Errno::EOVERFLOW,
        }
    }
}

/// Why a domain was not attached.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// A domain is attached already; it can only be replaced.
    #[error("group {group} is attached to a domain already")]
    Attached {
        /// The group.
        group: GroupId,
    },
    /// The domain belongs to an IOMMU that does not serve the device.
    #[error("the domain belongs to {iommu}, which does not serve {device}")]
    Foreign {
        /// The device.
        device: Arc<str>,
        /// The domain's IOMMU.
        iommu: Arc<str>,
    },
    /// The group has other devices: only the driver of a single device can attach a domain.
    #[error("group {group} has {members} devices")]
    Shared {
        /// The group.
        group: GroupId,
        /// Number of devices.
        members: usize,
    },
    /// User space owns the group.
    #[error("group {group} belongs to {holder}")]
    Owned {
        /// The group.
        group: GroupId,
        /// The owner.
        holder: Owner,
    },
    /// The device is in no group (any more).
    #[error("{device} is in no IOMMU group")]
    NoGroup {
        /// The device.
        device: Arc<str>,
    },
    /// The group has no device left.
    #[error("group {group} is empty")]
    Empty {
        /// The group.
        group: GroupId,
    },
    /// The PASID is 0, or larger than a device of the group supports.
    #[error("PASID {pasid} is out of the range of {device}")]
    PasidRange {
        /// The PASID.
        pasid: u32,
        /// The device.
        device: Arc<str>,
    },
    /// The PASID is attached already.
    #[error("PASID {pasid} of group {group} is attached already")]
    PasidAttached {
        /// The PASID.
        pasid: u32,
        /// The group.
        group: GroupId,
    },
    /// Out of memory for the PASID.
    #[error("no memory for PASID {pasid} of group {group}")]
    NoMemory {
        /// The PASID.
        pasid: u32,
        /// The group.
        group: GroupId,
    },
    /// The hardware refused.
    #[error("hardware refused the domain")]
    Switch(#[source] SwitchError),
}

impl AttachError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Attached { .. } | Self::Owned { .. } | Self::PasidAttached { .. } => Errno::EBUSY,
            Self::Foreign { .. } | Self::Shared { .. } | Self::PasidRange { .. } => Errno::EINVAL,
            Self::NoGroup { .. } | Self::Empty { .. } => Errno::ENODEV,
            Self::NoMemory { .. } => Errno::ENOMEM,
            Self::Switch(error) => error.errno(),
        }
    }
}

/// Why a group's default domain was not changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetTypeError {
    /// The group has no default domain to change: it is empty, or of another subsystem.
    #[error("group {group} has no default domain")]
    NoDefaultDomain {
        /// The group.
        group: GroupId,
    },
    /// Kernel drivers use the group.
    #[error("group {group} is used by kernel drivers: {devices}")]
    KernelUse {
        /// The group.
        group: GroupId,
        /// The devices in use, with their drivers.
        devices: FirstFew<InTheWay>,
    },
    /// User space owns the group.
    #[error("group {group} belongs to {holder}")]
    Owned {
        /// The group.
        group: GroupId,
        /// The owner.
        holder: Owner,
    },
    /// A driver has attached a domain or PASIDs.
    #[error("group {group} is attached to a domain of a driver")]
    DomainInUse {
        /// The group.
        group: GroupId,
    },
    /// A device requires another type.
    #[error("{device} of group {group} cannot have a default domain of that type")]
    Refused {
        /// The group.
        group: GroupId,
        /// The device.
        device: Arc<str>,
    },
    /// The domain could not be allocated.
    #[error("no default domain for {device} of group {group}")]
    Allocate {
        /// The group.
        group: GroupId,
        /// The device that it was needed for.
        device: Arc<str>,
        /// Why.
        #[source]
        cause: HardwareError,
    },
    /// A direct region could not be mapped.
    #[error("a direct region of {device} could not be mapped")]
    DirectRegion {
        /// The device.
        device: Arc<str>,
    },
    /// The hardware refused the new domain; the old one is attached again.
    #[error("hardware refused the new default domain")]
    Switch(#[source] SwitchError),
}

impl SetTypeError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoDefaultDomain { .. } | Self::Refused { .. } | Self::DirectRegion { .. } => Errno::EINVAL,
            Self::KernelUse { .. } | Self::Owned { .. } => Errno::EPERM,
            Self::DomainInUse { .. } => Errno::EBUSY,
            Self::Allocate { cause, .. } => cause.errno,
            Self::Switch(error) => error.errno(),
        }
    }
}

/// Why a device was not added to a group. It is unchanged, and blocked if its IOMMU blocks unknown devices.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// The device is in a group already.
    #[error("{device} is in group {group} already")]
    Present {
        /// The device.
        device: Arc<str>,
        /// Its group.
        group: GroupId,
    },
    /// The IOMMU cannot serve the device.
    #[error("the IOMMU cannot serve {device}")]
    Probe {
        /// The device.
        device: Arc<str>,
        /// Why.
        #[source]
        cause: HardwareError,
    },
    /// The group is owned, or blocked after a hardware failure, and the device needs a direct mapping at all times.
    #[error("{device} needs a direct mapping, and group {group} is blocked")]
    DirectRegion {
        /// The device.
        device: Arc<str>,
        /// The group.
        group: GroupId,
    },
    /// The device could not be attached to the domain of its group.
    #[error("hardware refused the domain of the group")]
    Switch(#[source] SwitchError),
    /// The group got no default domain.
    #[error("no default domain")]
    DefaultDomain(#[source] SetTypeError),
    /// Out of memory for the device.
    #[error("no memory for {device}")]
    NoMemory {
        /// The device.
        device: Arc<str>,
    },
}

impl AddError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Present { .. } => Errno::EBUSY,
            Self::Probe { cause, .. } => cause.errno,
            Self::DirectRegion { .. } => Errno::EINVAL,
            Self::Switch(error) => error.errno(),
            Self::DefaultDomain(error) => error.errno(),
            Self::NoMemory { .. } => Errno::ENOMEM,
        }
    }
}
