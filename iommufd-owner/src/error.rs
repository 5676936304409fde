//! Why iommufd refuses, with the error number of Linux for each.

use alloc::sync::Arc;

use iommu_core::device_model::Errno;
use iommu_core::hardware::HardwareError;
use iommu_core::user_memory::{BadAddress, OverLimit};
use iommu_core::{AttachError as DomainAttachError, ClaimError, GroupId, Iova, IovaRange, MapError};

pub use crate::dirty::DirtyError;
pub use crate::fault_queue::{NoRoom, UnknownCookie};
pub use crate::invalidate::{InvalidateCause, InvalidateError};
use crate::object::ObjectId;

/// A context has all the objects that it can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the context has no id left")]
pub struct NoIds;

impl NoIds {
    /// `ENOSPC`.
    pub const fn errno(self) -> Errno {
        Errno::ENOSPC
    }
}

/// There is no such object, or it is of another kind (F3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the context has no {what} with the id {id}")]
pub struct NoObject {
    /// The id.
    pub id: ObjectId,
    /// What it was to be.
    pub what: &'static str,
}

impl NoObject {
    /// `ENOENT`.
    pub const fn errno(self) -> Errno {
        Errno::ENOENT
    }
}

/// Why an object was not destroyed (table Ft1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DestroyError {
    /// There is none.
    #[error("the context has no object with the id {id}")]
    NoObject {
        /// The id.
        id: ObjectId,
    },
    /// Others use it (table Ft2).
    #[error("object {id} is used {uses} times")]
    InUse {
        /// The id.
        id: ObjectId,
        /// How often.
        uses: u32,
    },
}

impl DestroyError {
    /// The number of Linux.
    pub const fn errno(self) -> Errno {
        match self {
            Self::NoObject { .. } => Errno::ENOENT,
            Self::InUse { .. } => Errno::EBUSY,
        }
    }
}

/// Why memory was not pinned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// The process has no such memory.
    #[error(transparent)]
    BadAddress(#[from] BadAddress),
    /// It may not lock that much.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// There is no room to note so many pages.
    #[error("so many pages cannot be noted")]
    TooLong,
}

impl PinError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::BadAddress(error) => error.errno(),
            Self::OverLimit(error) => error.errno(),
            Self::TooLong => Errno::ENOMEM,
        }
    }
}

/// What keeps a range from being reserved, or allowed (F15).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InTheWay {
    /// A mapping.
    #[error("{range} is mapped")]
    Mapped {
        /// Where.
        range: IovaRange,
    },
    /// A promise to keep a range usable.
    #[error("{range} was promised to stay usable")]
    Allowed {
        /// Where.
        range: IovaRange,
    },
    /// Something reserved.
    #[error("{range} is reserved")]
    Reserved {
        /// Where.
        range: IovaRange,
    },
}

impl InTheWay {
    /// `EADDRINUSE`.
    pub const fn errno(&self) -> Errno {
        Errno::EADDRINUSE
    }
}

/// Why nothing was mapped (tables Ft4, Ft5).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapErr {
    /// No such address space.
    #[error(transparent)]
    NoObject(#[from] NoObject),
    /// A number is too large.
    #[error("addresses or lengths do not fit in 64 bits")]
    Overflow,
    /// The length is 0.
    #[error("the length is 0, or beyond any memory")]
    BadLength,
    /// A number is not a multiple of what the domains map.
    #[error("addresses and length must be multiples of {alignment:#x}")]
    Misaligned {
        /// What they must be multiples of.
        alignment: u64,
    },
    /// A device or a domain cannot use that address.
    #[error("{range} is reserved")]
    Reserved {
        /// What is reserved.
        range: IovaRange,
    },
    /// Something is mapped there.
    #[error("{existing} is mapped already")]
    Mapped {
        /// The lowest mapping in the way.
        existing: IovaRange,
    },
    /// No hole is large enough.
    #[error("there is no place for {bytes:#x} bytes")]
    NoPlace {
        /// How many.
        bytes: u64,
    },
    /// The source of a copy is not wholly mapped.
    #[error("{range} of the source is not wholly mapped")]
    SourceNotMapped {
        /// What was to be copied.
        range: IovaRange,
    },
    /// The source of a copy is mapped for reading only.
    #[error("the source is mapped for reading only")]
    SourceReadOnly,
    /// The memory was not pinned.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// A domain did not take it.
    #[error(transparent)]
    Domain(#[from] MapError),
}

impl MapErr {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoObject(error) => error.errno(),
            Self::Overflow => Errno::EOVERFLOW,
            Self::BadLength | Self::Misaligned { .. } | Self::Reserved { .. } => Errno::EINVAL,
            Self::Mapped { .. } => Errno::EEXIST,
            Self::NoPlace { .. } => Errno::ENOSPC,
            Self::SourceNotMapped { .. } => Errno::ENOENT,
            Self::SourceReadOnly => Errno::EPERM,
            Self::Pin(error) => error.errno(),
            Self::Domain(error) => error.errno(),
        }
    }
}

/// Why an unmap stopped (table Ft6). What it had unmapped until then stays so (F21).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnmapErr {
    /// No such address space.
    #[error(transparent)]
    NoObject(#[from] NoObject),
    /// A number is too large.
    #[error("addresses or lengths do not fit in 64 bits")]
    Overflow,
    /// The length is 0.
    #[error("the length is 0")]
    BadLength,
    /// Nothing is there.
    #[error("nothing is mapped in {range}")]
    NotMapped {
        /// Where.
        range: IovaRange,
    },
    /// A mapping sticks out of the range.
    #[error("the range would cut the mapping {area}")]
    WouldCut {
        /// The mapping.
        area: IovaRange,
    },
    /// A user in the kernel has it pinned, and does not let go.
    #[error("{area} is pinned by an access")]
    Pinned {
        /// The mapping.
        area: IovaRange,
    },
    /// A mapping cannot be cut there (F61).
    #[error("the mapping {area} cannot be cut at {at}")]
    CannotCut {
        /// The mapping.
        area: IovaRange,
        /// Where.
        at: Iova,
    },
}

impl UnmapErr {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoObject(error) => error.errno(),
            Self::Overflow => Errno::EOVERFLOW,
            Self::BadLength | Self::CannotCut { .. } => Errno::EINVAL,
            Self::NotMapped { .. } | Self::WouldCut { .. } => Errno::ENOENT,
            Self::Pinned { .. } => Errno::EDEADLK,
        }
    }
}

/// Why an address space refused a range, or an option.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoasError {
    /// No such address space.
    #[error(transparent)]
    NoObject(#[from] NoObject),
    /// The context has no id left.
    #[error(transparent)]
    NoIds(#[from] NoIds),
    /// A range is of one byte or none.
    #[error("a range must have two addresses at least")]
    BadRange,
    /// Two ranges overlap.
    #[error("{one} and {other} overlap")]
    Overlap {
        /// One.
        one: IovaRange,
        /// The other.
        other: IovaRange,
    },
    /// Something is there.
    #[error(transparent)]
    InTheWay(#[from] InTheWay),
    /// Domains have mapped with large pages (Ft7.7).
    #[error("domains have mappings")]
    DomainsMapped,
    /// Objects exist (Ft7.4).
    #[error("the context has objects")]
    HasObjects,
    /// The context is for devices without an IOMMU (F63).
    #[error("the context is in no-IOMMU mode")]
    NoIommuMode,
}

impl IoasError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoObject(error) => error.errno(),
            Self::NoIds(error) => error.errno(),
            Self::BadRange | Self::Overlap { .. } | Self::DomainsMapped | Self::NoIommuMode => Errno::EINVAL,
            Self::InTheWay(error) => error.errno(),
            Self::HasObjects => Errno::EBUSY,
        }
    }
}

/// Why an address space does not show itself in a domain (F53).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddDomainError {
    /// The domain has no page tables.
    #[error("the domain has no page tables")]
    NotPaging,
    /// Its smallest page is larger than the CPU's.
    #[error("the domain's smallest page is of {smallest:#x} bytes")]
    PagesTooLarge {
        /// That page.
        smallest: u64,
    },
    /// A mapping is not aligned for it, or it does not reach what is mapped or allowed.
    #[error(transparent)]
    InTheWay(InTheWay),
    /// What is mapped could not be mapped in it.
    #[error(transparent)]
    Map(MapErr),
}

impl AddDomainError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotPaging | Self::PagesTooLarge { .. } => Errno::EINVAL,
            Self::InTheWay(error) => error.errno(),
            Self::Map(error) => error.errno(),
        }
    }
}

/// Why a device was not bound (table Ft8).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Its DMA would not be coherent with CPU caches.
    #[error("the IOMMU cannot keep DMA of {device} coherent with CPU caches")]
    NotCoherent {
        /// The device.
        device: Arc<str>,
    },
    /// A device of the group could raise interrupts of others.
    #[error("interrupts of group {group} are not isolated")]
    UnsafeInterrupts {
        /// The group.
        group: GroupId,
    },
    /// Somebody else has the group; says who.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The context has no id left.
    #[error(transparent)]
    NoIds(#[from] NoIds),
}

impl BindError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotCoherent { .. } => Errno::EINVAL,
            Self::UnsafeInterrupts { .. } => Errno::EPERM,
            Self::Claim(error) => error.errno(),
            Self::NoIds(error) => error.errno(),
        }
    }
}

/// Why a device was not attached, or not moved (tables Ft9, Ft10).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachErr {
    /// No such object.
    #[error(transparent)]
    NoObject(#[from] NoObject),
    /// The object is nothing to attach to.
    #[error("object {id} is neither an address space nor a page table")]
    WrongKind {
        /// The id.
        id: ObjectId,
    },
    /// The device is attached (F49).
    #[error("{device} is attached already")]
    Attached {
        /// The device.
        device: Arc<str>,
    },
    /// The device is not attached (Ft10.1, Ft10.2).
    #[error("{device} is not attached")]
    NotAttached {
        /// The device.
        device: Arc<str>,
    },
    /// Another device of the group is attached to another page table (Ft9.1).
    #[error("group {group} is attached to page table {hwpt}")]
    Elsewhere {
        /// The group.
        group: GroupId,
        /// What it is attached to.
        hwpt: ObjectId,
    },
    /// A mapping or a promise lies where a device must not be led.
    #[error("{device} needs a range for itself: {in_the_way}")]
    Reserved {
        /// The device.
        device: Arc<str>,
        /// What is there.
        in_the_way: InTheWay,
    },
    /// The device reserves two windows for interrupts, of which at most one can be in software (Ft9.2).
    #[error("{device} has two windows for interrupts")]
    TwoInterruptWindows {
        /// The device.
        device: Arc<str>,
    },
    /// The page table has a fault queue, and the device's page requests cannot be led there (Ft9.4).
    #[error("page requests of a device cannot be delivered")]
    PageRequests(#[source] HardwareError),
    /// A page table for the device could not be made.
    #[error(transparent)]
    Hwpt(#[from] HwptError),
    /// The domain was not attached.
    #[error(transparent)]
    Domain(#[from] DomainAttachError),
}

impl AttachErr {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoObject(error) => error.errno(),
            Self::WrongKind { .. }
            | Self::Attached { .. }
            | Self::NotAttached { .. }
            | Self::Elsewhere { .. }
            | Self::TwoInterruptWindows { .. } => Errno::EINVAL,
            Self::PageRequests(error) => error.errno,
            Self::Reserved { in_the_way, .. } => in_the_way.errno(),
            Self::Hwpt(error) => error.errno(),
            Self::Domain(error) => error.errno(),
        }
    }

    /// Whether another page table may fit where this one did not (F46).
    pub(crate) fn is_soft(&self) -> bool {
        match self {
            Self::Attached { .. } | Self::NotAttached { .. } | Self::TwoInterruptWindows { .. } => false,
            _ => self.errno() == Errno::EINVAL,
        }
    }
}

/// Why no page table was made (table Ft11).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HwptError {
    /// The device is none of the context.
    #[error(transparent)]
    NoDevice(NoObject),
    /// What it is to show is neither an address space nor a page table.
    #[error("object {id} is neither an address space nor a page table")]
    WrongParent {
        /// The id.
        id: ObjectId,
    },
    /// A page table of user space was asked for, without data that describe it or with features that it cannot have.
    #[error("a nested page table needs data that describe it, and has no features of its own")]
    NoNesting,
    /// Data without a format or without a byte (Ft11.2).
    #[error("data must have a format, and at least one byte")]
    BadData,
    /// The device's IOMMU cannot tell which pages were written (Ft11.8).
    #[error("the IOMMU does not track what the device writes")]
    NoDirtyTracking,
    /// Faults of a page table that shows an address space go nowhere (Ft11.7).
    #[error("only a nested page table can have a fault queue")]
    FaultsOfPaging,
    /// There is no such fault queue.
    #[error(transparent)]
    NoFaultQueue(NoObject),
    /// The device's DMA can be kept coherent, but not by this domain (Ft11.10).
    #[error("the domain does not enforce coherency")]
    NotCoherent(#[source] HardwareError),
    /// The context has no id left.
    #[error(transparent)]
    NoIds(#[from] NoIds),
    /// The IOMMU driver made no domain.
    #[error("the IOMMU made no domain")]
    Hardware(#[source] HardwareError),
    /// The address space could not be shown in it.
    #[error(transparent)]
    Fill(#[from] AddDomainError),
}

impl HwptError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoDevice(error) | Self::NoFaultQueue(error) => error.errno(),
            Self::WrongParent { .. } | Self::BadData | Self::NotCoherent(_) => Errno::EINVAL,
            Self::NoNesting | Self::NoDirtyTracking | Self::FaultsOfPaging => Errno::EOPNOTSUPP,
            Self::NoIds(error) => error.errno(),
            Self::Hardware(error) => error.errno,
            Self::Fill(error) => error.errno(),
        }
    }
}

/// Why an access got no memory (F59, F60).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// No such address space, or the access has none.
    #[error("the access has no address space")]
    NotAttached,
    /// It has one.
    #[error("the access has an address space already")]
    Attached,
    /// No such address space.
    #[error(transparent)]
    NoObject(#[from] NoObject),
    /// The context has no id left.
    #[error(transparent)]
    NoIds(#[from] NoIds),
    /// A mapping is not of whole pages, so it cannot be pinned.
    #[error(transparent)]
    InTheWay(#[from] InTheWay),
    /// Another thread detaches or moves it.
    #[error("the access is being detached or moved")]
    Leaving,
    /// It was made without a notice, so it may not pin.
    #[error("the access was made to read and write only")]
    NeverPins,
    /// The length is 0, or the range is not of whole pages of memory.
    #[error("the range is empty, or not of whole pages")]
    BadRange,
    /// The range does not fit in 64 bits.
    #[error("addresses do not fit in 64 bits")]
    Overflow,
    /// The range is being unmapped.
    #[error("{area} is being unmapped")]
    Unmapping {
        /// The mapping.
        area: IovaRange,
    },
    /// The mapping does not allow it.
    #[error("{area} does not allow this access")]
    NotPermitted {
        /// The mapping.
        area: IovaRange,
    },
    /// Some of it is not mapped.
    #[error("{range} is not wholly mapped")]
    NotMapped {
        /// The range.
        range: IovaRange,
    },
    /// The memory was not pinned.
    #[error(transparent)]
    Pin(#[from] PinError),
}

impl AccessError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotAttached | Self::NotMapped { .. } => Errno::ENOENT,
            Self::Attached | Self::NeverPins | Self::BadRange | Self::Unmapping { .. } => Errno::EINVAL,
            Self::Leaving => Errno::EBUSY,
            Self::Overflow => Errno::EOVERFLOW,
            Self::NoObject(error) => error.errno(),
            Self::NoIds(error) => error.errno(),
            Self::InTheWay(error) => error.errno(),
            Self::NotPermitted { .. } => Errno::EPERM,
            Self::Pin(error) => error.errno(),
        }
    }
}
