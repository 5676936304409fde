//! What a context's objects are.

use alloc::sync::Arc;
use core::any::Any;

use iommu_core::Member;

use crate::fault_queue::Queue;
use crate::hwpt::Hwpt;
use crate::ioas::Ioas;
use crate::object_table::{self, Lent};

/// The type of an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ObjectType {
    /// A bound device.
    Device,
    /// An address space.
    Ioas,
    /// A page table that shows an address space.
    PagingHwpt,
    /// A page table of user space, nested on one of those.
    NestedHwpt,
    /// A user in the kernel.
    Access,
    /// A queue of page faults.
    FaultQueue,
    /// Something that whoever serves the context has added.
    Foreign,
}

/// Something that has an id.
#[derive(Debug, Clone)]
pub(crate) enum Object {
    Device(Arc<Member>),
    Ioas(Arc<Ioas>),
    Hwpt(Arc<Hwpt>),
    Access,
    FaultQueue(Arc<Queue>),
    Foreign(Arc<dyn Any + Send + Sync>),
}

/// The objects of a context.
pub(crate) type ObjectTable = object_table::ObjectTable<Object>;

impl Lent for Object {
    fn lent(&self) -> u32 {
        match self {
            // Calls get theirs under the table's lock, which is held: none comes, though some may go.
            Self::Ioas(ioas) => u32::try_from(Arc::strong_count(ioas) - 1).unwrap_or(u32::MAX),
            _ => 0,
        }
    }
}

impl Object {
    pub(crate) fn kind(&self) -> ObjectType {
        match self {
            Self::Device(_) => ObjectType::Device,
            Self::Ioas(_) => ObjectType::Ioas,
            Self::Hwpt(hwpt) if hwpt.is_nested() => ObjectType::NestedHwpt,
            Self::Hwpt(_) => ObjectType::PagingHwpt,
            Self::Access => ObjectType::Access,
            Self::FaultQueue(_) => ObjectType::FaultQueue,
            Self::Foreign(_) => ObjectType::Foreign,
        }
    }
}
