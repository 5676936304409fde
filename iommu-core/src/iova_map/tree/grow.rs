//! Adding a range from the root on: what the nodes above know, and nodes that are split.
#![expect(
    clippy::indexing_slicing,
    reason = "indices into a node are below its length, which is at most its width; node numbers come from the tree itself"
)]

use super::super::node::{INNER_WIDTH, LEAF_WIDTH, Span};
use super::{Tree, two};
use crate::address::IovaRange;

/// A node after something was added below it.
struct Grown {
    /// `None` if it is what the parent knows.
    span: Option<Span>,
    /// Its new right neighbour.
    split: Option<(Span, u32)>,
}

/// How many entries of a full node stay there when it is split for one more at `place`: half of them, but nearly all if that
/// is behind them. So ranges that come in ascending order leave nodes that are nearly full, with room for a few that come
/// and go in between: a full one would be split by the first of them, and stay two.
const fn kept(place: usize, width: usize) -> usize {
    if place == width { width - width / 12 } else { width / 2 }
}

impl<V> Tree<V> {
    /// Adds a range, whose value is there already.
    pub(super) fn insert_from_root(&mut self, range: IovaRange, value: u32) {
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
}
