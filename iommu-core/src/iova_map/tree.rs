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

use alloc::vec::Vec;
use core::ops::Range;

use slab::Slab;

use super::node::{INNER_WIDTH, Inner, LEAF_WIDTH, Leaf, Span, Spans};
use crate::address::{Iova, IovaRange};

/// A node of a level with fewer entries looks for a neighbour to merge with.
const fn low(level: usize) -> usize {
    width(level) / 4
}

/// Two nodes of a level with so many entries together, or fewer, are merged.
const fn merged(level: usize) -> usize {
    width(level) * 3 / 4
}

/// How many entries of a full node stay there when it is split for one more at `place`: half of them, but all if that is
/// behind them, so that ranges that come in ascending order leave full nodes.
const fn kept(place: usize, width: usize) -> usize {
    if place == width { width } else { width / 2 }
}

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

/// A node after something was added below it.
struct Grown {
    /// `None` if it is what the parent knows.
    span: Option<Span>,
    /// Its new right neighbour.
    split: Option<(Span, u32)>,
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

/// Whether a node may have become another one to its parent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Again,
    Away,
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
        // One leaf alone is near anyway.
        if self.height > 0 {
            leaf.fetch();
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

    /// Adds a range, whose value is there already.
    fn insert_from_root(&mut self, range: IovaRange, value: u32) {
        if self.len() == 1 {
            self.root = self.new_leaf();
            self.height = 0;
        }
        let old_root = self.root;
        let grown = self.insert_below(old_root, self.height, range, value);
        if let Some((right, node)) = grown.split {
            let root = self.new_inner();
            let inner = &mut self.inners[root as usize];
            let span = grown.span.unwrap_or(right);
            inner.open(0, span, old_root);
            inner.open(1, right, node);
            self.root = root;
            self.height += 1;
        }
    }

    fn insert_below(&mut self, node: u32, level: usize, range: IovaRange, value: u32) -> Grown {
        if level == 0 {
            return self.insert_in_leaf(node, range, value);
        }
        let inner = self.inner(node);
        // Behind all of them, it goes into the last.
        let place = inner.spans.ending_from(range.first().get()).min(inner.spans.len - 1);
        let grown = self.insert_below(inner.children[place], level - 1, range, value);
        let inner = &mut self.inners[node as usize];
        let changed = grown.span.filter(|span| *span != inner.known(place));
        if let Some(span) = changed {
            inner.know(place, span);
        }
        let Some((right, child)) = grown.split else {
            return Grown { span: changed.map(|_| inner.span()), split: None };
        };
        if inner.spans.len < INNER_WIDTH {
            inner.open(place + 1, right, child);
            return Grown { span: Some(inner.span()), split: None };
        }
        let new = self.new_inner();
        let (left, upper) = two(&mut self.inners, node, new);
        let at = place + 1;
        let kept = kept(at, INNER_WIDTH);
        left.move_to(kept, upper);
        if at < kept {
            left.open(at, right, child);
        } else {
            upper.open(at - kept, right, child);
        }
        Grown { span: Some(left.span()), split: Some((upper.span(), new)) }
    }

    fn insert_in_leaf(&mut self, node: u32, range: IovaRange, value: u32) -> Grown {
        let leaf = &mut self.leaves[node as usize];
        let place = leaf.spans.ending_from(range.first().get());
        if leaf.spans.len < LEAF_WIDTH {
            leaf.put(place, range, value);
            return Grown { span: Some(leaf.span()), split: None };
        }
        let new = self.new_leaf();
        let (left, upper) = two(&mut self.leaves, node, new);
        let kept = kept(place, LEAF_WIDTH);
        left.move_to(kept, upper);
        if place < kept {
            left.put(place, range, value);
        } else {
            upper.put(place - kept, range, value);
        }
        Grown { span: Some(left.span()), split: Some((upper.span(), new)) }
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
        let inside = 0 < entry && entry + 1 < spans.len && spans.len > low(0);
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

    fn remove_from_root(&mut self, first: u64) {
        self.remove_below(self.root, self.height, first);
        while self.height > 0 && self.inner(self.root).spans.len == 1 {
            let old = self.root;
            self.root = self.inner(old).children[0];
            self.free_inner(old);
            self.height -= 1;
        }
    }

    /// Takes the range that begins at `first` out below a node: whether the parent must look at the node again.
    fn remove_below(&mut self, node: u32, level: usize, first: u64) -> Look {
        if level == 0 {
            let leaf = &mut self.leaves[node as usize];
            let place = leaf.spans.ending_from(first);
            if place == leaf.spans.len || leaf.spans.firsts[place] != first {
                return Look::Away;
            }
            leaf.take(place);
            return Look::Again;
        }
        let place = self.inner(node).spans.ending_from(first);
        if place == self.inner(node).spans.len {
            return Look::Away;
        }
        let child = self.inner(node).children[place];
        if self.remove_below(child, level - 1, first) == Look::Away {
            return Look::Away;
        }
        let left = self.count(child, level - 1);
        let mut look = Look::Away;
        if left > 0 {
            let span = self.span(child, level - 1);
            let inner = &mut self.inners[node as usize];
            if inner.known(place) != span {
                inner.know(place, span);
                look = Look::Again;
            }
        }
        if left < low(level - 1) {
            self.tidy(node, place, level - 1, left);
            look = Look::Again;
        }
        look
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

    /// Frees a child without entries, or merges one that runs low with a neighbour.
    fn tidy(&mut self, node: u32, place: usize, level: usize, left: usize) {
        let inner = self.inner(node);
        let child = inner.children[place];
        if left == 0 {
            self.inners[node as usize].close(place);
            self.free(child, level);
            return;
        }
        let fits = |other: usize| left + self.count(inner.children[other], level) <= merged(level);
        let first = if place + 1 < inner.spans.len && fits(place + 1) {
            place
        } else if place > 0 && fits(place - 1) {
            place - 1
        } else {
            return;
        };
        let (into, from) = (inner.children[first], inner.children[first + 1]);
        if level == 0 {
            let (into, from) = two(&mut self.leaves, into, from);
            from.move_to(0, into);
        } else {
            let (into, from) = two(&mut self.inners, into, from);
            from.move_to(0, into);
        }
        self.free(from, level);
        let span = self.span(into, level);
        let inner = &mut self.inners[node as usize];
        inner.close(first + 1);
        inner.know(first, span);
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

    /// Checks what nodes know of one another, and that it does not matter where the last change was.
    #[cfg(all(test, not(shuttle)))]
    pub(super) fn check(&self) {
        let nodes = if self.len() == 0 { (0, 0, 0) } else { self.check_below(self.root, self.height) };
        assert_eq!(nodes.2, self.len());
        assert_eq!(nodes.0 + self.free_leaves.len(), self.leaves.len(), "no leaf is lost");
        assert_eq!(nodes.1 + self.free_inners.len(), self.inners.len(), "no node is lost");
        let Some(Leaf { spans, .. }) = self.leaves.get(self.near.leaf) else { return };
        let keys = spans.firsts.iter().take(spans.len).chain(spans.lasts.iter().take(spans.len));
        for key in keys.flat_map(|key| [key.saturating_sub(1), *key, key.saturating_add(1)]) {
            assert_eq!(self.find(key), self.find_from_root(key));
        }
    }

    /// How many leaves, inner nodes and ranges there are.
    #[cfg(all(test, not(shuttle)))]
    fn check_below(&self, node: u32, level: usize) -> (usize, usize, usize) {
        let len = self.count(node, level);
        assert!(len > 0 && len <= width(level));
        let mut before = None;
        for place in 0..len {
            let (first, last) = self.ends(node, level, place);
            assert!(first <= last && before < Some(first));
            before = Some(last);
        }
        if level == 0 {
            let Leaf { values, bound, spans } = &self.leaves[node as usize];
            assert!(*bound >= spans.holes().max().unwrap_or(0));
            assert!(values.iter().take(spans.len).all(|value| self.values.contains(*value as usize)));
            return (1, 0, spans.len);
        }
        let inner = self.inner(node);
        let spans = &inner.spans;
        assert!(inner.bound >= spans.holes().max().unwrap_or(0));
        assert!(inner.bounds.iter().take(spans.len).all(|bound| inner.bound >= *bound));
        let mut sum = (0, 1, 0);
        for place in 0..spans.len {
            let child = inner.children[place];
            let (known, span) = (inner.known(place), self.span(child, level - 1));
            assert_eq!((known.first, known.last), (span.first, span.last));
            assert!(known.bound >= span.bound);
            let below = self.check_below(child, level - 1);
            sum = (sum.0 + below.0, sum.1 + below.1, sum.2 + below.2);
        }
        sum
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
