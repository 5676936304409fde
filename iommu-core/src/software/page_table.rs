//! Page tables as an IOMMU walks them: levels of 512 entries.

mod dirty;
mod entry;
mod format;

use alloc::vec::Vec;

use device_model::Errno;

use self::entry::{Entry, Kind};
pub use self::format::TableFormat;
use crate::address::{Access, Iova, IovaRange, PhysAddr, PhysRun, Protection};
use crate::hardware::{FaultReason, HardwareError};

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
/// A range is mapped with the largest pages that fit. No table is ever empty: those that unmapping empties are taken out, and
/// used again for the next. When nothing is mapped, the memory of many tables is freed, and that of a few is kept.
#[derive(Debug)]
pub struct PageTable {
    format: TableFormat,
    /// The level of the topmost table.
    top: u32,
    /// In one piece, so that a walk needs nothing but entries; the topmost first. An entry has the number of the table below.
    tables: Vec<[Entry; 512]>,
    /// How many entries of each table are not empty.
    used: Vec<usize>,
    /// Those that are not in use: all of their entries are empty.
    free: Vec<usize>,
    /// The table that was changed last, where walks begin that lead there: the next change is mostly near.
    near: Near,
}

/// A table that is in use, and the addresses that lead to it: those that have the bits of `base` where `mask` has any.
#[derive(Clone, Copy, Debug)]
struct Near {
    table: usize,
    level: u32,
    base: u64,
    mask: u64,
}

/// The number of the topmost table.
const ROOT: usize = 0;

/// So many tables are kept at most when nothing is mapped.
const KEPT: usize = 16;

/// Where a walk ends: at a page, or at nothing.
struct End {
    table: usize,
    level: u32,
    entry: Entry,
}

impl PageTable {
    /// Creates tables of this format in which nothing is mapped.
    pub fn new(format: TableFormat) -> Self {
        let top = format.levels() - 1;
        Self { format, top, tables: Vec::new(), used: Vec::new(), free: Vec::new(), near: Near::root(top) }
    }

    /// Returns the format.
    pub fn format(&self) -> TableFormat {
        self.format
    }

    /// Returns how many tables are in use; none when nothing is mapped.
    pub fn tables(&self) -> usize {
        let nothing = self.used.get(ROOT).is_none_or(|used| *used == 0);
        if nothing { 0 } else { self.tables.len() - self.free.len() }
    }

    /// Maps `size` bytes at `iova` to `phys`, in the largest pages that both addresses' alignment and the size allow.
    /// Mapping no bytes succeeds.
    ///
    /// # Errors
    /// As [`TableError`] says. Pages that this call had mapped by then are unmapped again.
    pub fn map(&mut self, iova: Iova, phys: PhysAddr, size: u64, protection: Protection) -> Result<(), TableError> {
        let sizes = self.format.page_sizes();
        if (iova.get() | phys.get() | size) & (sizes.smallest() - 1) != 0 {
            return Err(TableError::Misaligned);
        }
        if size == 0 {
            return Ok(());
        }
        self.check_range(iova, phys, size)?;
        let mut done = 0;
        while done < size {
            let (at, to) = (iova.get() + done, phys.get() + done);
            let (page, count) = sizes.first_run(at | to, at ^ to, size - done);
            match self.map_pages(Iova::new(at), PhysAddr::new(to), page, count, protection) {
                Ok(pages) => done += page * pages as u64,
                Err(error) => {
                    self.unmap(iova, done);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Checks that `size` bytes, one at least, lie in the aperture and in the physical space.
    #[inline]
    fn check_range(&self, iova: Iova, phys: PhysAddr, size: u64) -> Result<(), TableError> {
        let last = iova.checked_add(size - 1).filter(|last| *last <= self.format.last());
        last.zip(phys.checked_add(size - 1)).map(|_| ()).ok_or(TableError::OutOfRange)
    }

    /// Maps pages of one size that lie side by side in one table, and returns how many: at least one and at most `count`.
    /// Another table may hold the rest.
    ///
    /// # Errors
    /// As [`TableError`] says. Nothing was mapped.
    #[inline]
    pub fn map_pages(
        &mut self,
        iova: Iova,
        phys: PhysAddr,
        page_size: u64,
        count: usize,
        protection: Protection,
    ) -> Result<usize, TableError> {
        let level = self.format.level_of(page_size).ok_or(TableError::Misaligned)?;
        if (iova.get() | phys.get()) & (page_size - 1) != 0 || count == 0 || protection.is_empty() {
            return Err(TableError::Misaligned);
        }
        self.check_range(iova, phys, page_size.checked_mul(count as u64).ok_or(TableError::OutOfRange)?)?;
        let (iova, phys) = (iova.get(), phys.get());
        let table = self.table_for(iova, level).map_err(|Occupied| TableError::Overlap(Iova::new(iova)))?;
        self.near.go(table, level, iova);
        let (mut mapped, mut next) = (0, phys);
        let free =
            self.entries_from(table, iova, level).iter_mut().take(count).take_while(|entry| **entry == Entry::EMPTY);
        for entry in free {
            *entry = Entry::page(next, protection);
            (mapped, next) = (mapped + 1, next.wrapping_add(page_size));
        }
        if mapped == 0 {
            return Err(TableError::Overlap(Iova::new(self.first_page(table, iova, level))));
        }
        *self.used(table) += mapped;
        Ok(mapped)
    }

    /// The table of `level` on the way to `iova`; tables that are not there yet are made. When a page is in the way,
    /// it lies above all of those that would have to be made, so none has been.
    fn table_for(&mut self, iova: u64, level: u32) -> Result<usize, Occupied> {
        if self.tables.is_empty() {
            self.new_table();
        }
        let (mut table, mut above) = self.start(iova, level);
        while above > level {
            table = match self.entry(table, iova, above).kind() {
                Kind::Table(next) => next,
                Kind::Page { .. } => return Err(Occupied),
                Kind::Empty => self.add_table(table, iova, above),
            };
            above -= 1;
        }
        Ok(table)
    }

    /// Puts an empty table below this one, for `iova`.
    #[cold]
    fn add_table(&mut self, above: usize, iova: u64, level: u32) -> usize {
        let table = self.free.pop().unwrap_or_else(|| self.new_table());
        self.replace(above, iova, level, Entry::table(table));
        *self.used(above) += 1;
        table
    }

    #[cold]
    fn new_table(&mut self) -> usize {
        self.tables.push([Entry::EMPTY; 512]);
        self.used.push(0);
        self.tables.len() - 1
    }

    /// Unmaps from `iova` on until `size` bytes are unmapped or a hole is met, and returns how many bytes were unmapped.
    ///
    /// Pages are not split. A larger page across the end of the range goes as a whole, and so does one across its
    /// start: an address that was to be unmapped is never left mapped. With `iova` or `size` no multiple of the
    /// smallest page size nothing is unmapped.
    pub fn unmap(&mut self, iova: Iova, size: u64) -> u64 {
        let within = self.format.page_sizes().smallest() - 1;
        if size == 0 || iova > self.format.last() || (iova.get() | size) & within != 0 {
            return 0;
        }
        let last = iova.get().saturating_add(size - 1).min(self.format.last().get());
        let (mut at, mut unmapped) = (iova.get(), 0);
        loop {
            let (page, bytes) = self.unmap_run(at, last);
            unmapped += bytes;
            match (at & !(page - 1)).checked_add(bytes).filter(|next| bytes > 0 && *next <= last) {
                Some(next) => at = next,
                None => return unmapped,
            }
        }
    }

    /// Unmaps the pages from that of `at` to that of `last` that lie in one table, until a hole is met. Returns the size of a
    /// page, and of all of them; 0 for a hole at `at`.
    fn unmap_run(&mut self, at: u64, last: u64) -> (u64, u64) {
        let End { table, level, entry } = self.walk(at);
        let page = format::coverage(level);
        if entry == Entry::EMPTY {
            return (page, 0);
        }
        // As many as there are, were they all in one table.
        self.near.go(table, level, at);
        let behind = usize::try_from(last / page - at / page).unwrap_or(usize::MAX);
        let pages = self.entries_from(table, at, level).iter_mut().take(behind.saturating_add(1));
        let pages = pages.take_while(|entry| entry.is_page());
        let cleared = pages.map(|entry| *entry = Entry::EMPTY).count();
        let used = self.used(table);
        *used -= cleared;
        if *used == 0 {
            self.take_out_empty(at, level);
        }
        (page, page * cleared as u64)
    }

    /// Takes out the tables on the way to `iova` that are empty, of which that of `level` is the lowest.
    #[cold]
    fn take_out_empty(&mut self, iova: u64, level: u32) {
        for above in level + 1..=self.top {
            // Those above it are not empty yet, so the way leads there.
            let Ok(table) = self.table_for(iova, above) else { return };
            let Kind::Table(below) = self.entry(table, iova, above).kind() else { return };
            if *self.used(below) > 0 {
                return;
            }
            self.free.push(below);
            self.near = Near::root(self.top);
            self.replace(table, iova, above, Entry::EMPTY);
            *self.used(table) -= 1;
        }
        if *self.used(ROOT) == 0 && self.tables.len() > KEPT {
            *self = Self::new(self.format);
        }
    }

    /// A table of this level or above it on the way to `iova`, and its level.
    #[inline]
    fn start(&self, iova: u64, level: u32) -> (usize, u32) {
        let Near { table, level: known, base, mask } = self.near;
        if known >= level && (iova ^ base) & mask == 0 { (table, known) } else { (ROOT, self.top) }
    }

    /// Goes down to where `iova` leads.
    #[inline]
    fn walk(&self, iova: u64) -> End {
        let (mut table, mut level) = self.start(iova, 0);
        loop {
            let entry = self.entry(table, iova, level);
            let Kind::Table(below) = entry.kind() else { return End { table, level, entry } };
            (table, level) = (below, level - 1);
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
        let End { level, entry, .. } = self.walk(iova.get());
        let Kind::Page { phys, protection } = entry.kind() else { return Err(FaultReason::NotMapped) };
        let page_size = format::coverage(level);
        let inside = iova.get() & (page_size - 1);
        let phys = PhysAddr::new(phys | inside);
        Ok(Translation { phys, remaining: page_size - inside, page_size, protection })
    }

    /// Returns where a range begins in physical memory, and how much of it is contiguous from there on; `None` if its first
    /// address is not mapped.
    pub fn lookup_run(&self, range: IovaRange) -> Option<PhysRun> {
        let first = self.lookup(range.first()).ok()?;
        let mut run = PhysRun { phys: first.phys, bytes: first.remaining };
        while let Some(next) = range.first().checked_add(run.bytes).filter(|next| *next <= range.last())
            && let Ok(translation) = self.lookup(next)
            && run.end() == Some(translation.phys)
        {
            run.bytes += translation.remaining;
        }
        Some(PhysRun { bytes: run.bytes.min(range.bytes()), ..run })
    }

    /// Returns where an access to `iova` that needs `wanted` goes.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup), or [`FaultReason::NotPermitted`].
    pub fn translate(&self, iova: Iova, wanted: Access) -> Result<Translation, FaultReason> {
        let translation = self.lookup(iova)?;
        if translation.protection.permits(wanted) { Ok(translation) } else { Err(FaultReason::NotPermitted) }
    }

    /// The first address from `base` on that is mapped in this table or in those below it.
    fn first_page(&self, mut table: usize, mut base: u64, mut level: u32) -> u64 {
        loop {
            let mut entries = (0..512).map(|n| base + n * format::coverage(level));
            let Some(first) = entries.find(|at| self.entry(table, *at, level) != Entry::EMPTY) else { return base };
            base = first;
            let Kind::Table(below) = self.entry(table, first, level).kind() else { return base };
            (table, level) = (below, level - 1);
        }
    }

    /// The entries of a table from that of `iova` on.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "an index is below 512, and an entry names a table that is there")]
    fn entries_from(&mut self, table: usize, iova: u64, level: u32) -> &mut [Entry] {
        &mut self.tables[table][format::index(iova, level)..]
    }

    /// An entry; empty where no table is.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "an index is below 512")]
    fn entry(&self, table: usize, iova: u64, level: u32) -> Entry {
        self.tables.get(table).map_or(Entry::EMPTY, |entries| entries[format::index(iova, level)])
    }

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "an index is below 512, and an entry names a table that is there")]
    fn replace(&mut self, table: usize, iova: u64, level: u32, entry: Entry) {
        self.tables[table][format::index(iova, level)] = entry;
    }

    /// How many entries of a table are not empty.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "an entry names a table that is there")]
    fn used(&mut self, table: usize) -> &mut usize {
        &mut self.used[table]
    }
}

impl Near {
    /// The topmost table, to which all addresses lead.
    const fn root(top: u32) -> Self {
        Self { table: ROOT, level: top, base: 0, mask: 0 }
    }

    /// Goes on to a table of this level, to which `iova` leads.
    #[inline]
    fn go(&mut self, table: usize, level: u32, iova: u64) {
        if table != self.table {
            *self = Self { table, level, base: iova, mask: format::above(level) };
        }
    }
}

/// A page lies where a table would have to be.
struct Occupied;

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
