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

/// How many entries of a full node stay there when it is split for one more at `place`: half of them, but all if that is
/// behind them, so that ranges that come in ascending order leave full nodes.
const fn kept(place: usize, width: usize) -> usize {
    if place == width { width } else { width / 2 }
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
        let mut place = self.child_for(node, range);
        let shared = level == 1 && self.share(node, place);
        if shared {
            place = self.child_for(node, range);
        }
        let grown = self.insert_below(self.inner(node).children[place], level - 1, range, value);
        let inner = &mut self.inners[node as usize];
        let changed = grown.span.filter(|span| *span != inner.known(place));
        if let Some(span) = changed {
            inner.know(place, span);
        }
        let Some((right, child)) = grown.split else {
            return Grown { span: (shared || changed.is_some()).then(|| inner.span()), split: None };
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

    /// Which child of an inner node a range goes into: the last, if it is behind all of them.
    fn child_for(&self, node: u32, range: IovaRange) -> usize {
        let spans = &self.inner(node).spans;
        spans.ending_from(range.first().get()).min(spans.len - 1)
    }

    /// Lets a full leaf share its ranges with a neighbour that has room, if there is one: where ranges come and go between those
    /// of full leaves, a split of each would leave twice as many.
    fn share(&mut self, node: u32, place: usize) -> bool {
        let inner = self.inner(node);
        let len = |place: usize| self.leaf_spans(inner.children[place]).len;
        let has_room = |place: usize| len(place) < LEAF_WIDTH;
        if has_room(place) {
            return false;
        }
        let first = if place + 1 < inner.spans.len && has_room(place + 1) {
            place
        } else if place > 0 && has_room(place - 1) {
            place - 1
        } else {
            return false;
        };
        let both = len(first) + len(first + 1);
        // The room is in the one that was full.
        let kept = if first == place { both / 2 } else { both.div_ceil(2) };
        let children = [inner.children[first], inner.children[first + 1]];
        let (left, right) = two(&mut self.leaves, children[0], children[1]);
        left.share(kept, right);
        let spans = [left.span(), right.span()];
        self.inners[node as usize].know_both(first, spans);
        true
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
