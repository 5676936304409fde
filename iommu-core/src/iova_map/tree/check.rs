//! What must hold of a tree whatever was done to it.

use super::super::node::Leaf;
use super::{Tree, width};

impl<V> Tree<V> {
    /// Checks what nodes know of one another, and that it does not matter where the last change was. Returns how many leaves
    /// there are.
    pub(in super::super) fn check(&self) -> usize {
        let nodes = if self.len() == 0 { (0, 0, 0) } else { self.check_below(self.root, self.height) };
        assert_eq!(nodes.2, self.len());
        assert_eq!(nodes.0 + self.free_leaves.len(), self.leaves.len(), "no leaf is lost");
        assert_eq!(nodes.1 + self.free_inners.len(), self.inners.len(), "no node is lost");
        let Some(Leaf { spans, .. }) = self.leaves.get(self.near.leaf) else { return nodes.0 };
        let keys = spans.firsts.iter().take(spans.len).chain(spans.lasts.iter().take(spans.len));
        for key in keys.flat_map(|key| [key.saturating_sub(1), *key, key.saturating_add(1)]) {
            assert_eq!(self.find(key), self.find_from_root(key));
        }
        nodes.0
    }

    /// How many leaves, inner nodes and ranges there are.
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
