//! The search for a place: holes in ascending order, subtrees without a hole large enough passed over. Bounds that turn out
//! too high are lowered on the way, so that each costs one visit.
#![expect(
    clippy::indexing_slicing,
    reason = "indices into a node are below its length, which is at most the length of its arrays"
)]

use super::tree::Tree;
use crate::address::{Iova, IovaRange};

/// What is looked for.
pub(super) struct Wanted {
    pub(super) bytes: u64,
    pub(super) alignment: u64,
    pub(super) offset: u64,
    pub(super) within: IovaRange,
}

impl Wanted {
    /// The lowest range that fits between `first` and `last`.
    fn place(&self, first: u64, last: u64) -> Option<IovaRange> {
        let hole = IovaRange::new(Iova::new(first), Iova::new(last))?.intersection(self.within)?;
        let low = hole.first().get().saturating_sub(self.offset);
        let aligned = low.checked_add(self.alignment.checked_sub(1)?)? & !(self.alignment - 1);
        let candidate = IovaRange::sized(Iova::new(aligned.checked_add(self.offset)?), self.bytes)?;
        hole.covers(candidate).then_some(candidate)
    }
}

/// How a search stands.
enum Search {
    Found(IovaRange),
    /// Nothing fits up to here; this is the lowest address that is not passed, if there is one.
    On(Option<u64>),
}

impl<V> Tree<V> {
    pub(super) fn find_gap(&mut self, wanted: &Wanted) -> Option<IovaRange> {
        let begin = wanted.within.first().get();
        let search =
            if self.len() == 0 { Search::On(Some(begin)) } else { self.below(self.root, self.height, wanted, begin) };
        match search {
            Search::Found(place) => Some(place),
            Search::On(free) => wanted.place(free?, wanted.within.last().get()),
        }
    }

    /// Looks at the holes before and between the ranges below a node, from the address `free` on.
    fn below(&mut self, node: u32, level: usize, wanted: &Wanted, mut free: u64) -> Search {
        let entries = self.entries_from(node, level, free);
        for place in entries {
            let (first, last) = self.ends(node, level, place);
            if first > free
                && first - free >= wanted.bytes
                && let Some(found) = wanted.place(free, first - 1)
            {
                return Search::Found(found);
            }
            if first > wanted.within.last().get() {
                return Search::On(None);
            }
            if level > 0 && self.inner(node).bounds[place] >= wanted.bytes {
                let child = self.inner(node).children[place];
                match self.below(child, level - 1, wanted, free.max(first)) {
                    Search::On(Some(behind)) => free = behind,
                    done => return done,
                }
                self.lower_bound(node, place, level);
                continue;
            }
            match last.checked_add(1) {
                Some(behind) => free = free.max(behind),
                None => return Search::On(None),
            }
        }
        Search::On(Some(free))
    }
}
