//! Errors of VFIO, each with the error number that Linux gives.

use alloc::string::String;
use alloc::sync::Arc;

use iommu_core::address::PageSizes;
use iommu_core::device_model::Errno;
use iommu_core::hardware::HardwareError;
use iommu_core::reserved::ReservedRegion;
use iommu_core::user_memory::{BadAddress, OverLimit};
use iommu_core::{AttachError, ClaimError, GroupId, Iova, IovaRange, MapError};

use crate::backend::Extension;
pub use crate::open_device::HotResetError;

/// Why a device was not registered with VFIO.
// Table Vt1.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The device is in no IOMMU group.
    #[error("{device} is in no IOMMU group, so nothing would keep its DMA in bounds")]
    NoGroup {
        /// The device.
        device: Arc<str>,
    },
    /// The device is registered already.
    #[error("{device} is registered with VFIO already")]
    Registered {
        /// The device.
        device: Arc<str>,
    },
    /// The IOMMU cannot make DMA of the device coherent with CPU caches.
    #[error("the IOMMU cannot keep DMA of {device} coherent with CPU caches")]
    NotCoherent {
        /// The device.
        device: Arc<str>,
    },
}

impl RegisterError {
    /// Returns the error number that Linux gives.
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
    /// The last device of the group has been unregistered meanwhile.
    #[error(transparent)]
    Gone(#[from] GroupGone),
    /// The file is open already.
    #[error("the file of group {group} is open already")]
    Open {
        /// The group.
        group: GroupId,
    },
}

impl OpenGroupError {
    /// Returns the error number that Linux gives.
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
    /// Returns `ENODEV`.
    pub const fn errno(&self) -> Errno {
        Errno::ENODEV
    }
}

/// Why a group was not put into a container.
// Tables Vt4, Vt7.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetContainerError {
    /// The group is in a container already.
    #[error("group {group} has a container already")]
    Attached {
        /// The group.
        group: GroupId,
    },
    /// The last device of the group has been unregistered.
    #[error(transparent)]
    Gone(#[from] GroupGone),
    /// The file is neither a container nor an iommufd.
    #[error("group {group} can be put into a container or an iommufd only")]
    WrongFile {
        /// The group.
        group: GroupId,
    },
    /// The group has another owner or is used by kernel drivers; the error names them.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The iommufd could not allocate its compatibility address space.
    #[cfg(feature = "iommufd")]
    #[error(transparent)]
    Ioas(iommufd_owner::IoasError),
    /// The container's IOMMU does not accept the group.
    #[error(transparent)]
    Attach(#[from] AttachGroupError),
}

impl SetContainerError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Attached { .. } => Errno::EINVAL,
            Self::WrongFile { .. } => Errno::EBADFD,
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
    /// The group has no container.
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
    /// Returns the error number that Linux gives.
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
    /// No device of that name in the group is bound to a VFIO driver, or it is being unbound.
    #[error("group {group} has no device {device} that is bound to a VFIO driver")]
    NoDevice {
        /// The group.
        group: GroupId,
        /// The name.
        device: String,
    },
    /// The driver does not accept what follows the name.
    // Vt6.3.
    #[error("the driver of {device} does not accept what follows its name ({errno})")]
    Name {
        /// The device.
        device: Arc<str>,
        /// The driver's error.
        errno: Errno,
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
    /// The iommufd refuses to bind the device.
    // Vt6.10.
    #[cfg(feature = "iommufd")]
    #[error(transparent)]
    Bind(iommufd_owner::BindError),
    /// The iommufd has no compatibility address space.
    // Vt6.12.
    #[cfg(feature = "iommufd")]
    #[error("the iommufd of group {group} has no compatibility address space")]
    NoIoas {
        /// The group.
        group: GroupId,
    },
    /// The device cannot be attached to the compatibility address space.
    // Vt6.13.
    #[cfg(feature = "iommufd")]
    #[error(transparent)]
    Attach(iommufd_owner::AttachError),
    /// The driver refuses to open the device.
    #[error("the driver of {device} refuses to open it ({errno})")]
    Driver {
        /// The device.
        device: Arc<str>,
        /// The driver's error.
        errno: Errno,
    },
}

/// Why the file of a device could not be opened.
// V58.
#[cfg(feature = "iommufd")]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenDeviceError {
    /// The device is not bound to a VFIO driver, or is being unbound.
    #[error("{device} is not bound to a VFIO driver, so it has no file")]
    NoFile {
        /// The name of the device.
        device: String,
    },
}

#[cfg(feature = "iommufd")]
impl OpenDeviceError {
    /// Returns `ENOENT`.
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
    /// The file of the device's group is open, even if unused.
    #[error("the file of group {group} is open")]
    GroupOpen {
        /// The group.
        group: GroupId,
    },
    /// This or another file of the device is bound already.
    #[error("{device} is bound already")]
    Bound {
        /// The device.
        device: Arc<str>,
    },
    /// The iommufd refuses to bind the device; the error names who prevents it.
    #[error(transparent)]
    Bind(#[from] iommufd_owner::BindError),
    /// The driver refuses to open the device.
    #[error("the driver of {device} refuses to open it ({errno})")]
    Driver {
        /// The device.
        device: Arc<str>,
        /// The driver's error.
        errno: Errno,
    },
}

#[cfg(feature = "iommufd")]
impl BindIommufdError {
    /// Returns the error number that Linux gives.
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
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Attach(error) => error.errno(),
        }
    }
}

/// The device file is not bound to an iommufd yet, so it gives no access.
// V10.
#[cfg(feature = "iommufd")]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the file of {device} is not bound to an iommufd")]
pub struct NotBound {
    /// The device.
    pub device: Arc<str>,
}

#[cfg(feature = "iommufd")]
impl NotBound {
    /// Returns `EINVAL`.
    pub const fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

impl GetDeviceError {
    /// Returns the error number that Linux gives.
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
            Self::Driver { errno, .. } | Self::Name { errno, .. } => *errno,
        }
    }
}

/// Why a container's IOMMU was not set.
// Table Vt8.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetIommuError {
    /// No group is in the container.
    #[error("the container has no group")]
    NoGroup,
    /// The container has an IOMMU already.
    #[error("the container has an IOMMU already")]
    AlreadySet,
    /// The IOMMU type is not available.
    #[error("the IOMMU type {kind} is not available")]
    Unsupported {
        /// What was asked for.
        kind: Extension,
    },
    /// The extension is a feature, not an IOMMU type.
    #[error("{kind} is not an IOMMU type")]
    NotAKind {
        /// What was asked for.
        kind: Extension,
    },
    /// A group of the container could not be attached.
    #[error(transparent)]
    Attach(#[from] AttachGroupError),
}

impl SetIommuError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoGroup | Self::AlreadySet | Self::NotAKind { .. } => Errno::EINVAL,
            Self::Unsupported { .. } => Errno::ENODEV,
            Self::Attach(error) => error.errno(),
        }
    }
}

/// Why a group was not attached to a container's IOMMU.
// Table Vt14.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachGroupError {
    /// Some mappings have an invalid vaddr.
    // Vt14.1.
    #[error("{mappings} mappings have an invalid vaddr")]
    VaddrInvalid {
        /// How many.
        mappings: u32,
    },
    /// The group is attached already.
    // Vt14.2.
    #[error("group {group} is attached already")]
    Attached {
        /// The group.
        group: GroupId,
    },
    /// The IOMMU driver did not allocate a domain.
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
    /// The aperture of the group conflicts with the mappings or the allowed IOVA list.
    // Vt14.8.
    #[error("the aperture of group {group}, {first} to {last}, does not cover the mappings or the allowed IOVAs")]
    Aperture {
        /// The group.
        group: GroupId,
        /// First IOVA of the aperture.
        first: Iova,
        /// Last IOVA of the aperture.
        last: Iova,
    },
    /// A mapping overlaps a reserved region of the group.
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
    /// The allowed IOVA list would be empty.
    // Vt14.11.
    #[error("with group {group} the allowed IOVA list would be empty")]
    NoRange {
        /// The group.
        group: GroupId,
    },
    /// The group's interrupts are not isolated.
    // Vt14.12.
    #[error("interrupts of group {group} are not isolated")]
    UnsafeInterrupts {
        /// The group.
        group: GroupId,
    },
    /// An existing mapping could not be made for this group.
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
    /// Returns the error number that Linux gives.
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
    /// The range of IOVAs or of memory wraps around.
    #[error("the range goes past the last address")]
    Wraps,
    /// There is no mapping whose vaddr could be updated.
    #[error("nothing is mapped at {range}")]
    NotMapped {
        /// Where.
        range: IovaRange,
    },
    /// The mapping differs from the request, or its vaddr is valid.
    #[error("the request does not match the mapping {existing} exactly, or its vaddr is valid")]
    NotThatMapping {
        /// What is there.
        existing: IovaRange,
    },
    /// The range overlaps a mapping.
    #[error("{existing} is mapped already")]
    Mapped {
        /// The lowest mapping in the way.
        existing: IovaRange,
    },
    /// The limit of mappings is reached.
    #[error("the container has reached its limit of mappings")]
    TooManyMappings,
    /// The range is not in the allowed IOVA list.
    #[error("{range} is not in the allowed IOVA list of the container")]
    NotAllowed {
        /// The range.
        range: IovaRange,
    },
    /// The process would exceed its limit of locked memory.
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
    /// Returns the error number that Linux gives.
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
    /// The range would split a mapping.
    #[error("the range would split the mapping {mapping}")]
    WouldCut {
        /// The mapping.
        mapping: IovaRange,
    },
    /// Dirty pages cannot be reported.
    // Vt16.6.
    #[error(transparent)]
    Dirty(#[from] DirtyError),
    /// The vaddr of a mapping is already invalid.
    // Vt16.11.
    #[error("the vaddr of the mapping {mapping} is already invalid")]
    VaddrInvalid {
        /// The mapping.
        mapping: IovaRange,
    },
}

impl UnmapDmaError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Dirty(DirtyError::BadAddress(error)) => error.errno(),
            _ => Errno::EINVAL,
        }
    }
}

/// Why dirty pages could not be reported.
// V51.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirtyError {
    /// The container has no IOMMU.
    #[error("the container has no IOMMU set")]
    NoIommu,
    /// Version 1 of type1 does not track dirty pages.
    #[error("type1 does not track dirty pages; type1v2 does")]
    NotTracked,
    /// Dirty tracking is off.
    #[error("dirty tracking is off")]
    Off,
    /// The bitmap is too small for the pages, or larger than 256 MiB; or there are no pages.
    #[error("a bitmap of {bytes} bytes is not what {pages} pages need")]
    Bitmap {
        /// How many pages the range has.
        pages: u64,
        /// Size of the bitmap.
        bytes: u64,
    },
    /// The bitmap is not in memory that the process can write.
    #[error(transparent)]
    BadAddress(#[from] BadAddress),
    /// The range is no whole number of pages, the pages are not the smallest ones, or the range cuts a mapping.
    #[error("the range must be of pages of {:#x} bytes and cut no mapping", page_sizes.smallest())]
    Range {
        /// Pages that can be mapped.
        page_sizes: PageSizes,
    },
}

impl DirtyError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotTracked => Errno::EACCES,
            Self::NoIommu | Self::Off | Self::Range { .. } | Self::Bitmap { .. } => Errno::EINVAL,
            Self::BadAddress(error) => error.errno(),
        }
    }
}
