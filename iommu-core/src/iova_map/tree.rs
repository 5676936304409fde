//! The tree: leaves with ranges and values, inner nodes with what is below.
//!
//! Both kinds live in vectors and name each other by index. Every node but the root has at least one entry; a node that
//! runs low is merged with its neighbour if both fill at most three quarters of one. Invariant: two neighbours together
//! fill more than three quarters of a node, so depth and memory follow the number of ranges.
//!
//! Each node has a *bound*, which is at least the largest hole between two of the ranges below it. Changes only raise it,
//! in constant time; a search for a hole that finds none below a node lowers the bound to what it saw. So a range that
//! is added or taken out inside of a leaf concerns that leaf only.
//!
//! The tree remembers where the last change was, for the next is mostly near. Nothing has to keep that true: an entry is
//! taken from there only if the leaf, as it is now, shows that no other leaf can have it.
#![expect(
    clippy::indexing_slicing,
    reason = "indices into a node are below its length, which is at most its width; node numbers come from the tree itself"
)]

#[cfg(all(test, not(shuttle)))]
mod check;
mod grow;
mod shrink;

use alloc::vec::Vec;
use core::ops::Range;

use slab::Slab;

use super::node::{INNER_WIDTH, Inner, LEAF_WIDTH, Leaf, Span, Spans};
use crate::address::{Iova, IovaRange};

/// Entries of a node of a level at most.
const fn width(level: usize) -> usize {
    if level == 0 { LEAF_WIDTH } else { INNER_WIDTH }
}

#[derive(Debug)]
pub(super) struct Tree<V> {
    leaves: Vec<Leaf>,
    values: Slab<V>,
    inners: Vec<Inner>,
    free_leaves: Vec<u32>,
    free_inners: Vec<u32>,
    pub(super) root: u32,
    /// How many levels of inner nodes are above the leaves.
    pub(super) height: usize,
    /// Where the last change inside of a leaf was. The leaf may have changed since, or hold nothing.
    near: At,
}

/// An entry of a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct At {
    leaf: usize,
    entry: usize,
}

/// Where a range goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// Into a leaf with room, between two of its entries or the only leaf: no other node is concerned.
    Inside(At),
    /// Behind all others.
    Last,
    /// At an end of a leaf, or in a full one.
    AtAnEnd,
}

impl<V> Tree<V> {
    pub(super) const fn new() -> Self {
        Self {
            leaves: Vec::new(),
            values: Slab::new(),
            inners: Vec::new(),
            free_leaves: Vec::new(),
            free_inners: Vec::new(),
            root: 0,
            height: 0,
            near: At { leaf: 0, entry: 0 },
        }
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    pub(super) fn inner(&self, node: u32) -> &Inner {
        &self.inners[node as usize]
    }

    pub(super) fn leaf_spans(&self, node: u32) -> &Spans<LEAF_WIDTH> {
        &self.leaves[node as usize].spans
    }

    /// The lowest range that ends at `key` or behind.
    #[inline]
    fn find(&self, key: u64) -> Option<At> {
        let At { leaf, entry } = self.near;
        let near = self.leaves.get(leaf).and_then(|near| near.spans.ending_from_near(entry, key));
        near.map(|entry| At { leaf, entry }).or_else(|| self.find_from_root(key))
    }

    fn find_from_root(&self, key: u64) -> Option<At> {
        if self.len() == 0 {
            return None;
        }
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = self.inner(node);
            inner.fetch();
            let place = inner.spans.ending_from(key);
            if place == inner.spans.len {
                return None;
            }
            node = inner.children[place];
        }
        let leaf = &self.leaves[node as usize];
        if self.height > 0 {
            leaf.fetch();
        } else if leaf.spans.lasts[..leaf.spans.len].last().is_some_and(|last| *last < key) {
            // One leaf alone is near anyway, and what is new goes behind all others mostly.
            return None;
        }
        let entry = leaf.spans.ending_from(key);
        (entry < leaf.spans.len).then_some(At { leaf: node as usize, entry })
    }

    #[inline]
    pub(super) fn ending_from(&self, key: Iova) -> Option<(IovaRange, &V)> {
        let At { leaf, entry } = self.find(key.get())?;
        let Leaf { spans, values, .. } = &self.leaves[leaf];
        Some((spans.range(entry)?, self.values.get(values[entry] as usize)?))
    }

    /// As [`ending_from`](Self::ending_from), without the value, which lies somewhere else in memory.
    #[inline]
    pub(super) fn range_ending_from(&self, key: Iova) -> Option<IovaRange> {
        let At { leaf, entry } = self.find(key.get())?;
        self.leaves[leaf].spans.range(entry)
    }

    pub(super) fn ending_from_mut(&mut self, key: Iova) -> Option<(IovaRange, &mut V)> {
        let At { leaf, entry } = self.find(key.get())?;
        let Leaf { spans, values, .. } = &self.leaves[leaf];
        Some((spans.range(entry)?, self.values.get_mut(values[entry] as usize)?))
    }

    /// Where a range goes that overlaps none, or the lowest that it overlaps.
    #[inline]
    pub(super) fn place_of(&self, range: IovaRange) -> Result<Place, IovaRange> {
        let Some(at) = self.find(range.first().get()) else {
            let only_leaf = self.height == 0 && (1..LEAF_WIDTH).contains(&self.len());
            let behind = At { leaf: self.root as usize, entry: self.len() };
            return Ok(if only_leaf { Place::Inside(behind) } else { Place::Last });
        };
        let spans = &self.leaves[at.leaf].spans;
        match spans.range(at.entry).filter(|behind| behind.first() <= range.last()) {
            Some(existing) => Err(existing),
            None if (at.entry > 0 || self.height == 0) && spans.len < LEAF_WIDTH => Ok(Place::Inside(at)),
            None => Ok(Place::AtAnEnd),
        }
    }

    fn new_leaf(&mut self) -> u32 {
        self.free_leaves.pop().unwrap_or_else(|| {
            if self.leaves.is_empty() {
                // Most maps of a machine have one, and would carry three for nothing.
                self.leaves.reserve_exact(1);
            }
            self.leaves.push(Leaf::new());
            index(self.leaves.len() - 1)
        })
    }

    fn new_inner(&mut self) -> u32 {
        self.free_inners.pop().unwrap_or_else(|| {
            self.inners.push(Inner::new());
            index(self.inners.len() - 1)
        })
    }

    /// Adds a range that overlaps none where [`place_of`](Self::place_of) says.
    #[inline]
    pub(super) fn insert(&mut self, range: IovaRange, place: Place, value: V) {
        // Where the value is made, so that it is written once.
        let value = index(self.values.insert(value));
        self.enter(range, place, value);
    }

    /// Adds a range, whose value is there already.
    fn enter(&mut self, range: IovaRange, place: Place, value: u32) {
        match place {
            Place::Inside(at) => {
                self.leaves[at.leaf].put(at.entry, range, value);
                self.near = at;
            }
            Place::Last => self.append(range, value),
            Place::AtAnEnd => self.insert_from_root(range, value),
        }
    }

    /// The leaf that the highest range is in.
    fn last_leaf(&self) -> u32 {
        (0..self.height).fold(self.root, |node, _| {
            let inner = self.inner(node);
            inner.children[inner.spans.len.saturating_sub(1)]
        })
    }

    /// Calls `change` with every node above the last leaf, from the root on, and the place of its last entry.
    fn above_last(&mut self, mut change: impl FnMut(&mut Inner, usize)) {
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = &mut self.inners[node as usize];
            let place = inner.spans.len.saturating_sub(1);
            node = inner.children[place];
            change(inner, place);
        }
    }

    /// Adds a range, whose value is there already, behind all others.
    fn append(&mut self, range: IovaRange, value: u32) {
        let leaf = self.last_leaf() as usize;
        let room = self.len() > 1 && self.leaves[leaf].spans.len < LEAF_WIDTH;
        if !room {
            return self.insert_from_root(range, value);
        }
        let leaf = &mut self.leaves[leaf];
        leaf.put(leaf.spans.len, range, value);
        let bound = leaf.bound;
        self.above_last(|inner, place| {
            inner.spans.lasts[place] = range.last().get();
            inner.bounds[place] = inner.bounds[place].max(bound);
            inner.bound = inner.bound.max(bound);
        });
    }

    /// Takes the highest range out. The last leaf may be left with few, until its last one goes.
    pub(super) fn pop_last(&mut self) -> Option<(IovaRange, V)> {
        let leaf = self.last_leaf();
        let spans = &self.leaves.get(leaf as usize)?.spans;
        let range = spans.range(spans.len.checked_sub(1)?)?;
        let Some(entry) = spans.len.checked_sub(2) else {
            return self.remove_if(range.first(), |_, _| true, |range, value| (range, value));
        };
        let last = spans.lasts[entry];
        let value = self.leaves[leaf as usize].take(entry + 1);
        self.above_last(|inner, place| inner.spans.lasts[place] = last);
        Some((range, self.values.try_remove(value as usize)?))
    }

    /// Takes the range that begins at `first` out, if it is wanted, and hands its value over from where it lies.
    #[inline]
    pub(super) fn remove_if<R>(
        &mut self,
        first: Iova,
        wanted: impl FnOnce(IovaRange, &V) -> bool,
        taken: impl FnOnce(IovaRange, V) -> R,
    ) -> Option<R> {
        let at = self.find(first.get())?;
        let At { leaf, entry } = at;
        let Leaf { spans, bound, values } = &self.leaves[leaf];
        let range = spans.range(entry).filter(|range| range.first() == first)?;
        let value = values[entry] as usize;
        if !wanted(range, self.values.get(value)?) {
            return None;
        }
        let inside = 0 < entry && entry + 1 < spans.len && spans.len > shrink::low(0);
        let only_leaf = self.height == 0;
        if only_leaf || inside && spans.firsts[entry + 1] - spans.lasts[entry - 1] - 1 <= *bound {
            self.leaves[leaf].take(entry);
            self.near = at;
        } else {
            self.remove_from_root(first.get());
        }
        if self.len() == 1 {
            self.free_leaf(self.root);
        }
        Some(taken(range, self.values.try_remove(value)?))
    }

    fn count(&self, node: u32, level: usize) -> usize {
        if level == 0 { self.leaf_spans(node).len } else { self.inner(node).spans.len }
    }

    /// The entries of a node that end at `key` or behind.
    pub(super) fn entries_from(&self, node: u32, level: usize, key: u64) -> Range<usize> {
        if level == 0 { self.leaf_spans(node).from(key) } else { self.inner(node).spans.from(key) }
    }

    /// The first and the last address of an entry.
    pub(super) fn ends(&self, node: u32, level: usize, place: usize) -> (u64, u64) {
        if level == 0 { self.leaf_spans(node).ends(place) } else { self.inner(node).spans.ends(place) }
    }

    /// Lowers the bound of a child to the largest hole that it knows of.
    pub(super) fn lower_bound(&mut self, node: u32, place: usize, level: usize) {
        let child = self.inner(node).children[place];
        if level == 1 {
            self.leaves[child as usize].measure();
        } else {
            self.inners[child as usize].measure();
        }
        self.inners[node as usize].bounds[place] = self.span(child, level - 1).bound;
    }

    fn span(&self, node: u32, level: usize) -> Span {
        if level == 0 { self.leaves[node as usize].span() } else { self.inner(node).span() }
    }

    fn free(&mut self, node: u32, level: usize) {
        if level == 0 { self.free_leaf(node) } else { self.free_inner(node) }
    }

    fn free_leaf(&mut self, node: u32) {
        self.leaves[node as usize] = Leaf::new();
        self.free_leaves.push(node);
    }

    fn free_inner(&mut self, node: u32) {
        self.inners[node as usize] = Inner::new();
        self.free_inners.push(node);
    }
}

/// The number of a node. Four thousand million of them are more than any memory holds.
fn index(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Two different nodes of one kind.
fn two<T>(nodes: &mut [T], one: u32, other: u32) -> (&mut T, &mut T) {
    let (one, other) = (one as usize, other as usize);
    if one < other {
        let (lower, upper) = nodes.split_at_mut(other);
        (&mut lower[one], &mut upper[0])
    } else {
        let (lower, upper) = nodes.split_at_mut(one);
        (&mut upper[0], &mut lower[other])
    }
}
