//! Why groups are not attached to a container's IOMMU.

use iommu_core::device_model::Errno;
use iommu_core::hardware::HardwareError;
use iommu_core::reserved::ReservedRegion;
use iommu_core::{AttachError, GroupId, Iova, IovaRange};

use super::MapDmaError;

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
