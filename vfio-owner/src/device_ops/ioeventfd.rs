//! Writes that a device makes by itself when an eventfd is signalled: `VFIO_DEVICE_IOEVENTFD`.

use iommu_core::device_model::Errno;

use super::event::Eventfd;
use super::region::RegionIndex;

/// A write to a region whenever an eventfd is signalled.
#[derive(Clone, Debug)]
pub struct IoEventfd {
    /// The region.
    pub region: RegionIndex,
    /// Offset in the region.
    pub offset: u64,
    /// The value that is written.
    pub data: u64,
    /// How wide the write is.
    pub width: IoWidth,
    /// When it is written; [`Eventfd::Remove`] removes what is there for the same write.
    pub eventfd: Eventfd,
}

/// How wide a write is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IoWidth {
    /// 8 bits.
    Bits8,
    /// 16 bits.
    Bits16,
    /// 32 bits.
    Bits32,
    /// 64 bits.
    Bits64,
}

impl IoWidth {
    /// Returns the width in bytes.
    pub const fn bytes(self) -> u8 {
        match self {
            Self::Bits8 => 1,
            Self::Bits16 => 2,
            Self::Bits32 => 4,
            Self::Bits64 => 8,
        }
    }
}

/// Why an [`IoEventfd`] was not set or removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoEventfdError {
    /// The device has no such calls.
    #[error("the device makes no writes by itself")]
    Unsupported,
    /// The region is no BAR, the write reaches beyond its end, or it meets the MSI-X table.
    #[error("{bytes} bytes at {offset:#x} of {region} cannot be written this way")]
    Range {
        /// The region.
        region: RegionIndex,
        /// The offset.
        offset: u64,
        /// The width in bytes.
        bytes: u8,
    },
    /// The same write has an eventfd already.
    #[error("the same write has an eventfd already")]
    Exists,
    /// No such write is there to be removed.
    #[error("there is no such write")]
    Missing,
    /// The device has as many as it can have.
    #[error("the device has {limit} of them already")]
    TooMany {
        /// How many it can have.
        limit: usize,
    },
    /// The descriptor is no eventfd.
    #[error("the descriptor is no eventfd ({errno})")]
    BadEventfd {
        /// Why not.
        errno: Errno,
    },
}

impl IoEventfdError {
    /// Returns the error number that Linux gives.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Unsupported => Errno::ENOTTY,
            Self::Range { .. } => Errno::EINVAL,
            Self::Exists => Errno::EEXIST,
            Self::Missing => Errno::ENODEV,
            Self::TooMany { .. } => Errno::ENOSPC,
            Self::BadEventfd { errno } => errno,
        }
    }
}
