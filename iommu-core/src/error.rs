//! Why a group refuses. Each error names the group, who holds it, and the devices in the way.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use device_model::Errno;

use crate::group::GroupId;
use crate::hardware::HardwareError;
use crate::ownership::Owner;

/// A device that keeps others from having its group.
#[derive(Clone, PartialEq, Eq, Debug)]
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

struct Listed<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, item) in self.0.iter().enumerate() {
            write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// A group could not be moved to another domain. Every device is where it was.
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
    /// The IOMMU driver's number.
    pub const fn errno(&self) -> Errno {
        self.cause.errno
    }
}

/// Why a kernel driver may not use a device for DMA (table It2).
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
    /// A sibling's driver has attached a domain of its own, or uses PASIDs (I22).
    #[error("group {group} is attached to a domain of its driver: {}", Listed(devices))]
    DomainInUse {
        /// The group.
        group: GroupId,
        /// The kernel drivers in it.
        devices: Vec<InTheWay>,
    },
    /// The group has no default domain yet; it is being set up (I17).
    #[error("group {group} has no default domain yet")]
    NoDefaultDomain {
        /// The group.
        group: GroupId,
    },
    /// An earlier release could not bring the group back to its default domain, nor can this use.
    #[error("a group that hardware refused to bring back stays blocked")]
    Blocked(#[source] SwitchError),
    /// The device is in no group any more: it has been removed.
    #[error("{device} is in no IOMMU group any more")]
    NoGroup {
        /// The device.
        device: Arc<str>,
    },
    /// As many users as can be counted.
    #[error("group {group} has too many users")]
    TooManyUsers {
        /// The group.
        group: GroupId,
    },
}

impl UseError {
    /// `EBUSY`; `EPROBE_DEFER` without a default domain; the driver's number where hardware refused.
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

/// Why user space may not have a group (tables It4 to It6).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Kernel drivers use the DMA API in it.
    #[error("group {group} is used by kernel drivers: {}", Listed(devices))]
    KernelUse {
        /// The group.
        group: GroupId,
        /// Each device in the way, with its driver.
        devices: Vec<InTheWay>,
    },
    /// Another owner has it; for a group claim, also the same owner (It5.2).
    #[error("group {group} belongs to {holder}")]
    Owned {
        /// The group.
        group: GroupId,
        /// The owner.
        holder: Owner,
    },
    /// A domain or PASIDs are attached in it by a driver that claims no ownership (It4.1).
    #[error("group {group} is attached to a domain of a driver: {}", Listed(devices))]
    DomainInUse {
        /// The group.
        group: GroupId,
        /// The devices in it.
        devices: Vec<Arc<str>>,
    },
    /// A device needs a 1:1 mapping at all times, so the group cannot be blocked (I33).
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
    /// As many claims as can be counted.
    #[error("group {group} has too many claims")]
    TooManyClaims {
        /// The group.
        group: GroupId,
    },
}

impl ClaimError {
    /// The number of Linux.
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

/// Why a domain was not attached (tables It8, It9).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// A domain is attached; only replacing changes it (It8.4).
    #[error("group {group} is attached to a domain already")]
    Attached {
        /// The group.
        group: GroupId,
    },
    /// The domain belongs to another IOMMU (It8.5).
    #[error("the domain belongs to {iommu}, which does not serve {device}")]
    Foreign {
        /// The device.
        device: Arc<str>,
        /// The domain's IOMMU.
        iommu: Arc<str>,
    },
    /// Only a device alone in its group can have a domain of its driver's (It8.2).
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
    /// 0, or more than a device of the group supports (It9.4).
    #[error("PASID {pasid} is out of the range of {device}")]
    PasidRange {
        /// The PASID.
        pasid: u32,
        /// The device.
        device: Arc<str>,
    },
    /// The PASID is attached in the group (It9.5).
    #[error("PASID {pasid} of group {group} is attached already")]
    PasidAttached {
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
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Attached { .. } | Self::Owned { .. } | Self::PasidAttached { .. } => Errno::EBUSY,
            Self::Foreign { .. } | Self::Shared { .. } | Self::PasidRange { .. } => Errno::EINVAL,
            Self::NoGroup { .. } | Self::Empty { .. } => Errno::ENODEV,
            Self::Switch(error) => error.errno(),
        }
    }
}

/// Why a group's default domain was not changed (table It10).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetTypeError {
    /// The group has no default domain to change.
    #[error("group {group} has no default domain")]
    NoDefaultDomain {
        /// The group.
        group: GroupId,
    },
    /// Kernel drivers use it.
    #[error("group {group} is used by kernel drivers: {}", Listed(devices))]
    KernelUse {
        /// The group.
        group: GroupId,
        /// Each device in the way, with its driver.
        devices: Vec<InTheWay>,
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
    /// A device can live with another type only (I41).
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
    /// The number of Linux.
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

/// Why a device came into no group (I11, I12). It is as before, and blocked if its IOMMU blocks what it does not serve.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// The IOMMU cannot serve it.
    #[error("the IOMMU cannot serve {device}")]
    Probe {
        /// The device.
        device: Arc<str>,
        /// Why.
        #[source]
        cause: HardwareError,
    },
    /// Its group is owned, or blocked since a release that hardware refused, and it needs a direct mapping at all times
    /// (I13, I33).
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
}

impl AddError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Probe { cause, .. } => cause.errno,
            Self::DirectRegion { .. } => Errno::EINVAL,
            Self::Switch(error) => error.errno(),
            Self::DefaultDomain(error) => error.errno(),
        }
    }
}
