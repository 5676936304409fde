//! A model whose regions are plain memory.

use core::fmt;

use iommu_core::PhysAddr;
use iommu_core::device_model::sync::Mutex;
use iommu_core::software::Memory;

use super::FunctionModel;
use crate::device_ops::RegionIndex;

/// How many windows a function has at most, the ROM's counted.
const WINDOWS: usize = RegionIndex::CONFIG.number() as usize;

/// Plain memory behind every region, initially zero. Allocates only what was written.
#[derive(Default)]
pub struct PlainMemory {
    /// Leaf lock.
    windows: Mutex<[Memory; WINDOWS]>,
}

impl PlainMemory {
    /// Creates memory of zeros.
    pub fn new() -> Self {
        Self::default()
    }

    fn window(&self, region: RegionIndex) -> Option<Memory> {
        self.windows.lock().get(usize::try_from(region.number()).ok()?).cloned()
    }
}

impl FunctionModel for PlainMemory {
    fn read(&self, region: RegionIndex, offset: u64, into: &mut [u8]) {
        match self.window(region) {
            Some(window) => window.read(PhysAddr::new(offset), into),
            None => into.fill(0),
        }
    }

    fn write(&self, region: RegionIndex, offset: u64, from: &[u8]) {
        if let Some(window) = self.window(region) {
            window.write(PhysAddr::new(offset), from);
        }
    }

    fn reset(&self) {
        *self.windows.lock() = Default::default();
    }
}

impl fmt::Debug for PlainMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainMemory")
    }
}
