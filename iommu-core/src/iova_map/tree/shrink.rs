//! Taking a range out from the root on: what the nodes above know, and nodes that are freed or merged.
#![expect(
    clippy::indexing_slicing,
    reason = "indices into a node are below its length, which is at most its width; node numbers come from the tree itself"
)]

use super::{Tree, two, width};

/// A node of a level with fewer entries looks for a neighbour to merge with.
pub(super) const fn low(level: usize) -> usize {
    width(level) / 4
}

/// Two nodes of a level with so many entries together, or fewer, are merged.
const fn merged(level: usize) -> usize {
    width(level) * 3 / 4
}

/// Whether a node may have become another one to its parent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Again,
    Away,
}

impl<V> Tree<V> {
    pub(super) fn remove_from_root(&mut self, first: u64) {
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
}
