//! Page tables as an IOMMU walks them: levels of 512 entries.

mod entry;
mod format;

use alloc::boxed::Box;

use device_model::Errno;
use slab::Slab;

use self::entry::{Entry, Kind};
pub use self::format::TableFormat;
use crate::address::{Access, Iova, IovaRange, PhysAddr, Protection};
use crate::hardware::{DirtyFlags, DirtyPages, FaultReason, HardwareError};

/// Why nothing was mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TableError {
    /// An address or the size is no multiple of the page size, or there are no pages of this size (`EINVAL`).
    #[error("not a multiple of a page size")]
    Misaligned,
    /// The range leaves the aperture, or the physical range the 64-bit space (`ERANGE`).
    #[error("the range leaves the aperture")]
    OutOfRange,
    /// The first page of the range that is mapped already (`EEXIST`).
    #[error("a page is mapped at {0} already")]
    Overlap(Iova),
}

impl TableError {
    /// Returns the error number.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Misaligned => Errno::EINVAL,
            Self::OutOfRange => Errno::ERANGE,
            Self::Overlap(_) => Errno::EEXIST,
        }
    }
}

impl From<TableError> for HardwareError {
    fn from(error: TableError) -> Self {
        Self::new(error.errno(), alloc::format!("{error}"))
    }
}

/// Where an address leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The physical address.
    pub phys: PhysAddr,
    /// How many bytes from there on the same page holds; at least one.
    pub remaining: u64,
    /// The size of the page; 0 for an address that is not translated.
    pub page_size: u64,
    /// What the page permits.
    pub protection: Protection,
}

/// The page tables of one domain.
///
/// A range is mapped with the largest pages that fit. No table but the topmost is ever empty: unmapping frees the tables
/// that it empties. Dropping the whole frees every table.
#[derive(Debug)]
pub struct PageTable {
    format: TableFormat,
    tables: Slab<Table>,
    root: usize,
}

#[derive(Debug)]
struct Table {
    entries: Box<[Entry; 512]>,
    used: usize,
}

impl PageTable {
    /// Creates tables of this format in which nothing is mapped.
    pub fn new(format: TableFormat) -> Self {
        let mut page_table = Self { format, tables: Slab::new(), root: 0 };
        page_table.root = page_table.add_table();
        page_table
    }

    /// Returns the format.
    pub fn format(&self) -> TableFormat {
        self.format
    }

    /// Returns how many tables there are, the topmost included.
    pub fn tables(&self) -> usize {
        self.tables.len()
    }

    /// Maps `size` bytes at `iova` to `phys`, in the largest pages that both addresses' alignment and the size allow.
    /// Mapping no bytes succeeds.
    ///
    /// # Errors
    /// As [`TableError`] says. Pages that this call had mapped by then are unmapped again.
    pub fn map(&mut self, iova: Iova, phys: PhysAddr, size: u64, protection: Protection) -> Result<(), TableError> {
        let sizes = self.format.page_sizes();
        let smallest = sizes.smallest();
        if !(iova.is_aligned(smallest) && phys.is_aligned(smallest) && size.is_multiple_of(smallest)) {
            return Err(TableError::Misaligned);
        }
        let mut done = 0;
        self.check_range(iova, phys, size)?;
        while let (true, Some(at), Some(to)) = (done < size, iova.checked_add(done), phys.checked_add(done)) {
            let (page, count) = sizes.first_run(at.get() | to.get(), at.get() ^ to.get(), size - done);
            match self.map_pages(at, to, page, count, protection) {
                Ok(pages) => done += page * pages as u64,
                Err(error) => {
                    self.unmap(iova, done);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn check_range(&self, iova: Iova, phys: PhysAddr, size: u64) -> Result<(), TableError> {
        let span = size.saturating_sub(1);
        let last = iova.checked_add(span).filter(|last| size == 0 || *last <= self.format.last());
        if last.is_some() && phys.checked_add(span).is_some() { Ok(()) } else { Err(TableError::OutOfRange) }
    }

    /// Maps pages of one size that lie side by side in one table, and returns how many: at least one and at most `count`.
    /// Another table may hold the rest.
    ///
    /// # Errors
    /// As [`TableError`] says. Nothing was mapped.
    pub fn map_pages(
        &mut self,
        iova: Iova,
        phys: PhysAddr,
        page_size: u64,
        count: usize,
        protection: Protection,
    ) -> Result<usize, TableError> {
        let level = self.format.level_of(page_size).ok_or(TableError::Misaligned)?;
        if !(iova.is_aligned(page_size) && phys.is_aligned(page_size)) || count == 0 || protection.is_empty() {
            return Err(TableError::Misaligned);
        }
        self.check_range(iova, phys, page_size.checked_mul(count as u64).ok_or(TableError::OutOfRange)?)?;
        let (iova, phys) = (iova.get(), phys.get());
        let table = self.table_for(iova, level).map_err(|Occupied| TableError::Overlap(Iova::new(iova)))?;
        let (mut mapped, mut next) = (0, phys);
        let free =
            self.entries_from(table, iova, level).iter_mut().take(count).take_while(|entry| **entry == Entry::EMPTY);
        for entry in free {
            *entry = Entry::page(next, protection);
            (mapped, next) = (mapped + 1, next.wrapping_add(page_size));
        }
        if mapped == 0 {
            let taken = match self.entry(table, iova, level).kind() {
                Kind::Table(below) => self.first_page(below, iova, level - 1),
                Kind::Empty | Kind::Page { .. } => iova,
            };
            return Err(TableError::Overlap(Iova::new(taken)));
        }
        self.count(table, |used| used + mapped);
        Ok(mapped)
    }

    /// The table of `level` on the way to `iova`; tables that are not there yet are made. When a page is in the way,
    /// it lies above all of those that would have to be made, so none has been.
    fn table_for(&mut self, iova: u64, level: u32) -> Result<usize, Occupied> {
        let mut table = self.root;
        for above in (level + 1..self.format.levels()).rev() {
            table = match self.entry(table, iova, above).kind() {
                Kind::Table(next) => next,
                Kind::Page { .. } => return Err(Occupied),
                Kind::Empty => {
                    let next = self.add_table();
                    self.set(table, iova, above, Entry::table(next));
                    next
                }
            };
        }
        Ok(table)
    }

    /// Unmaps from `iova` on until `size` bytes are unmapped or a hole is met, and returns how many bytes were unmapped.
    ///
    /// Pages are not split. A larger page across the end of the range goes as a whole, and so does one across its
    /// start: an address that was to be unmapped is never left mapped. With `iova` or `size` no multiple of the
    /// smallest page size nothing is unmapped.
    pub fn unmap(&mut self, iova: Iova, size: u64) -> u64 {
        let smallest = self.format.page_sizes().smallest();
        if size == 0 || iova > self.format.last() || !iova.is_aligned(smallest) || !size.is_multiple_of(smallest) {
            return 0;
        }
        let last = iova.get().saturating_add(size - 1).min(self.format.last().get());
        let mut sweep = Sweep { at: Some(iova.get()), last, unmapped: 0 };
        self.sweep(self.root, self.format.levels() - 1, &mut sweep);
        sweep.unmapped
    }

    /// Unmaps what `sweep` asks for in this table and those below it; goes as deep as there are levels.
    fn sweep(&mut self, table: usize, level: u32, sweep: &mut Sweep) {
        while let Some(at) = sweep.at {
            match self.entry(table, at, level).kind() {
                Kind::Empty => sweep.at = None,
                Kind::Page { .. } => {
                    let left = sweep.left(at, level);
                    let pages = self.entries_from(table, at, level).iter_mut().take(left);
                    let pages = pages.take_while(|entry| matches!(entry.kind(), Kind::Page { .. }));
                    let cleared = pages.map(|entry| *entry = Entry::EMPTY).count();
                    self.count(table, |used| used - cleared);
                    sweep.pass(at, level, cleared as u64);
                }
                Kind::Table(below) => {
                    self.sweep(below, level - 1, sweep);
                    if self.tables.get(below).is_some_and(|table| table.used == 0) {
                        self.tables.try_remove(below);
                        self.set(table, at, level, Entry::EMPTY);
                    }
                }
            }
            if sweep.at.is_some_and(|next| format::index(next, level) == 0) {
                return;
            }
        }
    }

    /// Returns where `iova` leads, whatever the access.
    ///
    /// # Errors
    /// [`FaultReason::BeyondAperture`] or [`FaultReason::NotMapped`].
    pub fn lookup(&self, iova: Iova) -> Result<Translation, FaultReason> {
        if iova > self.format.last() {
            return Err(FaultReason::BeyondAperture);
        }
        let mut table = self.root;
        for level in (0..self.format.levels()).rev() {
            match self.entry(table, iova.get(), level).kind() {
                Kind::Empty => break,
                Kind::Table(below) => table = below,
                Kind::Page { phys, protection } => {
                    let page_size = format::coverage(level);
                    let inside = iova.get() & (page_size - 1);
                    let phys = PhysAddr::new(phys | inside);
                    return Ok(Translation { phys, remaining: page_size - inside, page_size, protection });
                }
            }
        }
        Err(FaultReason::NotMapped)
    }

    /// Returns where an access to `iova` that needs `wanted` goes.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup), or [`FaultReason::NotPermitted`].
    pub fn translate(&self, iova: Iova, wanted: Access) -> Result<Translation, FaultReason> {
        let translation = self.lookup(iova)?;
        if translation.protection.permits(wanted) { Ok(translation) } else { Err(FaultReason::NotPermitted) }
    }

    /// Marks the page at `iova` as dirty, if one is mapped there.
    pub fn mark_dirty(&mut self, iova: Iova) {
        if iova > self.format.last() {
            return;
        }
        let mut table = self.root;
        for level in (0..self.format.levels()).rev() {
            let entry = self.entry(table, iova.get(), level);
            match entry.kind() {
                Kind::Empty => return,
                Kind::Table(below) => table = below,
                Kind::Page { .. } => return self.replace(table, iova.get(), level, entry.dirtied()),
            }
        }
    }

    /// Calls `dirty` with the pages of a range that were written, ascending; holes are passed over. A page may stick out of
    /// the range.
    pub fn read_dirty(&mut self, range: IovaRange, flags: DirtyFlags, mut dirty: impl FnMut(DirtyPages)) {
        let (first, last) = (range.first().get(), range.last().min(self.format.last()).get());
        if first <= last {
            let mut read = ReadDirty { first, last, flags, dirty: &mut dirty };
            self.read_dirty_below(self.root, self.format.levels() - 1, 0, &mut read);
        }
    }

    /// As [`read_dirty`](Self::read_dirty), in one table, which covers what lies from `base` on, and those below it.
    fn read_dirty_below<F: FnMut(DirtyPages)>(
        &mut self,
        table: usize,
        level: u32,
        base: u64,
        read: &mut ReadDirty<'_, F>,
    ) {
        let page = format::coverage(level);
        let at = |place: usize| base + place as u64 * page;
        let end = base + (page * 512 - 1);
        let (first, last) = (read.first.max(base), read.last.min(end));
        let (first, last) = (format::index(first, level), format::index(last, level));
        if level == 0 {
            let entries = self.tables.get_mut(table).and_then(|table| table.entries.get_mut(first..=last));
            let words = entries.unwrap_or_default().chunks_mut(64);
            words.zip((first..).step_by(64)).for_each(|(entries, place)| read.word(entries, at(place), page));
            return;
        }
        for place in first..=last {
            let Some(entry) = self.tables.get_mut(table).and_then(|table| table.entries.get_mut(place)) else { return };
            match entry.kind() {
                Kind::Table(below) => self.read_dirty_below(below, level - 1, at(place), read),
                Kind::Page { .. } => read.word(core::slice::from_mut(entry), at(place), page),
                Kind::Empty => {}
            }
        }
    }

    /// Changes an entry that is not empty to another one that is not.
    #[expect(clippy::indexing_slicing, reason = "an index is below 512, and an entry names a table that is there")]
    fn replace(&mut self, table: usize, iova: u64, level: u32, entry: Entry) {
        self.tables[table].entries[format::index(iova, level)] = entry;
    }

    /// The first address that is mapped in this table, which covers what lies from `base` on, or in those below it.
    fn first_page(&self, mut table: usize, mut base: u64, mut level: u32) -> u64 {
        loop {
            let mut entries = (0..512).map(|n| base + n * format::coverage(level));
            let Some(first) = entries.find(|at| self.entry(table, *at, level) != Entry::EMPTY) else { return base };
            base = first;
            let Kind::Table(below) = self.entry(table, first, level).kind() else { return base };
            (table, level) = (below, level - 1);
        }
    }

    fn add_table(&mut self) -> usize {
        self.tables.insert(Table { entries: Box::new([Entry::EMPTY; 512]), used: 0 })
    }

    /// The entries of a table from that of `iova` on.
    #[expect(clippy::indexing_slicing, reason = "an index is below 512, and an entry names a table that is there")]
    fn entries_from(&mut self, table: usize, iova: u64, level: u32) -> &mut [Entry] {
        &mut self.tables[table].entries[format::index(iova, level)..]
    }

    #[expect(clippy::indexing_slicing, reason = "an entry names a table that is there")]
    fn count(&mut self, table: usize, used: impl FnOnce(usize) -> usize) {
        let table = &mut self.tables[table];
        table.used = used(table.used);
    }

    #[expect(clippy::indexing_slicing, reason = "an index is below 512, and an entry names a table that is there")]
    fn entry(&self, table: usize, iova: u64, level: u32) -> Entry {
        self.tables[table].entries[format::index(iova, level)]
    }

    #[expect(clippy::indexing_slicing, reason = "an index is below 512, and an entry names a table that is there")]
    fn set(&mut self, table: usize, iova: u64, level: u32, entry: Entry) {
        let table = &mut self.tables[table];
        table.entries[format::index(iova, level)] = entry;
        if entry == Entry::EMPTY {
            table.used -= 1;
        } else {
            table.used += 1;
        }
    }
}

/// A page lies where a table would have to be.
struct Occupied;

/// What is asked of dirty pages.
struct ReadDirty<'a, F> {
    first: u64,
    last: u64,
    flags: DirtyFlags,
    dirty: &'a mut F,
}

impl<F: FnMut(DirtyPages)> ReadDirty<'_, F> {
    /// Reads up to 64 entries, the first of which is that of `at`.
    fn word(&mut self, entries: &mut [Entry], at: u64, page: u64) {
        let written = Entry::dirty(entries);
        if let Some(pages) = DirtyPages::new(Iova::new(at), page, written) {
            if !self.flags.contains(DirtyFlags::NO_CLEAR) {
                for entry in entries {
                    *entry = entry.cleaned();
                }
            }
            (self.dirty)(pages);
        }
    }
}

/// How far an unmap has come.
struct Sweep {
    /// The next address, or `None` when the range or the mappings have come to an end.
    at: Option<u64>,
    last: u64,
    unmapped: u64,
}

impl Sweep {
    /// How many entries there are from that of `at` to the end of the range, were they all in one table.
    fn left(&self, at: u64, level: u32) -> usize {
        let entries = self.last / format::coverage(level) - at / format::coverage(level);
        usize::try_from(entries).map_or(usize::MAX, |entries| entries.saturating_add(1))
    }

    /// So many pages from that of `at` on are gone.
    fn pass(&mut self, at: u64, level: u32, pages: u64) {
        let page = format::coverage(level);
        let bytes = page * pages;
        self.unmapped += bytes;
        self.at = (at & !(page - 1)).checked_add(bytes).filter(|next| *next <= self.last);
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
