//! Which pages were written.

use super::entry::{Entry, Kind};
use super::{End, PageTable, ROOT, format};
use crate::address::{Iova, IovaRange};
use crate::hardware::{DirtyFlags, DirtyPages};

impl PageTable {
    /// Marks the page at `iova` as dirty, if one is mapped there.
    pub fn mark_dirty(&mut self, iova: Iova) {
        if iova > self.format.last() {
            return;
        }
        let End { table, level, entry } = self.walk(iova.get());
        if entry.is_page() {
            self.replace(table, iova.get(), level, entry.dirtied());
        }
    }

    /// Calls `dirty` with the pages of a range that were written, ascending; holes are passed over. A page may stick out of
    /// the range.
    pub fn read_dirty(&mut self, range: IovaRange, flags: DirtyFlags, mut dirty: impl FnMut(DirtyPages)) {
        let (first, last) = (range.first().get(), range.last().min(self.format.last()).get());
        if first <= last {
            let mut read = ReadDirty { first, last, flags, dirty: &mut dirty };
            self.read_dirty_below(ROOT, self.top, 0, &mut read);
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
        let end = base.saturating_add(page.saturating_mul(512) - 1);
        let (first, last) = (read.first.max(base), read.last.min(end));
        let (first, last) = (format::index(first, level), format::index(last, level));
        if level == 0 {
            let entries = self.tables.get_mut(table).and_then(|entries| entries.get_mut(first..=last));
            let words = entries.unwrap_or_default().chunks_mut(64);
            words.zip((first..).step_by(64)).for_each(|(entries, place)| read.word(entries, at(place), page));
            return;
        }
        for place in first..=last {
            let Some(entry) = self.tables.get_mut(table).and_then(|entries| entries.get_mut(place)) else { return };
            match entry.kind() {
                Kind::Table(below) => self.read_dirty_below(below, level - 1, at(place), read),
                Kind::Page { .. } => read.word(core::slice::from_mut(entry), at(place), page),
                Kind::Empty => {}
            }
        }
    }
}

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
