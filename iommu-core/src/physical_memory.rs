//! The right to choose what physical memory a device reaches.

use alloc::sync::Arc;
use core::fmt;

/// The right to map physical memory through the domains of one [`IommuSubsystem`](crate::IommuSubsystem).
///
/// A device that can be made to reach any physical address can overwrite anything. So only whoever builds the subsystem
/// gets this right, and hands a clone to those that it trusts with memory: the DMA API, VFIO, iommufd.
#[derive(Clone)]
pub struct PhysicalMemory(Arc<Subsystem>);

/// Which subsystem: the allocation is the identity.
struct Subsystem;

impl PhysicalMemory {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Subsystem))
    }

    /// Returns whether both are of the same subsystem.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for PhysicalMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PhysicalMemory")
    }
}
