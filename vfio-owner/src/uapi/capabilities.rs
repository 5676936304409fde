//! Capability chains, which follow an answer where the caller's buffer has room.

use alloc::vec::Vec;

use iommu_core::device_model::Errno;
use zerocopy::IntoBytes;

use super::argument::Argument;
use super::wire;
use crate::backend::IommuInfo;
use crate::device_ops::{DeviceInfo, MappableArea, PciAtomicOps, RegionCapability};

const IOMMU_IOVA_RANGE: u16 = 1;
const IOMMU_MIGRATION: u16 = 2;
const IOMMU_DMA_AVAIL: u16 = 3;

const DEVICE_ATOMIC_COMPLETER: u16 = 5;

const REGION_SPARSE_MMAP: u16 = 1;
const REGION_TYPE: u16 = 2;
const REGION_MSIX_MAPPABLE: u16 = 3;

/// What capabilities are aligned to.
const ALIGNMENT: usize = 8;

/// Capabilities that follow an answer.
pub(super) struct Chain {
    /// The size of the answer, from whose start offsets count.
    base: usize,
    bytes: Vec<u8>,
    /// Where the last capability's header is.
    last: Option<usize>,
}

impl Chain {
    /// An empty chain behind an answer `T`.
    pub(super) fn behind<T>() -> Self {
        Self { base: size_of::<T>(), bytes: Vec::new(), last: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn add(&mut self, id: u16, body: &[&[u8]]) {
        let at = self.bytes.len();
        if let Some(last) = self.last {
            let header = size_of::<wire::CapHeader>();
            let next = u32::try_from(self.base + at).unwrap_or(0);
            if let Some(place) = self.bytes.get_mut(last + header - size_of::<u32>()..last + header) {
                place.copy_from_slice(&next.to_ne_bytes());
            }
        }
        self.last = Some(at);
        self.bytes.extend_from_slice(wire::CapHeader { id, version: 1, next: 0 }.as_bytes());
        for part in body {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }

    /// Copies the chain behind the answer if the caller has room for all of it; else says in `argsz` how much there
    /// would have to be.
    // V75, F99a.
    pub(super) fn place(&self, argument: Argument<'_>, argsz: &mut u32, cap_offset: &mut u32) -> Result<(), Errno> {
        if self.is_empty() {
            return Ok(());
        }
        let needed = u32::try_from(self.base + self.bytes.len()).unwrap_or(u32::MAX);
        if *argsz < needed {
            (*argsz, *cap_offset) = (needed, 0);
            return Ok(());
        }
        argument.put(self.base as u64, &self.bytes)?;
        *cap_offset = u32::try_from(self.base).unwrap_or(0);
        Ok(())
    }
}

/// The capabilities of a container's IOMMU.
// F99.
pub(super) fn of_iommu(info: &IommuInfo) -> Chain {
    let mut chain = Chain::behind::<wire::Type1Info>();
    if let Some(migration) = info.migration {
        let cap = wire::MigrationCap {
            flags: 0,
            pad: 0,
            pgsize_bitmap: migration.page_sizes.bitmap(),
            max_dirty_bitmap_size: migration.max_bitmap_bytes,
        };
        chain.add(IOMMU_MIGRATION, &[cap.as_bytes()]);
    }
    chain.add(IOMMU_DMA_AVAIL, &[info.mappings_left.as_bytes()]);
    if !info.ranges.is_empty() {
        let head = wire::IovaRangeCap { nr_iovas: count(&info.ranges), reserved: 0 };
        let range =
            |range: &iommu_core::IovaRange| wire::IovaRange { start: range.first().get(), end: range.last().get() };
        let ranges: Vec<_> = info.ranges.iter().map(range).collect();
        chain.add(IOMMU_IOVA_RANGE, &[head.as_bytes(), ranges.as_bytes()]);
    }
    chain
}

/// The capabilities of a device.
// V74.
pub(super) fn of_device(info: &DeviceInfo) -> Chain {
    let mut chain = Chain::behind::<wire::DeviceInfo>();
    if info.atomics != PciAtomicOps::default() {
        let cap = wire::AtomicCompleter { flags: info.atomics.bits(), reserved: 0 };
        chain.add(DEVICE_ATOMIC_COMPLETER, &[cap.as_bytes()]);
    }
    chain
}

/// The capabilities of a region.
// V78.
pub(super) fn of_region(capabilities: &[RegionCapability]) -> Chain {
    let mut chain = Chain::behind::<wire::RegionInfo>();
    for capability in capabilities {
        match capability {
            RegionCapability::MsixMappable => chain.add(REGION_MSIX_MAPPABLE, &[]),
            RegionCapability::Type { kind, subtype } => {
                let cap = wire::RegionType { kind: *kind, subtype: *subtype };
                chain.add(REGION_TYPE, &[cap.as_bytes()]);
            }
            RegionCapability::SparseMmap(areas) => {
                let head = wire::SparseMmap { nr_areas: count(areas), reserved: 0 };
                let area = |area: &MappableArea| wire::SparseArea { offset: area.offset, size: area.size };
                let areas: Vec<_> = areas.iter().map(area).collect();
                chain.add(REGION_SPARSE_MMAP, &[head.as_bytes(), areas.as_bytes()]);
            }
        }
    }
    chain
}

fn count<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}
