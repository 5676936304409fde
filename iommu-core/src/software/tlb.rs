//! The translation cache of a domain, which serves what it holds until it is flushed.

use alloc::collections::BTreeMap;

use super::page_table::Translation;
use crate::address::{Iova, IovaRange, PhysAddr, Protection};

/// Pages that were translated, by their first address. None is ever evicted, so that a missing flush always shows.
#[derive(Debug, Default)]
pub(super) struct Tlb(BTreeMap<u64, Cached>);

/// A page as it was when it was first translated.
#[derive(Debug)]
struct Cached {
    phys: PhysAddr,
    page_size: u64,
    protection: Protection,
    /// Whether the page table says that it was written.
    dirty: bool,
}

impl Tlb {
    /// The cached translation of `iova`, and whether its page is known to be dirty.
    pub(super) fn lookup(&self, iova: Iova) -> Option<(Translation, bool)> {
        let (start, cached) = self.0.range(..=iova.get()).next_back()?;
        let inside = iova.get() - start;
        let remaining = cached.page_size.checked_sub(inside).filter(|left| *left > 0)?;
        let phys = cached.phys.checked_add(inside)?;
        let Cached { page_size, protection, dirty, .. } = *cached;
        Some((Translation { phys, remaining, page_size, protection }, dirty))
    }

    /// Keeps the page of `translation`, which is that of `iova`.
    pub(super) fn fill(&mut self, iova: Iova, translation: Translation, dirty: bool) {
        let Translation { phys, page_size, protection, .. } = translation;
        let within = page_size - 1;
        let phys = PhysAddr::new(phys.get() & !within);
        self.0.insert(iova.get() & !within, Cached { phys, page_size, protection, dirty });
    }

    pub(super) fn flush(&mut self, range: IovaRange) {
        self.0.retain(|start, cached| {
            IovaRange::sized(Iova::new(*start), cached.page_size).is_some_and(|page| !page.overlaps(range))
        });
    }
}
