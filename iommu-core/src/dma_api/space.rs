//! The addresses of a default domain: which are taken, and which wait for a flush.

use alloc::vec::Vec;

use device_model::sync::atomic::{AtomicBool, Ordering};
use device_model::sync::{LockClass, SpinMutex};

use crate::address::{Iova, IovaRange};
use crate::domain::Domain;
use crate::hardware::{DomainKind, Gather, HardwareError};
use crate::iova_map::IovaMap;
use crate::reserved::ReservedRegion;

const IOVAS: LockClass = LockClass::new("addresses of a default domain", 850);

/// How many unmapped ranges wait for a flush at the most, in a lazy domain.
pub(crate) const FLUSH_QUEUE: usize = 256;

/// The I/O virtual addresses of a default domain.
#[derive(Debug)]
pub(crate) struct DmaSpace {
    lazy: AtomicBool,
    iovas: SpinMutex<Iovas>,
}

#[derive(Debug)]
struct Iovas {
    /// Mapped, reserved, or waiting for a flush.
    taken: IovaMap<()>,
    /// Unmapped in the page tables, but perhaps cached by hardware. Has room for `FLUSH_QUEUE` ranges once any is allocated.
    queue: Vec<IovaRange>,
    /// The page tables that became empty by these unmaps.
    gathers: Gather,
}

impl DmaSpace {
    /// The addresses of a domain of this kind, if the DMA API maps into such domains.
    pub(crate) fn new(kind: DomainKind) -> Option<Self> {
        let lazy = match kind {
            DomainKind::Dma => false,
            DomainKind::DmaLazy => true,
            DomainKind::Blocking | DomainKind::Identity | DomainKind::Paging | DomainKind::Nested => return None,
        };
        let iovas = Iovas { taken: IovaMap::new(), queue: Vec::new(), gathers: Gather::new() };
        Some(Self { lazy: AtomicBool::new(lazy), iovas: SpinMutex::of(IOVAS, iovas) })
    }

    /// Flushes in batches from now on.
    pub(crate) fn turn_lazy(&self) {
        self.lazy.store(true, Ordering::Release);
    }

    /// Takes reserved regions out of what is allocated. Where an address is taken already it stays so.
    pub(crate) fn reserve(&self, regions: &[ReservedRegion]) {
        let mut iovas = self.iovas.lock();
        for range in regions.iter().filter_map(|region| IovaRange::new(region.first, region.last)) {
            let taken: Vec<IovaRange> = iovas.taken.overlapping(range).map(|(taken, ())| taken).collect();
            for free in range.without(taken) {
                // What is left overlaps nothing.
                let _ = iovas.taken.insert(free, ());
            }
        }
    }

    /// Takes the lowest `bytes` bytes in `within` that are free and begin `offset` past a multiple of `alignment`.
    pub(crate) fn allocate(&self, bytes: u64, alignment: u64, offset: u64, within: IovaRange) -> Option<IovaRange> {
        let mut iovas = self.iovas.lock();
        let range = iovas.taken.find_gap(bytes, alignment, offset, within)?;
        iovas.taken.insert(range, ()).ok()?;
        if iovas.queue.capacity() == 0 {
            iovas.queue.reserve_exact(FLUSH_QUEUE);
        }
        Some(range)
    }

    /// Gives up a range that was never mapped, or is flushed.
    pub(crate) fn free(&self, range: IovaRange) {
        self.iovas.lock().taken.remove(range.first());
    }

    /// Unmaps a range. In a strict domain it is flushed and free when this returns; in a lazy one it becomes free with the
    /// next flush of the queue.
    ///
    /// When hardware refuses, the range stays taken for ever.
    pub(crate) fn unmap(&self, domain: &Domain, range: IovaRange) -> Result<(), HardwareError> {
        if !self.lazy.load(Ordering::Acquire) {
            unmap_whole(domain, range, |gather| domain.flush(gather))?;
            self.free(range);
            return Ok(());
        }
        let mut iovas = self.iovas.lock();
        unmap_whole(domain, range, |gather| {
            iovas.gathers.absorb(core::mem::take(gather));
            Ok(())
        })?;
        iovas.queue.push(range);
        if iovas.queue.len() < FLUSH_QUEUE { Ok(()) } else { iovas.flush(domain) }
    }

    /// Flushes what waits for it.
    pub(crate) fn flush(&self, domain: &Domain) -> Result<(), HardwareError> {
        self.iovas.lock().flush(domain)
    }
}

/// Unmaps all of a range that is mapped; a part that is left mapped is a refusal, too.
fn unmap_whole(
    domain: &Domain,
    range: IovaRange,
    flush: impl FnOnce(&mut Gather) -> Result<(), HardwareError>,
) -> Result<(), HardwareError> {
    let mut gather = Gather::new();
    let unmapped = domain.unmap_gather(range.first(), range.bytes(), &mut gather);
    // What was unmapped is flushed even if the rest was refused.
    flush(&mut gather)?;
    if unmapped? < range.bytes() {
        return Err(HardwareError::new(device_model::Errno::EIO, "the IOMMU left a part of the range mapped"));
    }
    Ok(())
}

impl Iovas {
    /// Flushes the domain, after which all that waited is free. If hardware refuses, none of it is ever used again.
    fn flush(&mut self, domain: &Domain) -> Result<(), HardwareError> {
        if self.queue.is_empty() {
            return Ok(());
        }
        let gathers = core::mem::take(&mut self.gathers);
        let flushed = domain.flush_all();
        match &flushed {
            Ok(()) => {
                for range in &self.queue {
                    self.taken.remove(range.first());
                }
            }
            // Hardware may still walk the page tables.
            Err(_) => core::mem::forget(gathers),
        }
        self.queue.clear();
        flushed
    }
}

/// The addresses that a device with this mask reaches in a domain, but for the first page: an address of 0 is seldom what
/// a driver means.
pub(crate) fn reachable(domain: &Domain, mask: u64) -> Option<IovaRange> {
    let geometry = domain.geometry()?;
    let first = geometry.first.get().max(geometry.page_sizes.smallest());
    IovaRange::new(Iova::new(first), geometry.last.min(Iova::new(mask)))
}
