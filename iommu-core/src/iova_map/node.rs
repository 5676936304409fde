//! Nodes: leaves with ranges, inner nodes with what is below; each kind sorted, in arrays that a search reads one of.
#![expect(
    clippy::indexing_slicing,
    reason = "places in a node are below its length or, where an entry is added, its width: the tree sees to that"
)]

use core::ops::Range;

use crate::address::{Iova, IovaRange};

/// Ranges of a leaf at most: so many that it fills ten cache lines. What lies behind a new range is moved, so that a leaf is
/// narrower than an inner node, in which little changes.
pub(super) const LEAF_WIDTH: usize = 31;
/// Nodes below an inner node at most: nine cache lines of keys.
pub(super) const INNER_WIDTH: usize = 71;
/// Keys in a cache line.
const LINE: usize = CACHE_LINE / size_of::<u64>();
const CACHE_LINE: usize = 64;

/// What a parent knows of a subtree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
    /// At least the bytes of the largest hole between two ranges of the subtree.
    pub(super) bound: u64,
}

/// Spans side by side, so that a search reads one array: at most `N`, of which the first `len` count. Where `N` is one less
/// than fills cache lines, each array begins with one.
#[derive(Debug, Clone)]
#[repr(C)]
pub(super) struct Spans<const N: usize> {
    pub(super) len: usize,
    pub(super) firsts: [u64; N],
    pub(super) lasts: [u64; N],
}

#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Leaf {
    pub(super) spans: Spans<LEAF_WIDTH>,
    /// At least the largest hole between two of its ranges.
    pub(super) bound: u64,
    /// Keys of the values, which stay where they are: what is moved about in a node is small, whatever a value is.
    pub(super) values: [u32; LEAF_WIDTH],
}

#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Inner {
    pub(super) spans: Spans<INNER_WIDTH>,
    /// At least the largest hole between two ranges below it.
    pub(super) bound: u64,
    pub(super) bounds: [u64; INNER_WIDTH],
    pub(super) children: [u32; INNER_WIDTH],
}

const _: () = assert!(size_of::<Leaf>() == 10 * CACHE_LINE);

impl<const N: usize> Spans<N> {
    const EMPTY: Self = Self { len: 0, firsts: [0; N], lasts: [0; N] };

    /// The first entry that ends at `key` or behind; `len` if none does.
    #[inline]
    pub(super) fn ending_from(&self, key: u64) -> usize {
        let lasts = &self.lasts[..self.len];
        // One key of each cache line, then those of one line: no load waits for another, as it would in a binary search.
        let before = |line: &&[u64]| line.last().is_some_and(|last| *last < key);
        let begin = LINE * lasts.chunks_exact(LINE).filter(before).count();
        let line = lasts.get(begin..).unwrap_or_default().iter().take(LINE);
        begin + line.filter(|last| **last < key).count()
    }

    /// As [`ending_from`](Self::ending_from), if no range before or behind these entries can be the one; `guess` is looked
    /// at first.
    #[inline]
    pub(super) fn ending_from_near(&self, guess: usize, key: u64) -> Option<usize> {
        let lasts = &self.lasts[..self.len];
        let before = lasts.get(guess.wrapping_sub(1));
        if before.is_some_and(|last| *last < key) && lasts.get(guess).is_some_and(|last| key <= *last) {
            return Some(guess);
        }
        let inside = self.firsts[0] <= key && lasts.last().is_some_and(|last| key <= *last);
        inside.then(|| self.ending_from(key))
    }

    /// The entries that end at `key` or behind.
    pub(super) fn from(&self, key: u64) -> Range<usize> {
        self.ending_from(key)..self.len
    }

    /// The first and the last address of an entry.
    pub(super) fn ends(&self, place: usize) -> (u64, u64) {
        (self.firsts[place], self.lasts[place])
    }

    /// What a parent knows of a node with these entries.
    fn span(&self, bound: u64) -> Span {
        Span { first: self.firsts[0], last: self.lasts[self.len.saturating_sub(1)], bound }
    }

    /// Bytes between each entry and the next.
    pub(super) fn holes(&self) -> impl Iterator<Item = u64> {
        let nexts = self.firsts[..self.len].iter().skip(1);
        nexts.zip(&self.lasts[..self.len]).map(|(next, last)| next.wrapping_sub(*last).wrapping_sub(1))
    }

    /// The hole in front of an entry, behind the entry before; 0 if there is none.
    pub(super) fn hole_before(&self, place: usize) -> u64 {
        let inside = 0 < place && place < self.len;
        if inside { self.firsts[place] - self.lasts[place - 1] - 1 } else { 0 }
    }

    pub(super) fn range(&self, place: usize) -> Option<IovaRange> {
        IovaRange::new(Iova::new(self.firsts[place]), Iova::new(self.lasts[place]))
    }

    fn open(&mut self, place: usize, first: u64, last: u64) {
        open(&mut self.firsts, self.len, place, first);
        open(&mut self.lasts, self.len, place, last);
        self.len += 1;
    }

    fn close(&mut self, place: usize) {
        close(&mut self.firsts, self.len, place);
        close(&mut self.lasts, self.len, place);
        self.len -= 1;
    }

    /// Moves the entries from `from` on to the end of `other`.
    pub(super) fn move_to(&mut self, from: usize, other: &mut Self) {
        let count = self.len - from;
        other.firsts[other.len..other.len + count].copy_from_slice(&self.firsts[from..self.len]);
        other.lasts[other.len..other.len + count].copy_from_slice(&self.lasts[from..self.len]);
        other.len += count;
        self.len = from;
    }
}

impl Leaf {
    pub(super) fn new() -> Self {
        Self { spans: Spans::EMPTY, bound: 0, values: [0; LEAF_WIDTH] }
    }

    pub(super) fn span(&self) -> Span {
        self.spans.span(self.bound)
    }

    /// Fetches all of it that an insertion reads or writes; see [`fetch`].
    #[inline]
    pub(super) fn fetch(&self) {
        fetch(&self.spans.firsts);
        fetch(&self.spans.lasts);
        fetch(&self.values);
    }

    pub(super) fn measure(&mut self) {
        self.bound = self.spans.holes().max().unwrap_or(0);
    }

    pub(super) fn put(&mut self, place: usize, range: IovaRange, value: u32) {
        let len = self.spans.len;
        self.spans.open(place, range.first().get(), range.last().get());
        open(&mut self.values, len, place, value);
        // Inside, the new holes are parts of an old one.
        if place == 0 || place == len {
            let new = self.spans.hole_before(place.max(1));
            self.bound = self.bound.max(new);
        }
    }

    pub(super) fn take(&mut self, place: usize) -> u32 {
        let value = self.values[place];
        close(&mut self.values, self.spans.len, place);
        self.spans.close(place);
        self.bound = self.bound.max(self.spans.hole_before(place));
        value
    }

    pub(super) fn move_to(&mut self, from: usize, other: &mut Self) {
        let (to, count) = (other.spans.len, self.spans.len - from);
        other.values[to..to + count].copy_from_slice(&self.values[from..from + count]);
        self.spans.move_to(from, &mut other.spans);
        self.measure();
        other.measure();
    }
}

impl Inner {
    pub(super) fn new() -> Self {
        Self { spans: Spans::EMPTY, bound: 0, bounds: [0; INNER_WIDTH], children: [0; INNER_WIDTH] }
    }

    pub(super) fn span(&self) -> Span {
        self.spans.span(self.bound)
    }

    /// Fetches what a search reads behind its keys; see [`fetch`].
    #[inline]
    pub(super) fn fetch(&self) {
        fetch(&self.children);
    }

    pub(super) fn measure(&mut self) {
        let inside = self.bounds[..self.spans.len].iter().copied().max();
        self.bound = inside.max(self.spans.holes().max()).unwrap_or(0);
    }

    pub(super) fn known(&self, place: usize) -> Span {
        Span { first: self.spans.firsts[place], last: self.spans.lasts[place], bound: self.bounds[place] }
    }

    pub(super) fn know(&mut self, place: usize, span: Span) {
        self.spans.firsts[place] = span.first;
        self.spans.lasts[place] = span.last;
        self.bounds[place] = span.bound;
        self.raise(place);
    }

    /// Raises the bound to the holes below and beside an entry.
    pub(super) fn raise(&mut self, place: usize) {
        let beside = self.spans.hole_before(place).max(self.spans.hole_before(place + 1));
        self.bound = self.bound.max(self.bounds[place]).max(beside);
    }

    pub(super) fn open(&mut self, place: usize, span: Span, child: u32) {
        let len = self.spans.len;
        open(&mut self.bounds, len, place, span.bound);
        open(&mut self.children, len, place, child);
        self.spans.open(place, span.first, span.last);
        self.raise(place);
    }

    pub(super) fn close(&mut self, place: usize) {
        let len = self.spans.len;
        close(&mut self.bounds, len, place);
        close(&mut self.children, len, place);
        self.spans.close(place);
        self.bound = self.bound.max(self.spans.hole_before(place));
    }

    pub(super) fn move_to(&mut self, from: usize, other: &mut Self) {
        let (to, count) = (other.spans.len, self.spans.len - from);
        other.bounds[to..to + count].copy_from_slice(&self.bounds[from..from + count]);
        other.children[to..to + count].copy_from_slice(&self.children[from..from + count]);
        self.spans.move_to(from, &mut other.spans);
        self.measure();
        other.measure();
    }
}

/// Reads something of each cache line of an array, so that those that are in no cache come together: where a search must
/// look next shows only once it has its keys.
#[inline]
fn fetch<T: Copy, const N: usize>(array: &[T; N]) {
    for entry in array.iter().step_by(CACHE_LINE / size_of::<T>()) {
        core::hint::black_box(*entry);
    }
}

/// Puts an entry at `place`, before or behind all of the `len` that there are.
fn open<T: Copy>(entries: &mut [T], len: usize, place: usize, entry: T) {
    if place < len {
        entries.copy_within(place..len, place + 1);
    }
    entries[place] = entry;
}

/// Takes the entry at `place` out of `len`.
fn close<T: Copy>(entries: &mut [T], len: usize, place: usize) {
    if place + 1 < len {
        entries.copy_within(place + 1..len, place);
    }
}
