//! Why VFIO refuses, with the error number of Linux for each.

use alloc::string::String;
use alloc::sync::Arc;

use iommu_core::address::PageSizes;
use iommu_core::device_model::Errno;
use iommu_core::hardware::HardwareError;
use iommu_core::reserved::ReservedRegion;
use iommu_core::user_memory::{BadAddress, OverLimit};
use iommu_core::{AttachError, ClaimError, GroupId, Iova, IovaRange, MapError};

use crate::backend::Extension;

/// Why a device was not registered with VFIO.
// Table Vt1.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// It is in no IOMMU group.
    #[error("{device} is in no IOMMU group, so nothing would keep its DMA in bounds")]
    NoGroup {
        /// The device.
        device: Arc<str>,
    },
    /// It is registered already.
    #[error("{device} is registered with VFIO already")]
    Registered {
        /// The device.
        device: Arc<str>,
    },
    /// Its DMA would not be coherent with CPU caches.
    #[error("the IOMMU cannot keep DMA of {device} coherent with CPU caches")]
    NotCoherent {
        /// The device.
        device: Arc<str>,
    },
}

impl RegisterError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// Why the file of a group could not be opened.
// Table Vt2.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenGroupError {
    /// No device of the group is bound to a VFIO driver, so there is no file.
    #[error("no device of group {group} is bound to a VFIO driver")]
    NoFile {
        /// The group.
        group: GroupId,
    },
    /// A device of the group is in use through its own file.
    #[error("group {group} is in use through the device file of {device}")]
    DeviceFileInUse {
        /// The group.
        group: GroupId,
        /// The device whose file it is.
        device: Arc<str>,
    },
    /// The last device was leaving meanwhile.
    #[error(transparent)]
    Gone(#[from] GroupGone),
    /// It is open.
    #[error("the file of group {group} is open already")]
    Open {
        /// The group.
        group: GroupId,
    },
}

impl OpenGroupError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoFile { .. } => Errno::ENOENT,
            Self::Gone(error) => error.errno(),
            Self::DeviceFileInUse { .. } | Self::Open { .. } => Errno::EBUSY,
        }
    }
}

/// The last device of the group has left VFIO while its file was open.
// V17.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the last device of group {group} has left VFIO")]
pub struct GroupGone {
    /// The group.
    pub group: GroupId,
}

impl GroupGone {
    /// `ENODEV`.
    pub const fn errno(&self) -> Errno {
        Errno::ENODEV
    }
}

/// Why a group was not put into a container.
// Tables Vt4, Vt7.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetContainerError {
    /// It is in one.
    #[error("group {group} has a container already")]
    Attached {
        /// The group.
        group: GroupId,
    },
    /// No device of it is left.
    #[error(transparent)]
    Gone(#[from] GroupGone),
    /// Somebody else owns its DMA; says who.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The iommufd has no room for an address space.
    #[cfg(feature = "iommufd")]
    #[error(transparent)]
    Ioas(iommufd_owner::IoasError),
    /// The container's IOMMU does not take it.
    #[error(transparent)]
    Attach(#[from] AttachGroupError),
}

impl SetContainerError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Attached { .. } => Errno::EINVAL,
            Self::Gone(error) => error.errno(),
            Self::Claim(error) => error.errno(),
            #[cfg(feature = "iommufd")]
            Self::Ioas(error) => error.errno(),
            Self::Attach(error) => error.errno(),
        }
    }
}

/// Why a group was not taken out of its container.
// Table Vt5.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnsetContainerError {
    /// It is in none.
    #[error("group {group} has no container")]
    NotAttached {
        /// The group.
        group: GroupId,
    },
    /// Devices are open.
    #[error("group {group} has {devices} open devices")]
    DevicesOpen {
        /// The group.
        group: GroupId,
        /// How many.
        devices: u32,
    },
}

impl UnsetContainerError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotAttached { .. } => Errno::EINVAL,
            Self::DevicesOpen { .. } => Errno::EBUSY,
        }
    }
}

/// Why a device was not opened.
// Table Vt6.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GetDeviceError {
    /// No device of that name in the group is bound to a VFIO driver, or it is just leaving.
    #[error("group {group} has no device {device} that is bound to a VFIO driver")]
    NoDevice {
        /// The group.
        group: GroupId,
        /// The name.
        device: String,
    },
    /// The group has no container.
    #[error("group {group} has no container")]
    NoContainer {
        /// The group.
        group: GroupId,
    },
    /// The group's container has no IOMMU.
    #[error("the container of group {group} has no IOMMU set")]
    NoIommu {
        /// The group.
        group: GroupId,
    },
    /// The iommufd does not bind it.
    // Vt6.10.
    #[cfg(feature = "iommufd")]
    #[error(transparent)]
    Bind(iommufd_owner::BindError),
    /// The iommufd has no address space for VFIO.
    // Vt6.12.
    #[cfg(feature = "iommufd")]
    #[error("the iommufd of group {group} has no address space for VFIO")]
    NoIoas {
        /// The group.
        group: GroupId,
    },
    /// It cannot be attached to the address space for VFIO.
    // Vt6.13.
    #[cfg(feature = "iommufd")]
    #[error(transparent)]
    Attach(iommufd_owner::AttachError),
    /// Its driver refuses.
    #[error("the driver of {device} does not open it ({errno})")]
    Driver {
        /// The device.
        device: Arc<str>,
        /// The driver's number.
        errno: Errno,
    },
}

/// Why the file of a device could not be opened.
// V58.
#[cfg(feature = "iommufd")]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenDeviceError {
    /// It is not bound to a VFIO driver, or just leaving it.
    #[error("{device} is not bound to a VFIO driver, so it has no file")]
    NoFile {
        /// The device.
        device: String,
    },
}

#[cfg(feature = "iommufd")]
impl OpenDeviceError {
    /// `ENOENT`.
    pub const fn errno(&self) -> Errno {
        Errno::ENOENT
    }
}

/// Why a device file was not bound to an iommufd.
// Table Vt11.
#[cfg(feature = "iommufd")]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindIommufdError {
    /// The file of its group is open, be it unused.
    #[error("the file of group {group} is open")]
    GroupOpen {
        /// The group.
        group: GroupId,
    },
    /// This file is bound, or another file of the device.
    #[error("{device} is bound already")]
    Bound {
        /// The device.
        device: Arc<str>,
    },
    /// The iommufd does not bind it; says who is in the way.
    #[error(transparent)]
    Bind(#[from] iommufd_owner::BindError),
    /// Its driver refuses.
    #[error("the driver of {device} does not open it ({errno})")]
    Driver {
        /// The device.
        device: Arc<str>,
        /// The driver's number.
        errno: Errno,
    },
}

#[cfg(feature = "iommufd")]
impl BindIommufdError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Bound { .. } => Errno::EINVAL,
            Self::GroupOpen { .. } => Errno::EBUSY,
            Self::Bind(error) => error.errno(),
            Self::Driver { errno, .. } => *errno,
        }
    }
}

/// Why a device file was not attached.
// Table Vt12.
#[cfg(feature = "iommufd")]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachPtError {
    /// The iommufd refuses.
    #[error(transparent)]
    Attach(#[from] iommufd_owner::AttachError),
}

#[cfg(feature = "iommufd")]
impl AttachPtError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Attach(error) => error.errno(),
        }
    }
}

/// The device file is bound to no iommufd yet, so it answers nothing.
// V10.
#[cfg(feature = "iommufd")]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the file of {device} is bound to no iommufd")]
pub struct NotBound {
    /// The device.
    pub device: Arc<str>,
}

#[cfg(feature = "iommufd")]
impl NotBound {
    /// `EINVAL`.
    pub const fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

impl GetDeviceError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoDevice { .. } => Errno::ENODEV,
            Self::NoContainer { .. } | Self::NoIommu { .. } => Errno::EINVAL,
            #[cfg(feature = "iommufd")]
            Self::Bind(error) => error.errno(),
            #[cfg(feature = "iommufd")]
            Self::NoIoas { .. } => Errno::ENODEV,
            #[cfg(feature = "iommufd")]
            Self::Attach(error) => error.errno(),
            Self::Driver { errno, .. } => *errno,
        }
    }
}

/// Why devices were not reset together.
// V55.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HotResetError {
    /// One of them is not bound to a VFIO driver, so nobody can show that it is his.
    #[error("{device} would be reset as well, and is not registered with VFIO")]
    NotRegistered {
        /// The device.
        device: Arc<str>,
    },
    /// Groups were named for a file that is bound to an iommufd.
    #[error("{device} is bound to an iommufd, which shows what is owned: no groups are named")]
    WrongList {
        /// The device.
        device: Arc<str>,
    },
    /// The group of one of them was not shown.
    #[error("{device} would be reset as well, and group {group} was not shown")]
    NotOwned {
        /// The device.
        device: Arc<str>,
        /// Its group.
        group: GroupId,
    },
}

impl HotResetError {
    /// `EINVAL`.
    pub const fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// Why a container got no IOMMU.
// Table Vt8.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetIommuError {
    /// No group is in the container.
    #[error("the container has no group")]
    NoGroup,
    /// It has one.
    #[error("the container has an IOMMU already")]
    AlreadySet,
    /// There is no such kind here.
    #[error("no IOMMU of kind {kind} here")]
    Unsupported {
        /// What was asked for.
        kind: Extension,
    },
    /// That is a feature, not a kind of IOMMU.
    #[error("{kind} is no kind of IOMMU")]
    NotAKind {
        /// What was asked for.
        kind: Extension,
    },
    /// A group of the container does not fit.
    #[error(transparent)]
    Attach(#[from] AttachGroupError),
}

impl SetIommuError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoGroup | Self::AlreadySet | Self::NotAKind { .. } => Errno::EINVAL,
            Self::Unsupported { .. } => Errno::ENODEV,
            Self::Attach(error) => error.errno(),
        }
    }
}

/// Why a container's IOMMU did not take a group.
// Table Vt14.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachGroupError {
    /// The memory of some mappings is away.
    // Vt14.1.
    #[error("{mappings} mappings wait for their new address")]
    VaddrInvalid {
        /// How many.
        mappings: u32,
    },
    /// It is there.
    // Vt14.2.
    #[error("group {group} is attached already")]
    Attached {
        /// The group.
        group: GroupId,
    },
    /// The IOMMU driver made no domain.
    // Vt14.5.
    #[error("no domain for group {group}")]
    NoDomain {
        /// The group.
        group: GroupId,
        /// Why.
        #[source]
        cause: HardwareError,
    },
    /// The domain was not attached.
    // Vt14.7.
    #[error(transparent)]
    Domain(#[from] AttachError),
    /// What the group can address does not go together with the container.
    // Vt14.8.
    #[error("group {group} reaches {first} to {last}, which does not cover what is mapped or allowed")]
    Aperture {
        /// The group.
        group: GroupId,
        /// The lowest address that it reaches.
        first: Iova,
        /// The highest.
        last: Iova,
    },
    /// A mapping lies where a device of the group must not be led.
    // Vt14.10.
    #[error("the mapping {mapping} lies in a reserved region of group {group}: {region}")]
    Reserved {
        /// The group.
        group: GroupId,
        /// The mapping.
        mapping: IovaRange,
        /// The region.
        region: ReservedRegion,
    },
    /// No address is left that all groups can use.
    // Vt14.11.
    #[error("with group {group} no address is left to map")]
    NoRange {
        /// The group.
        group: GroupId,
    },
    /// A device of the group could raise interrupts of others.
    // Vt14.12.
    #[error("interrupts of group {group} are not isolated")]
    UnsafeInterrupts {
        /// The group.
        group: GroupId,
    },
    /// What is mapped could not be mapped for this group.
    // Vt14.15.
    #[error("the mapping {mapping} could not be made for group {group}")]
    Replay {
        /// The group.
        group: GroupId,
        /// The mapping.
        mapping: IovaRange,
        /// Why.
        #[source]
        cause: MapDmaError,
    },
}

impl AttachGroupError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::VaddrInvalid { .. } => Errno::EBUSY,
            Self::Attached { .. } | Self::Aperture { .. } | Self::Reserved { .. } | Self::NoRange { .. } => {
                Errno::EINVAL
            }
            Self::NoDomain { cause, .. } => cause.errno,
            Self::Domain(error) => error.errno(),
            Self::UnsafeInterrupts { .. } => Errno::EPERM,
            Self::Replay { cause, .. } => cause.errno(),
        }
    }
}

/// Why nothing was mapped.
// Table Vt15.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapDmaError {
    /// The container has no IOMMU.
    #[error("the container has no IOMMU set")]
    NoIommu,
    /// Address or size is not a multiple of the smallest page, or the size is 0.
    #[error("addresses and size must be multiples of {:#x}, and the size not 0", page_sizes.smallest())]
    Misaligned {
        /// Pages that can be mapped.
        page_sizes: PageSizes,
    },
    /// The range, or the memory, goes past the end of its address space.
    #[error("the range goes past the last address")]
    Wraps,
    /// There is no mapping to update.
    #[error("nothing is mapped at {range}")]
    NotMapped {
        /// Where.
        range: IovaRange,
    },
    /// The mapping to update is another one.
    #[error("{existing} is not exactly what was mapped, or its memory is where it was")]
    NotThatMapping {
        /// What is there.
        existing: IovaRange,
    },
    /// Something is mapped there.
    #[error("{existing} is mapped already")]
    Mapped {
        /// The lowest mapping in the way.
        existing: IovaRange,
    },
    /// No more mappings are allowed.
    #[error("the container has all the mappings that it may have")]
    TooManyMappings,
    /// Some group cannot use that address.
    #[error("{range} is not wholly in what all groups can use")]
    NotAllowed {
        /// The range.
        range: IovaRange,
    },
    /// The process may not lock that much.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The process has no such memory.
    #[error(transparent)]
    BadAddress(#[from] BadAddress),
    /// The IOMMU refused.
    #[error(transparent)]
    Domain(#[from] MapError),
}

impl MapDmaError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoIommu
            | Self::Misaligned { .. }
            | Self::Wraps
            | Self::NotThatMapping { .. }
            | Self::NotAllowed { .. } => Errno::EINVAL,
            Self::NotMapped { .. } => Errno::ENOENT,
            Self::Mapped { .. } => Errno::EEXIST,
            Self::TooManyMappings => Errno::ENOSPC,
            Self::OverLimit(error) => error.errno(),
            Self::BadAddress(error) => error.errno(),
            Self::Domain(error) => error.errno(),
        }
    }
}

/// Why nothing was unmapped.
// Table Vt16.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnmapDmaError {
    /// The container has no IOMMU.
    #[error("the container has no IOMMU set")]
    NoIommu,
    /// Address or size is not a multiple of the smallest page, or the size is 0.
    #[error("address and size must be multiples of {:#x}, and the size not 0", page_sizes.smallest())]
    Misaligned {
        /// Pages that can be mapped.
        page_sizes: PageSizes,
    },
    /// The range goes past the last address.
    #[error("the range goes past the last address")]
    Wraps,
    /// The range would cut a mapping in two.
    #[error("the range would cut the mapping {mapping}")]
    WouldCut {
        /// The mapping.
        mapping: IovaRange,
    },
    /// Written pages cannot be told.
    // Vt16.6.
    #[error(transparent)]
    Dirty(#[from] DirtyError),
    /// The memory of a mapping is away already.
    // Vt16.11.
    #[error("the memory of the mapping {mapping} is away already")]
    VaddrInvalid {
        /// The mapping.
        mapping: IovaRange,
    },
}

impl UnmapDmaError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

/// Why written pages could not be told.
// V51.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirtyError {
    /// The container has no IOMMU.
    #[error("the container has no IOMMU set")]
    NoIommu,
    /// The IOMMU of version 1 does not track.
    #[error("type1 does not track; type1v2 does")]
    NotTracked,
    /// Nobody has started it.
    #[error("dirty tracking is off")]
    Off,
    /// The range is no whole number of pages, or of more than 2^31 - 1; the pages are not the smallest ones; or the range
    /// cuts a mapping.
    #[error("the range must be of pages of {:#x} bytes and cut no mapping", page_sizes.smallest())]
    Range {
        /// Pages that can be mapped.
        page_sizes: PageSizes,
    },
}

impl DirtyError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotTracked => Errno::EACCES,
            Self::NoIommu | Self::Off | Self::Range { .. } => Errno::EINVAL,
        }
    }
}
