//! Ranges of I/O virtual addresses that never overlap, each with a value: the mappings of an address space.
//!
//! A B+-tree with wide nodes. Looking up, inserting and removing take O(log n) and touch few cache lines, and are quicker
//! still next to the last change. Each node has a bound on the gaps between the ranges below it, so that the search for
//! free space skips whole subtrees.

mod gap;
mod node;
mod tree;

use core::fmt;

use crate::address::{Iova, IovaRange};
use tree::{Place, Tree};

/// A map from ranges to values, in which no two ranges overlap. Ranges are never merged or split.
///
/// ```
/// use iommu_core::{Iova, IovaMap, IovaRange};
///
/// let page = |number: u64| IovaRange::sized(Iova::new(number << 12), 1 << 12).unwrap();
/// let mut map = IovaMap::new();
/// map.insert(page(1), "one").unwrap();
/// map.insert(page(3), "three").unwrap();
/// assert_eq!(map.insert(page(3), "again").unwrap_err().existing, page(3));
/// assert_eq!(map.get(Iova::new(0x3456)), Some((page(3), &"three")));
/// assert_eq!(map.find_gap(1 << 12, 1 << 12, 0, IovaRange::sized(Iova::new(0x1000), 1 << 30).unwrap()), Some(page(2)));
/// ```
pub struct IovaMap<V> {
    tree: Tree<V>,
}

impl<V> Default for IovaMap<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> IovaMap<V> {
    /// Creates an empty map.
    pub const fn new() -> Self {
        Self { tree: Tree::new() }
    }

    /// Returns the number of ranges.
    pub fn len(&self) -> usize {
        self.tree.len()
    }

    /// Returns whether there are no ranges.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Inserts `range`.
    ///
    /// # Errors
    /// Fails with the lowest range that overlaps it; `value` is dropped.
    pub fn insert(&mut self, range: IovaRange, value: V) -> Result<(), Overlap> {
        self.vacant(range).map(|place| place.insert(value))
    }

    /// Reserves the place of a range that overlaps no other, to be filled later.
    ///
    /// # Errors
    /// Fails with the lowest range that overlaps `range`.
    pub fn vacant(&mut self, range: IovaRange) -> Result<Vacant<'_, V>, Overlap> {
        match self.tree.place_of(range) {
            Ok(place) => Ok(Vacant { map: self, range, place }),
            Err(existing) => Err(Overlap { existing }),
        }
    }

    /// Returns the range that contains `iova`.
    pub fn get(&self, iova: Iova) -> Option<(IovaRange, &V)> {
        self.tree.ending_from(iova).filter(|(range, _)| range.contains(iova))
    }

    /// Returns the range that contains `iova`, with a mutable value.
    pub fn get_mut(&mut self, iova: Iova) -> Option<(IovaRange, &mut V)> {
        self.tree.ending_from_mut(iova).filter(|(range, _)| range.contains(iova))
    }

    /// Removes the range that begins at `first`.
    pub fn remove(&mut self, first: Iova) -> Option<(IovaRange, V)> {
        self.remove_if(first, |_, _| true)
    }

    /// Removes the range that begins at `first` if `wanted` returns `true` for it.
    pub fn remove_if(&mut self, first: Iova, wanted: impl FnOnce(IovaRange, &V) -> bool) -> Option<(IovaRange, V)> {
        self.tree.remove_if(first, wanted, |range, value| (range, value))
    }

    /// Drops the range that begins at `first` if `wanted` returns `true` for it, and returns whether it did. Cheaper than
    /// [`remove_if`](Self::remove_if) where nobody needs the value.
    #[inline]
    pub fn drop_if(&mut self, first: Iova, wanted: impl FnOnce(IovaRange, &V) -> bool) -> bool {
        self.tree.remove_if(first, wanted, |_, value| drop(value)).is_some()
    }

    /// Removes the highest range: the cheapest one to remove.
    pub fn pop_last(&mut self) -> Option<(IovaRange, V)> {
        self.tree.pop_last()
    }

    /// Returns the lowest range that overlaps `within`.
    pub fn first_in(&self, within: IovaRange) -> Option<(IovaRange, &V)> {
        self.tree.ending_from(within.first()).filter(|(range, _)| range.first() <= within.last())
    }

    /// Returns the lowest range that overlaps `within`, without its value.
    pub fn first_range_in(&self, within: IovaRange) -> Option<IovaRange> {
        self.tree.range_ending_from(within.first()).filter(|range| range.first() <= within.last())
    }

    /// Returns the ranges that overlap `within`, ascending.
    pub fn overlapping(&self, within: IovaRange) -> impl Iterator<Item = (IovaRange, &V)> {
        let mut rest = Some(within);
        core::iter::from_fn(move || {
            let (range, value) = self.first_in(rest?)?;
            rest = range.last().checked_add(1).and_then(|next| IovaRange::new(next, within.last()));
            Some((range, value))
        })
    }

    /// Returns all ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (IovaRange, &V)> {
        self.overlapping(IovaRange::ALL)
    }

    /// Finds the lowest range of `bytes` bytes within `within` that overlaps no range here and begins `offset` bytes
    /// past a multiple of `alignment`, a power of two. Returns `None` if there is none.
    ///
    /// Gaps that are large enough but misaligned are visited one by one; smaller ones are skipped by whole subtrees. What
    /// the search learns about the gaps is kept, for the next one.
    pub fn find_gap(&mut self, bytes: u64, alignment: u64, offset: u64, within: IovaRange) -> Option<IovaRange> {
        self.tree.find_gap(&gap::Wanted { bytes, alignment, offset, within })
    }
}

impl<V: fmt::Debug> fmt::Debug for IovaMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A free range of a map; see [`IovaMap::vacant`].
#[derive(Debug)]
pub struct Vacant<'a, V> {
    map: &'a mut IovaMap<V>,
    range: IovaRange,
    place: Place,
}

impl<V> Vacant<'_, V> {
    /// Inserts the range.
    #[inline]
    pub fn insert(self, value: V) {
        self.map.tree.insert(self.range, self.place, value);
    }
}

/// The range overlaps another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the range overlaps {existing}")]
pub struct Overlap {
    /// The lowest overlapping range.
    pub existing: IovaRange,
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
