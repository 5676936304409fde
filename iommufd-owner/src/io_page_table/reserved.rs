//! Ranges that may not be mapped, each with whoever needs it.
// F14.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use iommu_core::{Iova, IovaRange};

use crate::object_id::ObjectId;

/// For what a range may not be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReservedFor {
    /// A device that is attached needs it for itself.
    Device(ObjectId),
    /// A domain does not reach it.
    Domain(ObjectId),
    /// Whoever serves the context wants it so.
    Embedder,
}

/// Reserved ranges, which may overlap one another.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    by_owner: BTreeMap<ReservedFor, Vec<IovaRange>>,
    /// How many reservations cover the addresses from each key to before the next one; none before the first key. Two
    /// that touch differ.
    cover: BTreeMap<Iova, u32>,
}

impl Reserved {
    pub(super) fn insert(&mut self, range: IovaRange, whose: ReservedFor) {
        self.by_owner.entry(whose).or_default().push(range);
        self.change(range, |count| count.saturating_add(1));
    }

    pub(super) fn remove(&mut self, whose: ReservedFor) {
        for range in self.by_owner.remove(&whose).unwrap_or_default() {
            self.change(range, |count| count.saturating_sub(1));
        }
    }

    /// Returns the lowest reserved addresses of a range, in one piece.
    #[inline]
    pub(super) fn first_in(&self, range: IovaRange) -> Option<IovaRange> {
        if self.cover.is_empty() { None } else { self.first_covered(range) }
    }

    fn first_covered(&self, range: IovaRange) -> Option<IovaRange> {
        let first = if self.count_at(range.first()) > 0 {
            range.first()
        } else {
            *self.cover.range(range.first()..=range.last()).find(|(_, count)| **count > 0)?.0
        };
        let last = self.next_change(first, |count| count == 0).unwrap_or(u64::MAX);
        IovaRange::new(first, Iova::new(last))
    }

    /// Returns what of a range is not reserved, ascending.
    pub(super) fn holes(&self, range: IovaRange) -> impl Iterator<Item = IovaRange> {
        let mut next = Some(range.first());
        core::iter::from_fn(move || {
            let from = next.filter(|from| *from <= range.last())?;
            let begin = if self.count_at(from) == 0 {
                from
            } else {
                Iova::new(self.next_change(from, |count| count == 0)?.checked_add(1)?)
            };
            // Behind nothing comes something.
            let last = self.next_change(begin, |_| true).unwrap_or(u64::MAX);
            next = Iova::new(last).checked_add(1);
            IovaRange::new(begin, Iova::new(last).min(range.last()))
        })
    }

    /// How many reservations cover an address.
    fn count_at(&self, iova: Iova) -> u32 {
        self.cover.range(..=iova).next_back().map_or(0, |(_, count)| *count)
    }

    /// The last address before the first one behind `from` from which on the count is like that.
    fn next_change(&self, from: Iova, wanted: impl Fn(u32) -> bool) -> Option<u64> {
        let behind = from.checked_add(1)?;
        let (at, _) = self.cover.range(behind..).find(|(_, count)| wanted(**count))?;
        Some(at.get() - 1)
    }

    fn change(&mut self, range: IovaRange, change: impl Fn(u32) -> u32) {
        let behind = range.last().checked_add(1);
        for edge in [Some(range.first()), behind].into_iter().flatten() {
            let count = self.count_at(edge);
            self.cover.entry(edge).or_insert(count);
        }
        for (_, count) in self.cover.range_mut(range.first()..=range.last()) {
            *count = change(*count);
        }
        for edge in [Some(range.first()), behind].into_iter().flatten() {
            self.join(edge);
        }
    }

    /// Forgets an edge where the count does not change.
    fn join(&mut self, edge: Iova) {
        let before = self.cover.range(..edge).next_back().map_or(0, |(_, count)| *count);
        if self.cover.get(&edge) == Some(&before) {
            self.cover.remove(&edge);
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests;
