//! Random pins and unpins against a map of every page.

use alloc::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const WINDOW: u64 = 24;

#[derive(Debug, Clone, Copy)]
enum Op {
    /// Pins what of the slice is not pinned in pieces of so many pages, and counts the rest.
    Pin(Slice, u64),
    Unpin(Slice),
}

fn op() -> impl Strategy<Value = Op> {
    let slice = || (0..WINDOW, 1..8_u64).prop_map(|(first, count)| Slice { first, count: count.min(WINDOW - first) });
    prop_oneof![(slice(), 1..4_u64).prop_map(|(slice, piece)| Op::Pin(slice, piece)), slice().prop_map(Op::Unpin)]
}

/// Pages touch in physical memory but for every fifth.
fn phys(page: u64) -> PhysAddr {
    PhysAddr::new((page + page / 5) * PAGE_SIZE)
}

fn pages(runs: &[PinnedRun]) -> Vec<u64> {
    let pages = |run: &PinnedRun| run.phys.get() / PAGE_SIZE..(run.phys.get() + run.bytes) / PAGE_SIZE;
    runs.iter().flat_map(pages).collect()
}

fn pin(pins: &mut Pins, slice: Slice, piece: u64) {
    let mut page = slice.first;
    while page < slice.end() {
        page += match pins.stretch(page, slice.end()) {
            Stretch::Pinned(count) => {
                pins.hold(Slice { first: page, count });
                count
            }
            Stretch::Unpinned(count) => {
                let count = count.min(piece).min(5 - page % 5);
                pins.insert(page, count, phys(page));
                count
            }
        };
    }
}

fn all(pins: &Pins) -> Vec<(u64, Run)> {
    pins.runs.in_range(0..u64::MAX).collect()
}

/// No two runs overlap, none is empty, and two that are alike do not touch.
fn assert_in_order(pins: &Pins) {
    let runs = all(pins);
    for ((first, run), (next, other)) in runs.iter().zip(runs.iter().skip(1)) {
        assert!(first + run.pages <= *next, "{pins:?}");
        let alike = run.count == other.count && run.phys_at(run.pages) == other.phys;
        assert!(first + run.pages < *next || !alike, "{pins:?}");
    }
    assert!(runs.iter().all(|(_, run)| run.pages > 0 && run.count > 0), "{pins:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_page_is_pinned_as_often_as_it_is_wanted(ops in prop::collection::vec(op(), 1..40)) {
        let mut pins = Pins::default();
        let mut reference: BTreeMap<u64, u32> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Pin(slice, piece) => {
                    pin(&mut pins, slice, piece);
                    for page in slice.first..slice.end() {
                        *reference.entry(page).or_default() += 1;
                    }
                }
                Op::Unpin(slice) => {
                    let mut freed = Vec::new();
                    for page in slice.first..slice.end() {
                        let Some(count) = reference.get_mut(&page) else { continue };
                        *count -= 1;
                        if *count == 0 {
                            reference.remove(&page);
                            freed.push(phys(page).get() / PAGE_SIZE);
                        }
                    }
                    prop_assert_eq!(pages(&pins.release(slice)), freed);
                }
            }
            assert_in_order(&pins);
            for first in 0..WINDOW {
                let slice = Slice { first, count: WINDOW - first };
                let pinned: Vec<u64> = reference.range(first..).map(|(page, _)| phys(*page).get() / PAGE_SIZE).collect();
                prop_assert_eq!(pages(&pins.runs(slice)), pinned);
            }
        }
    }
}

#[test]
fn a_saturated_count_never_comes_down() {
    let mut pins = Pins::default();
    pins.insert(3, 1, phys(3));
    pins.runs.in_range_mut(0..u64::MAX).for_each(|(_, run)| run.count = u32::MAX - 1);
    let slice = Slice { first: 3, count: 1 };
    pins.hold(slice);
    pins.hold(slice);
    for _ in 0..3 {
        assert_eq!(pins.release(slice), []);
    }
    assert!(all(&pins).iter().all(|(_, run)| run.count == u32::MAX), "{pins:?}");
    assert_eq!(pages(&pins.runs(slice)).len(), 1);
}

#[test]
fn memory_in_one_piece_is_one_run_however_it_was_pinned() {
    let mut pins = Pins::default();
    for page in [2, 0, 3, 1] {
        pins.insert(page, 1, phys(page));
    }
    assert_eq!(all(&pins).len(), 1);
    assert_eq!(pins.runs(Slice { first: 0, count: 4 }), [PinnedRun { phys: phys(0), bytes: 4 * PAGE_SIZE }]);
    // However often each page is.
    pins.hold(Slice { first: 1, count: 2 });
    assert_eq!(all(&pins).len(), 3);
    assert_eq!(pins.runs(Slice { first: 0, count: 4 }), [PinnedRun { phys: phys(0), bytes: 4 * PAGE_SIZE }]);
}
