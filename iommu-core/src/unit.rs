//! An IOMMU as a group and its domains know it.

use alloc::sync::Arc;
use core::fmt;

use crate::hardware::IommuDriver;
use crate::physical_memory::PhysicalMemory;

/// The IOMMU of a group. One count of references for all that a domain keeps of it.
pub(crate) struct Unit {
    driver: Arc<dyn IommuDriver>,
    /// Made in advance, for an error that is found under the group lock allocates nothing.
    name: Arc<str>,
    /// Which right to map physical memory its domains take.
    memory: PhysicalMemory,
}

impl Unit {
    pub(crate) fn new(driver: Arc<dyn IommuDriver>, memory: PhysicalMemory) -> Arc<Self> {
        let name = driver.name().into();
        Arc::new(Self { driver, name, memory })
    }

    pub(crate) fn driver(&self) -> &Arc<dyn IommuDriver> {
        &self.driver
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether this right covers its domains.
    pub(crate) fn is_covered_by(&self, memory: &PhysicalMemory) -> bool {
        self.memory.is_same(memory)
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.driver.fmt(f)
    }
}
