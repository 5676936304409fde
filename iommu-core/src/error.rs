//! Why a group refuses. Each error names the group, who holds it, and the devices in the way.

use alloc::sync::Arc;
use core::fmt;

use device_model::Errno;

use crate::group_id::GroupId;
use crate::hardware::HardwareError;
use crate::ownership::Owner;

/// A device that keeps others from having its group.
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

/// How many of those in the way a refusal names.
const NAMED: usize = 3;

/// The first few of many, by name, and how many there are: a refusal that allocates nothing.
///
/// [`Group::blockers`](crate::Group::blockers) lists all of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FirstFew<T> {
    first: [Option<T>; NAMED],
    total: usize,
}

impl<T> FirstFew<T> {
    /// Returns those that are named, least first.
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

/// A group could not be moved to another domain. Every device is where it was, unless hardware refused the way back as
/// well: [`Group::members`](crate::Group::members) says which devices are stopped.
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
    /// Returns the IOMMU driver's number.
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
    /// The device, or its whole group, was stopped when hardware failed, and hardware still refuses the default domain.
    #[error("a device that hardware refused to bring back stays blocked")]
    Blocked(#[source] SwitchError),
    /// The device is in no group any more: it has been removed.
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
    /// Returns `EBUSY`; `EPROBE_DEFER` without a default domain; the driver's number where hardware refused.
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

/// Why user space may not have a group.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Kernel drivers use the DMA API in it.
    #[error("group {group} is used by kernel drivers: {devices}")]
    KernelUse {
        /// The group.
        group: GroupId,
        /// The devices in the way, with their drivers.
        devices: FirstFew<InTheWay>,
    },
    /// Another owner has it; for a group claim, also the same owner.
    #[error("group {group} belongs to {holder}")]
    Owned {
        /// The group.
        group: GroupId,
        /// The owner.
        holder: Owner,
    },
    /// A domain or PASIDs are attached in it by a driver that claims no ownership.
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
    /// No blocking domain could be made.
    #[error("no blocking domain for {device} of group {group}")]
    NoBlockingDomain {
        /// The group.
        group: GroupId,
        /// The device that it was to be made for.
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
    /// A domain is attached; only replacing changes it.
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
    /// Only a device alone in its group can have a domain of its driver's.
    #[error("group {group} has {members} devices")]
    Shared {
        /// The group.
        group: GroupId,
        /// How many.
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
    /// 0, or more than a device of the group supports.
    #[error("PASID {pasid} is out of the range of {device}")]
    PasidRange {
        /// The PASID.
        pasid: u32,
        /// The device.
        device: Arc<str>,
    },
    /// The PASID is attached in the group.
    #[error("PASID {pasid} of group {group} is attached already")]
    PasidAttached {
        /// The PASID.
        pasid: u32,
        /// The group.
        group: GroupId,
    },
    /// No memory was left to remember the PASID.
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
    /// Kernel drivers use it.
    #[error("group {group} is used by kernel drivers: {devices}")]
    KernelUse {
        /// The group.
        group: GroupId,
        /// The devices in the way, with their drivers.
        devices: FirstFew<InTheWay>,
    },
    /// User space owns it.
    #[error("group {group} belongs to {holder}")]
    Owned {
        /// The group.
        group: GroupId,
        /// The owner.
        holder: Owner,
    },
    /// A domain or PASIDs of a driver are attached.
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
    /// The domain could not be made.
    #[error("no default domain for {device} of group {group}")]
    Allocate {
        /// The group.
        group: GroupId,
        /// The device that it was to be made for.
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
    /// The hardware refused the new domain; the old one is back.
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

/// Why a device came into no group. It is as before, and blocked if its IOMMU blocks what it does not serve.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// The same device is in a group.
    #[error("{device} is in group {group} already")]
    Present {
        /// The device.
        device: Arc<str>,
        /// Its group.
        group: GroupId,
    },
    /// The IOMMU cannot serve it.
    #[error("the IOMMU cannot serve {device}")]
    Probe {
        /// The device.
        device: Arc<str>,
        /// Why.
        #[source]
        cause: HardwareError,
    },
    /// Its group is owned, or blocked since hardware failed, and it needs a direct mapping at all times.
    #[error("{device} needs a direct mapping, and group {group} is blocked")]
    DirectRegion {
        /// The device.
        device: Arc<str>,
        /// The group.
        group: GroupId,
    },
    /// It could not be attached where its group is.
    #[error("hardware refused the domain of the group")]
    Switch(#[source] SwitchError),
    /// The group got no default domain.
    #[error("no default domain")]
    DefaultDomain(#[source] SetTypeError),
    /// No memory was left to remember it.
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
