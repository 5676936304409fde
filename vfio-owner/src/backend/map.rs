//! Why memory is not mapped or unmapped.

use iommu_core::address::PageSizes;
use iommu_core::device_model::Errno;
use iommu_core::user_memory::{BadAddress, OverLimit};
use iommu_core::{IovaMap, IovaRange, MapError};

use super::DirtyError;
use crate::container::NoBackend;

/// A mapping that `range` has a part of, but not all.
pub(crate) fn cut_by<V>(mappings: &IovaMap<V>, range: IovaRange) -> Option<IovaRange> {
    [range.first(), range.last()]
        .into_iter()
        .find_map(|end| mappings.get(end).map(|(mapping, _)| mapping).filter(|mapping| !range.covers(*mapping)))
}

/// Why nothing was mapped.
// Table Vt15.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapDmaError {
    /// The container has no IOMMU.
    #[error("the container has no IOMMU set")]
    NoIommu,
    /// The container was set to no-IOMMU mode.
    #[error("nothing is mapped for devices without an IOMMU")]
    Unserved,
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

impl From<NoBackend> for MapDmaError {
    fn from(none: NoBackend) -> Self {
        match none {
            NoBackend::Unset => Self::NoIommu,
            NoBackend::NoIommuMode => Self::Unserved,
        }
    }
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
            Self::Unserved => Errno::ENOTTY,
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
    /// The container was set to no-IOMMU mode.
    #[error("nothing is mapped for devices without an IOMMU")]
    Unserved,
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

impl From<NoBackend> for UnmapDmaError {
    fn from(none: NoBackend) -> Self {
        match none {
            NoBackend::Unset => Self::NoIommu,
            NoBackend::NoIommuMode => Self::Unserved,
        }
    }
}

impl UnmapDmaError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Dirty(DirtyError::BadAddress(error)) => error.errno(),
            Self::Unserved => Errno::ENOTTY,
            _ => Errno::EINVAL,
        }
    }
}
