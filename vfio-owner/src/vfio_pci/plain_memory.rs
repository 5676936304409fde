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
    /// Those that were written. Leaf lock.
    windows: Mutex<[Option<Memory>; WINDOWS]>,
}

impl PlainMemory {
    /// Creates memory of zeros.
    pub fn new() -> Self {
        Self::default()
    }
}

fn place(region: RegionIndex) -> usize {
    usize::try_from(region.number()).unwrap_or(usize::MAX)
}

impl FunctionModel for PlainMemory {
    fn read(&self, region: RegionIndex, offset: u64, into: &mut [u8]) {
        let written = self.windows.lock().get(place(region)).cloned().flatten();
        match written {
            Some(window) => window.read(PhysAddr::new(offset), into),
            None => into.fill(0),
        }
    }

    fn write(&self, region: RegionIndex, offset: u64, from: &[u8]) {
        let window = self.windows.lock().get_mut(place(region)).map(|window| window.get_or_insert_default().clone());
        if let Some(window) = window {
            window.write(PhysAddr::new(offset), from);
        }
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
