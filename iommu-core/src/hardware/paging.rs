//! Page tables: mapping, unmapping and flushing.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::any::Any;

use super::HardwareError;
use crate::address::{Geometry, Iova, IovaRange, PhysAddr, PhysRun, Protection};

bitflags::bitflags! {
    /// What a paging domain must be able to do besides paging.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct PagingFlags: u32 {
        /// Domains can be nested on it: it has the role [`NestingParent`](super::NestingParent).
        const NEST_PARENT = 1 << 0;
        /// It tracks dirty pages: it has the role [`DirtyTracking`].
        const DIRTY_TRACKING = 1 << 1;
    }
}

/// Pages of one size that are contiguous in physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRun {
    /// The address of the first page.
    pub phys: PhysAddr,
    /// The size of a page in bytes.
    pub page_size: u64,
    /// The number of pages.
    pub count: usize,
}

impl PageRun {
    /// Maps runs one behind the other from `iova` on by calls of `map_pages`, each as [`Paging::map_pages`], and adds to
    /// `mapped` what is mapped. For implementations of [`Paging::map_runs`].
    ///
    /// # Errors
    /// The first of `map_pages`, which ends it.
    #[inline]
    pub fn map_each<E>(
        runs: &[Self],
        iova: Iova,
        mapped: &mut u64,
        mut map_pages: impl FnMut(Iova, Self) -> Result<usize, E>,
    ) -> Result<(), E> {
        let mut at = iova.get();
        for run in runs {
            let mut left = *run;
            loop {
                let pages = map_pages(Iova::new(at), left)?.max(1).min(left.count);
                let bytes = left.page_size * pages as u64;
                (at, *mapped) = (at.wrapping_add(bytes), mapped.wrapping_add(bytes));
                if pages == left.count {
                    break;
                }
                let phys = PhysAddr::new(left.phys.get().wrapping_add(bytes));
                left = Self { phys, count: left.count - pages, ..left };
            }
        }
        Ok(())
    }
}

/// Role of a domain with page tables.
///
/// All calls may come with spinning locks held, the group lock among them: an implementation takes spinning locks only.
/// Two threads may call at once; that they do not map or unmap the same addresses is the caller's business, but must not
/// corrupt the tables.
pub trait Paging {
    /// Returns the page sizes and the aperture. Both stay the same for as long as the domain lives.
    fn geometry(&self) -> Geometry;

    /// Maps pages of one size at `iova` to `phys`, and returns how many: at least one and at most `count`. The caller calls
    /// again for the rest, and unmaps what was mapped if that fails.
    ///
    /// `page_size` is one of [`PageSizes`](crate::address::PageSizes), both addresses are multiples of it, `count` is not 0,
    /// all lies within the aperture, and `protection` permits reads or writes.
    ///
    /// # Errors
    /// Nothing was mapped: something is mapped at `iova` (`EEXIST`), or no memory for tables is left (`ENOMEM`).
    fn map_pages(
        &self,
        iova: Iova,
        phys: PhysAddr,
        page_size: u64,
        count: usize,
        protection: Protection,
    ) -> Result<usize, HardwareError>;

    /// Maps runs of pages one behind the other from `iova` on, and adds to `mapped` how many bytes it has mapped, also when it
    /// fails. What the caller keeps to is as for [`map_pages`](Self::map_pages), which by default is called for each run: an
    /// implementation may take its lock once for all of them.
    ///
    /// # Errors
    /// As for [`map_pages`](Self::map_pages). The caller unmaps what was mapped by then.
    fn map_runs(
        &self,
        iova: Iova,
        runs: &[PageRun],
        protection: Protection,
        mapped: &mut u64,
    ) -> Result<(), HardwareError> {
        PageRun::map_each(runs, iova, mapped, |at, run| {
            self.map_pages(at, run.phys, run.page_size, run.count, protection)
        })
    }

    /// Makes new mappings visible to hardware, where it caches what is *not* mapped or does not snoop page tables. Called once
    /// for a range that was mapped with any number of calls, before a device is told of it.
    ///
    /// # Errors
    /// Hardware did not answer. The caller unmaps the range.
    fn sync_map(&self, range: IovaRange) -> Result<(), HardwareError> {
        let _ = range;
        Ok(())
    }

    /// Unmaps from `iova` on until `count` pages of `page_size` are unmapped or a hole is met, and returns how many bytes
    /// were unmapped: more than asked for when a larger page lies across the end.
    ///
    /// Devices may reach what was unmapped until [`flush`](Self::flush): the range goes into `gather`, as do tables that
    /// became empty. What hardware cannot have cached need not go there; if nothing does, there is no flush.
    ///
    /// # Errors
    /// Hardware refused. What this call was to unmap is mapped as before, or must be taken as such.
    fn unmap_pages(&self, iova: Iova, page_size: u64, count: usize, gather: &mut Gather) -> Result<u64, HardwareError>;

    /// Drops what hardware has cached of the gathered range. When it returns, no access under what was unmapped is still on
    /// its way.
    ///
    /// # Errors
    /// Hardware did not answer: devices may still reach all that was gathered.
    fn flush(&self, gather: &Gather) -> Result<(), HardwareError>;

    /// Drops all that hardware has cached of this domain. As [`flush`](Self::flush) else.
    ///
    /// # Errors
    /// Hardware did not answer: devices may still reach all that was unmapped since the last flush.
    fn flush_all(&self) -> Result<(), HardwareError>;

    /// Returns where `iova` leads, or `None` where nothing is mapped.
    fn iova_to_phys(&self, iova: Iova) -> Option<PhysAddr>;

    /// Returns where a range begins in physical memory, and how much of it is contiguous from there on; `None` if its first
    /// address is not mapped. No page lies across the end of that, unless the range ends there.
    ///
    /// By default it calls [`iova_to_phys`](Self::iova_to_phys) for every page of the smallest size.
    fn iova_to_run(&self, range: IovaRange) -> Option<PhysRun> {
        let granule = self.geometry().page_sizes.smallest();
        let phys = self.iova_to_phys(range.first())?;
        let mut bytes = granule - (range.first().get() & (granule - 1));
        while bytes < range.bytes()
            && let (Some(at), Some(follows)) = (range.first().checked_add(bytes), phys.checked_add(bytes))
            && self.iova_to_phys(at) == Some(follows)
        {
            bytes += granule;
        }
        Some(PhysRun { phys, bytes: bytes.min(range.bytes()) })
    }

    /// Keeps devices from bypassing CPU caches through this domain from now on, in what is mapped later as well.
    ///
    /// # Errors
    /// `EOPNOTSUPP` unless the driver says otherwise.
    fn enforce_coherency(&self) -> Result<(), HardwareError> {
        Err(HardwareError::new(device_model::Errno::EOPNOTSUPP, "the domain cannot enforce coherency"))
    }
}

/// What was unmapped and is to be flushed: one range that covers it, and page tables that hardware may still walk.
#[derive(Debug, Default)]
pub struct Gather {
    range: Option<IovaRange>,
    page_size: u64,
    /// `None` for none, as most often.
    tables: Option<Vec<Box<dyn Any + Send>>>,
}

impl Gather {
    /// Creates an empty gather.
    pub const fn new() -> Self {
        Self { range: None, page_size: 0, tables: None }
    }

    /// Returns the smallest range that covers all that was added.
    pub const fn range(&self) -> Option<IovaRange> {
        self.range
    }

    /// Returns the size of the smallest page that was added, or 0 for none: the step for hardware that invalidates page by
    /// page.
    pub const fn page_size(&self) -> u64 {
        self.page_size
    }

    /// Adds a range that was mapped in pages of at least `page_size` bytes.
    pub fn add(&mut self, range: IovaRange, page_size: u64) {
        let sum =
            self.range.and_then(|old| IovaRange::new(old.first().min(range.first()), old.last().max(range.last())));
        self.range = sum.or(Some(range));
        self.page_size = if self.page_size == 0 { page_size } else { self.page_size.min(page_size) };
    }

    /// Adds all that another gather has.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        if let Some(range) = other.range {
            self.add(range, other.page_size);
        }
        if let Some(tables) = &mut other.tables {
            self.tables.get_or_insert_default().append(tables);
        }
    }

    /// Keeps a page table that became empty until the flush, for hardware may still walk it.
    pub fn retire(&mut self, table: Box<dyn Any + Send>) {
        self.tables.get_or_insert_default().push(table);
    }
}

bitflags::bitflags! {
    /// How dirty pages are read.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct DirtyFlags: u32 {
        /// Pages stay dirty; otherwise the next read tells of later writes only.
        const NO_CLEAR = 1 << 0;
    }
}

/// Up to 64 pages that lie side by side, and which of them were written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirtyPages {
    first: Iova,
    page_size: u64,
    written: u64,
}

impl DirtyPages {
    /// Describes pages of `page_size` bytes from `first` on; bit n of `written` stands for page n. Returns `None` if no bit is
    /// set, or the last page that was written does not lie in the 64-bit space.
    pub fn new(first: Iova, page_size: u64, written: u64) -> Option<Self> {
        let pages = u64::from(written.checked_ilog2()?) + 1;
        IovaRange::sized(first, page_size.checked_mul(pages)?)?;
        Some(Self { first, page_size, written })
    }

    /// Returns the size of a page.
    pub const fn page_size(self) -> u64 {
        self.page_size
    }

    /// Returns the address of the page that bit 0 of [`written`](Self::written) stands for.
    pub const fn first(self) -> Iova {
        self.first
    }

    /// Returns which pages were written, a bit each.
    pub const fn written(self) -> u64 {
        self.written
    }

    /// Returns the range from the first page that was written to the last.
    pub fn range(self) -> IovaRange {
        let (before, end) = (self.written.trailing_zeros(), u64::BITS - self.written.leading_zeros());
        self.bytes(before, end)
    }

    /// Returns the ranges that were written, ascending.
    pub fn runs(self) -> impl Iterator<Item = IovaRange> {
        let mut done = 0;
        core::iter::from_fn(move || {
            let left = self.written.checked_shr(done).filter(|left| *left != 0)?;
            let start = done + left.trailing_zeros();
            let end = start + (left >> left.trailing_zeros()).trailing_ones();
            done = end;
            Some(self.bytes(start, end))
        })
    }

    /// The range of some of the pages, which ends no later than with the last that was written.
    fn bytes(self, start: u32, end: u32) -> IovaRange {
        let at = |page: u32| self.first.get() + u64::from(page) * self.page_size;
        let (first, last) = (Iova::new(at(start)), Iova::new(at(end - 1) + (self.page_size - 1)));
        IovaRange::new(first, last).unwrap_or(IovaRange::ALL)
    }
}

/// Role of a paging domain that tracks dirty pages.
///
/// All calls come without the group lock.
pub trait DirtyTracking {
    /// Begins to track which pages are written.
    ///
    /// # Errors
    /// Hardware refused; nothing is tracked.
    fn start(&self) -> Result<(), HardwareError>;

    /// Ends tracking.
    ///
    /// # Errors
    /// Hardware refused; pages are tracked as before.
    fn stop(&self) -> Result<(), HardwareError>;

    /// Calls `dirty` with the pages of a range that were written, ascending. A page may stick out of the range. Holes are
    /// passed over. Spinning locks may be held meanwhile.
    ///
    /// Hardware that has a page cached as dirty does not mark it again. Without [`DirtyFlags::NO_CLEAR`] the cleared pages
    /// go into `gather`, and the caller flushes.
    ///
    /// # Errors
    /// Hardware refused. What was passed to `dirty` counts.
    fn read(
        &self,
        range: IovaRange,
        flags: DirtyFlags,
        gather: &mut Gather,
        dirty: &mut dyn FnMut(DirtyPages),
    ) -> Result<(), HardwareError>;
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use device_model::sync::Arc;
    use proptest::prelude::*;

    use super::*;

    fn range(first: u64, pages: u64) -> IovaRange {
        IovaRange::sized(Iova::new(first << 12), pages << 12).unwrap()
    }

    proptest! {
        /// Whatever is added, in one gather or in several: all of it is covered, in steps of the smallest page.
        #[test]
        fn a_gather_covers_all_that_was_added(
            added in prop::collection::vec((0..1_u64 << 50, 1..1000_u64, 12..31_u32, any::<bool>()), 0..12),
        ) {
            let (mut gather, mut other) = (Gather::new(), Gather::new());
            for (first, pages, bits, aside) in &added {
                let to = if *aside { &mut other } else { &mut gather };
                to.add(range(*first, *pages), 1 << bits);
            }
            gather.absorb(other);
            prop_assert_eq!(gather.range().is_none(), added.is_empty());
            for (first, pages, ..) in &added {
                prop_assert!(gather.range().is_some_and(|all| all.covers(range(*first, *pages))));
            }
            let smallest = added.iter().map(|(_, _, bits, _)| 1_u64 << bits).min();
            prop_assert_eq!(gather.page_size(), smallest.unwrap_or(0));
        }
    }

    /// Hardware may walk a table until the flush.
    #[test]
    fn retired_tables_live_as_long_as_the_gather() {
        let table = Arc::new(());
        let (mut gather, mut other) = (Gather::new(), Gather::new());
        other.retire(Box::new(table.clone()));
        gather.absorb(other);
        assert_eq!(Arc::strong_count(&table), 2);
        drop(gather);
        assert_eq!(Arc::strong_count(&table), 1);
    }
}
