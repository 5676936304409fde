//! What isolates the devices of a group, and what does where there is nothing.

use alloc::format;
use alloc::sync::Arc;

use iommu_core::{Group, GroupId, Owner};

/// What isolates the devices of a group.
// V3.
#[derive(Debug)]
pub(crate) enum Isolation {
    /// An IOMMU group.
    Iommu {
        group: Arc<Group>,
        /// The owner of DMA that the VFIO group is while it has a container.
        // V39.
        owner: Owner,
    },
    /// Nothing.
    None {
        /// Not that of an IOMMU group.
        id: GroupId,
    },
}

impl Isolation {
    pub(crate) fn by(group: Arc<Group>) -> Self {
        let owner = Owner::new(format!("VFIO group {}", group.id()));
        Self::Iommu { group, owner }
    }

    pub(crate) fn key(&self) -> GroupKey {
        match self {
            Self::Iommu { group, .. } => GroupKey::Iommu(group.id()),
            Self::None { id } => GroupKey::NoIommu(*id),
        }
    }

    pub(crate) fn group(&self) -> Option<&Arc<Group>> {
        match self {
            Self::Iommu { group, .. } => Some(group),
            Self::None { .. } => None,
        }
    }
}

/// A group of VFIO by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum GroupKey {
    /// The IOMMU group of this number: `/dev/vfio/N`.
    Iommu(GroupId),
    /// One without an IOMMU: `/dev/vfio/noiommu-N`.
    NoIommu(GroupId),
}

impl GroupKey {
    pub(crate) fn id(self) -> GroupId {
        match self {
            Self::Iommu(id) | Self::NoIommu(id) => id,
        }
    }
}

/// Whether devices that no IOMMU isolates can be given to user space.
// V3: `enable_unsafe_noiommu_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NoIommuMode {
    /// They cannot.
    #[default]
    Disabled,
    /// They can, in groups of their own: user space can make such a device write to any memory.
    Enabled,
}
