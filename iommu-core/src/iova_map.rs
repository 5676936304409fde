//! Ranges of I/O virtual addresses that never overlap, each with a value: what an address space has mapped.

use alloc::collections::BTreeMap;

use crate::address::{Iova, IovaRange};

/// A map from ranges to values, in which no two ranges overlap. Ranges are never merged or split.
#[derive(Debug, Clone)]
pub struct IovaMap<V> {
    ranges: BTreeMap<Iova, (Iova, V)>,
}

impl<V> Default for IovaMap<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> IovaMap<V> {
    /// Without ranges.
    pub const fn new() -> Self {
        Self { ranges: BTreeMap::new() }
    }

    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Adds `range`.
    ///
    /// # Errors
    /// The lowest range that overlaps it; `value` is dropped.
    pub fn insert(&mut self, range: IovaRange, value: V) -> Result<(), Overlap> {
        if let Some((existing, _)) = self.first_in(range) {
            return Err(Overlap { existing });
        }
        self.ranges.insert(range.first(), (range.last(), value));
        Ok(())
    }

    /// The range that has `iova`.
    pub fn get(&self, iova: Iova) -> Option<(IovaRange, &V)> {
        let (first, (last, value)) = self.ranges.range(..=iova).next_back()?;
        Some((IovaRange::new(*first, *last).filter(|range| range.contains(iova))?, value))
    }

    /// As [`get`](Self::get), with the value to be changed.
    pub fn get_mut(&mut self, iova: Iova) -> Option<(IovaRange, &mut V)> {
        let (first, (last, value)) = self.ranges.range_mut(..=iova).next_back()?;
        Some((IovaRange::new(*first, *last).filter(|range| range.contains(iova))?, value))
    }

    /// Takes the range that begins at `first` out.
    pub fn remove(&mut self, first: Iova) -> Option<(IovaRange, V)> {
        let (last, value) = self.ranges.remove(&first)?;
        Some((IovaRange::new(first, last)?, value))
    }

    /// The lowest range that overlaps `within`.
    pub fn first_in(&self, within: IovaRange) -> Option<(IovaRange, &V)> {
        self.overlapping(within).next()
    }

    /// The ranges that overlap `within`, ascending.
    pub fn overlapping(&self, within: IovaRange) -> impl Iterator<Item = (IovaRange, &V)> {
        let begin = self.get(within.first()).map_or(within.first(), |(range, _)| range.first());
        self.ranges
            .range(begin..=within.last())
            .filter_map(|(first, (last, value))| Some((IovaRange::new(*first, *last)?, value)))
    }

    /// All ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (IovaRange, &V)> {
        self.overlapping(IovaRange::ALL)
    }

    /// The lowest range of `bytes` bytes inside `within` that overlaps no range here and begins at `offset` bytes past a
    /// multiple of `alignment`, a power of two larger than `offset`; `None` when there is none.
    pub fn find_gap(&self, bytes: u64, alignment: u64, offset: u64, within: IovaRange) -> Option<IovaRange> {
        let mut from = within.first();
        loop {
            let low = from.get().saturating_sub(offset);
            let aligned = low.checked_add(alignment.checked_sub(1)?)? & !(alignment - 1);
            let candidate = IovaRange::sized(Iova::new(aligned.checked_add(offset)?), bytes)?;
            if !within.covers(candidate) {
                return None;
            }
            match self.overlapping(candidate).last() {
                Some((in_the_way, _)) => from = in_the_way.last().checked_add(1)?,
                None => return Some(candidate),
            }
        }
    }
}

/// A range is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{existing} is there already")]
pub struct Overlap {
    /// The lowest range in the way.
    pub existing: IovaRange,
}
