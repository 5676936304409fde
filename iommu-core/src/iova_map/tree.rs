//! The tree: leaves with ranges and values, inner nodes with what is below.
//!
//! Both kinds live in vectors and name each other by index. Every node but the root has at least one entry; a node that
//! runs low is merged with its neighbour if both fill at most three quarters of one. Invariant: two neighbours together
//! fill more than three quarters of a node, so depth and memory follow the number of ranges.
//!
//! Each node has a *bound*, which is at least the largest hole between two of the ranges below it. Changes only raise it,
//! in constant time; a search for a hole that finds none below a node lowers the bound to what it saw. So a range that
//! is added or taken out inside of a leaf concerns that leaf only.
#![expect(
    clippy::indexing_slicing,
    reason = "indices into a node are below its length, which is at most WIDTH; node numbers come from the tree itself"
)]

use alloc::vec::Vec;

use slab::Slab;

use crate::address::{Iova, IovaRange};

/// Entries of a node at most.
const WIDTH: usize = 64;
/// A node with fewer entries looks for a neighbour to merge with.
const LOW: usize = WIDTH / 4;
/// Two nodes with so many entries together, or fewer, are merged.
const MERGED: usize = WIDTH * 3 / 4;

/// What a parent knows of a subtree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
    /// At least the bytes of the largest hole between two ranges of the subtree.
    pub(super) bound: u64,
}

/// Spans side by side, so that a search reads one array. `N` entries, of which the first `len` count.
#[derive(Debug, Clone)]
pub(super) struct Spans {
    pub(super) len: usize,
    pub(super) firsts: [u64; WIDTH],
    pub(super) lasts: [u64; WIDTH],
}

#[derive(Debug)]
struct Leaf {
    spans: Spans,
    /// At least the largest hole between two of its ranges.
    bound: u64,
    /// Keys of the values, which stay where they are: what is moved about in a node is small, whatever a value is.
    values: [u32; WIDTH],
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) spans: Spans,
    /// At least the largest hole between two ranges below it.
    bound: u64,
    pub(super) bounds: [u64; WIDTH],
    pub(super) children: [u32; WIDTH],
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
}

impl Spans {
    const EMPTY: Self = Self { len: 0, firsts: [0; WIDTH], lasts: [0; WIDTH] };

    /// The first entry that ends at `key` or behind; `len` if none does.
    #[inline]
    pub(super) fn ending_from(&self, key: u64) -> usize {
        self.lasts[..self.len].partition_point(|last| *last < key)
    }

    /// Bytes between each entry and the next.
    fn holes(&self) -> impl Iterator<Item = u64> {
        let nexts = self.firsts[..self.len].iter().skip(1);
        nexts.zip(&self.lasts[..self.len]).map(|(next, last)| next.wrapping_sub(*last).wrapping_sub(1))
    }

    /// The hole in front of an entry, behind the entry before; 0 if there is none.
    fn hole_before(&self, place: usize) -> u64 {
        let inside = 0 < place && place < self.len;
        if inside { self.firsts[place] - self.lasts[place - 1] - 1 } else { 0 }
    }

    fn range(&self, place: usize) -> Option<IovaRange> {
        IovaRange::new(Iova::new(self.firsts[place]), Iova::new(self.lasts[place]))
    }

    fn open(&mut self, place: usize, first: u64, last: u64) {
        self.firsts.copy_within(place..self.len, place + 1);
        self.lasts.copy_within(place..self.len, place + 1);
        self.firsts[place] = first;
        self.lasts[place] = last;
        self.len += 1;
    }

    fn close(&mut self, place: usize) {
        self.firsts.copy_within(place + 1..self.len, place);
        self.lasts.copy_within(place + 1..self.len, place);
        self.len -= 1;
    }

    /// Moves the entries from `from` on to the end of `other`.
    fn move_to(&mut self, from: usize, other: &mut Self) {
        let count = self.len - from;
        other.firsts[other.len..other.len + count].copy_from_slice(&self.firsts[from..self.len]);
        other.lasts[other.len..other.len + count].copy_from_slice(&self.lasts[from..self.len]);
        other.len += count;
        self.len = from;
    }
}

impl Leaf {
    fn new() -> Self {
        Self { spans: Spans::EMPTY, bound: 0, values: [0; WIDTH] }
    }

    fn span(&self) -> Span {
        let spans = &self.spans;
        Span { first: spans.firsts[0], last: spans.lasts[spans.len.saturating_sub(1)], bound: self.bound }
    }

    fn measure(&mut self) {
        self.bound = self.spans.holes().max().unwrap_or(0);
    }

    fn put(&mut self, place: usize, range: IovaRange, value: u32) {
        let len = self.spans.len;
        self.spans.open(place, range.first().get(), range.last().get());
        self.values.copy_within(place..len, place + 1);
        self.values[place] = value;
        // Inside, the new holes are parts of an old one.
        if place == 0 || place == len {
            let new = self.spans.hole_before(place.max(1));
            self.bound = self.bound.max(new);
        }
    }

    fn take(&mut self, place: usize) -> u32 {
        let value = self.values[place];
        self.values.copy_within(place + 1..self.spans.len, place);
        self.spans.close(place);
        self.bound = self.bound.max(self.spans.hole_before(place));
        value
    }

    fn move_to(&mut self, from: usize, other: &mut Self) {
        let (to, count) = (other.spans.len, self.spans.len - from);
        other.values[to..to + count].copy_from_slice(&self.values[from..from + count]);
        self.spans.move_to(from, &mut other.spans);
        self.measure();
        other.measure();
    }
}

impl Inner {
    fn new() -> Self {
        Self { spans: Spans::EMPTY, bound: 0, bounds: [0; WIDTH], children: [0; WIDTH] }
    }

    fn span(&self) -> Span {
        let spans = &self.spans;
        Span { first: spans.firsts[0], last: spans.lasts[spans.len.saturating_sub(1)], bound: self.bound }
    }

    fn measure(&mut self) {
        let inside = self.bounds[..self.spans.len].iter().copied().max();
        self.bound = inside.max(self.spans.holes().max()).unwrap_or(0);
    }

    fn known(&self, place: usize) -> Span {
        Span { first: self.spans.firsts[place], last: self.spans.lasts[place], bound: self.bounds[place] }
    }

    fn know(&mut self, place: usize, span: Span) {
        self.spans.firsts[place] = span.first;
        self.spans.lasts[place] = span.last;
        self.bounds[place] = span.bound;
        self.raise(place);
    }

    /// Raises the bound to the holes below and beside an entry.
    fn raise(&mut self, place: usize) {
        let beside = self.spans.hole_before(place).max(self.spans.hole_before(place + 1));
        self.bound = self.bound.max(self.bounds[place]).max(beside);
    }

    fn open(&mut self, place: usize, span: Span, child: u32) {
        let len = self.spans.len;
        self.bounds.copy_within(place..len, place + 1);
        self.children.copy_within(place..len, place + 1);
        self.spans.open(place, span.first, span.last);
        self.bounds[place] = span.bound;
        self.children[place] = child;
        self.raise(place);
    }

    fn close(&mut self, place: usize) {
        let len = self.spans.len;
        self.bounds.copy_within(place + 1..len, place);
        self.children.copy_within(place + 1..len, place);
        self.spans.close(place);
        self.bound = self.bound.max(self.spans.hole_before(place));
    }

    fn move_to(&mut self, from: usize, other: &mut Self) {
        let (to, count) = (other.spans.len, self.spans.len - from);
        other.bounds[to..to + count].copy_from_slice(&self.bounds[from..from + count]);
        other.children[to..to + count].copy_from_slice(&self.children[from..from + count]);
        self.spans.move_to(from, &mut other.spans);
        self.measure();
        other.measure();
    }
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
    /// Before an entry of a leaf with room, behind another one: no other node is concerned.
    Inside { leaf: usize, entry: usize },
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
        }
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    pub(super) fn inner(&self, node: u32) -> &Inner {
        &self.inners[node as usize]
    }

    pub(super) fn leaf_spans(&self, node: u32) -> &Spans {
        &self.leaves[node as usize].spans
    }

    /// The leaf and the place in it of the lowest range that ends at `key` or behind.
    #[inline]
    fn find(&self, key: u64) -> Option<(usize, usize)> {
        if self.len() == 0 {
            return None;
        }
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = self.inner(node);
            let place = inner.spans.ending_from(key);
            if place == inner.spans.len {
                return None;
            }
            node = inner.children[place];
        }
        let spans = self.leaf_spans(node);
        let place = spans.ending_from(key);
        (place < spans.len).then_some((node as usize, place))
    }

    #[inline]
    pub(super) fn ending_from(&self, key: Iova) -> Option<(IovaRange, &V)> {
        let (leaf, place) = self.find(key.get())?;
        let Leaf { spans, values, .. } = &self.leaves[leaf];
        Some((spans.range(place)?, self.values.get(values[place] as usize)?))
    }

    /// As [`ending_from`](Self::ending_from), without the value, which lies somewhere else in memory.
    #[inline]
    pub(super) fn range_ending_from(&self, key: Iova) -> Option<IovaRange> {
        let (leaf, place) = self.find(key.get())?;
        self.leaves[leaf].spans.range(place)
    }

    pub(super) fn ending_from_mut(&mut self, key: Iova) -> Option<(IovaRange, &mut V)> {
        let (leaf, place) = self.find(key.get())?;
        let Leaf { spans, values, .. } = &self.leaves[leaf];
        Some((spans.range(place)?, self.values.get_mut(values[place] as usize)?))
    }

    /// Where a range goes that overlaps none, or the lowest that it overlaps.
    #[inline]
    pub(super) fn place_of(&self, range: IovaRange) -> Result<Place, IovaRange> {
        let Some((leaf, entry)) = self.find(range.first().get()) else { return Ok(Place::Last) };
        let spans = &self.leaves[leaf].spans;
        match spans.range(entry).filter(|behind| behind.first() <= range.last()) {
            Some(existing) => Err(existing),
            None if entry > 0 && spans.len < WIDTH => Ok(Place::Inside { leaf, entry }),
            None => Ok(Place::AtAnEnd),
        }
    }

    fn new_leaf(&mut self) -> u32 {
        self.free_leaves.pop().unwrap_or_else(|| {
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
        match place {
            Place::Inside { leaf, entry } => {
                let value = index(self.values.insert(value));
                self.leaves[leaf].put(entry, range, value);
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

    /// Adds a range behind all others.
    fn append(&mut self, range: IovaRange, value: V) {
        let leaf = self.last_leaf() as usize;
        let room = self.len() > 0 && self.leaves[leaf].spans.len < WIDTH;
        if !room {
            return self.insert_from_root(range, value);
        }
        let value = index(self.values.insert(value));
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
        let Some(entry) = spans.len.checked_sub(2) else { return self.remove_if(range.first(), |_, _| true) };
        let last = spans.lasts[entry];
        let value = self.leaves[leaf as usize].take(entry + 1);
        self.above_last(|inner, place| inner.spans.lasts[place] = last);
        Some((range, self.values.try_remove(value as usize)?))
    }

    fn insert_from_root(&mut self, range: IovaRange, value: V) {
        if self.len() == 0 {
            self.root = self.new_leaf();
            self.height = 0;
        }
        let value = index(self.values.insert(value));
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
        if inner.spans.len < WIDTH {
            inner.open(place + 1, right, child);
            return Grown { span: Some(inner.span()), split: None };
        }
        let new = self.new_inner();
        let (left, upper) = two(&mut self.inners, node, new);
        left.move_to(WIDTH / 2, upper);
        let (target, at) =
            if place < WIDTH / 2 { (&mut *left, place + 1) } else { (&mut *upper, place + 1 - WIDTH / 2) };
        target.open(at, right, child);
        Grown { span: Some(left.span()), split: Some((upper.span(), new)) }
    }

    fn insert_in_leaf(&mut self, node: u32, range: IovaRange, value: u32) -> Grown {
        let leaf = &mut self.leaves[node as usize];
        let place = leaf.spans.ending_from(range.first().get());
        if leaf.spans.len < WIDTH {
            leaf.put(place, range, value);
            return Grown { span: Some(leaf.span()), split: None };
        }
        let new = self.new_leaf();
        let (left, upper) = two(&mut self.leaves, node, new);
        // Ranges that come in ascending order leave full leaves behind.
        let kept = if place == WIDTH { WIDTH - 1 } else { WIDTH / 2 };
        left.move_to(kept, upper);
        let (target, at) = if place <= kept { (&mut *left, place) } else { (&mut *upper, place - kept) };
        target.put(at, range, value);
        Grown { span: Some(left.span()), split: Some((upper.span(), new)) }
    }

    /// Takes the range that begins at `first` out, if it is wanted.
    #[inline]
    pub(super) fn remove_if(
        &mut self,
        first: Iova,
        wanted: impl FnOnce(IovaRange, &V) -> bool,
    ) -> Option<(IovaRange, V)> {
        let (leaf, entry) = self.find(first.get())?;
        let Leaf { spans, bound, values } = &self.leaves[leaf];
        let range = spans.range(entry).filter(|range| range.first() == first)?;
        let value = values[entry] as usize;
        if !wanted(range, self.values.get(value)?) {
            return None;
        }
        let inside = 0 < entry && entry + 1 < spans.len && spans.len > LOW;
        if inside && spans.firsts[entry + 1] - spans.lasts[entry - 1] - 1 <= *bound {
            self.leaves[leaf].take(entry);
        } else {
            self.remove_from_root(first.get());
        }
        let value = self.values.try_remove(value)?;
        if self.len() == 0 {
            self.free_leaf(self.root);
        }
        Some((range, value))
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
        if left < LOW {
            self.tidy(node, place, level - 1, left);
            look = Look::Again;
        }
        look
    }

    fn count(&self, node: u32, level: usize) -> usize {
        if level == 0 { self.leaf_spans(node).len } else { self.inner(node).spans.len }
    }

    pub(super) fn spans(&self, node: u32, level: usize) -> &Spans {
        if level == 0 { self.leaf_spans(node) } else { &self.inner(node).spans }
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
        let fits = |other: usize| left + self.count(inner.children[other], level) <= MERGED;
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

    /// Checks cached spans.
    #[cfg(all(test, not(shuttle)))]
    pub(super) fn check(&self) {
        let nodes = if self.len() == 0 { (0, 0, 0) } else { self.check_below(self.root, self.height) };
        assert_eq!(nodes.2, self.len());
        assert_eq!(nodes.0 + self.free_leaves.len(), self.leaves.len(), "no leaf is lost");
        assert_eq!(nodes.1 + self.free_inners.len(), self.inners.len(), "no node is lost");
    }

    /// How many leaves, inner nodes and ranges there are.
    #[cfg(all(test, not(shuttle)))]
    fn check_below(&self, node: u32, level: usize) -> (usize, usize, usize) {
        let spans = if level == 0 { self.leaf_spans(node) } else { &self.inner(node).spans };
        assert!(spans.len > 0 && spans.len <= WIDTH);
        for place in 0..spans.len {
            assert!(spans.firsts[place] <= spans.lasts[place]);
            assert!(place == 0 || spans.lasts[place - 1] < spans.firsts[place]);
        }
        if level == 0 {
            let Leaf { values, bound, .. } = &self.leaves[node as usize];
            assert!(*bound >= spans.holes().max().unwrap_or(0));
            assert!(values.iter().take(spans.len).all(|value| self.values.contains(*value as usize)));
            return (1, 0, spans.len);
        }
        let inner = self.inner(node);
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
