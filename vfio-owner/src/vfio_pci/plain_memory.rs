//! A model whose regions are plain memory.

use alloc::collections::BTreeMap;
use core::fmt;

use iommu_core::PhysAddr;
use iommu_core::device_model::sync::Mutex;
use iommu_core::software::Memory;

use super::FunctionModel;
use crate::device_ops::RegionIndex;

/// Plain memory behind every region, initially zero. Allocates only what was written.
#[derive(Default)]
pub struct PlainMemory {
    /// Those that were written. Leaf lock.
    windows: Mutex<BTreeMap<RegionIndex, Memory>>,
}

impl PlainMemory {
    /// Creates memory of zeros.
    pub fn new() -> Self {
        Self::default()
    }
}

impl FunctionModel for PlainMemory {
    fn read(&self, region: RegionIndex, offset: u64, into: &mut [u8]) {
        let written = self.windows.lock().get(&region).cloned();
        match written {
            Some(window) => window.read(PhysAddr::new(offset), into),
            None => into.fill(0),
        }
    }

    fn write(&self, region: RegionIndex, offset: u64, from: &[u8]) {
        let window = self.windows.lock().entry(region).or_default().clone();
        window.write(PhysAddr::new(offset), from);
    }

    fn reset(&self) {
        let written = core::mem::take(&mut *self.windows.lock());
        drop(written);
    }
}

impl fmt::Debug for PlainMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainMemory")
    }
}
