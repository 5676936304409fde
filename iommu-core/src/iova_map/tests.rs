use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

/// The same in the plainest way.
#[derive(Default)]
struct Plain(BTreeMap<u64, (u64, u32)>);

fn range(first: u64, last: u64) -> IovaRange {
    IovaRange::new(Iova::new(first), Iova::new(last)).unwrap()
}

impl Plain {
    fn first_in(&self, within: IovaRange) -> Option<(IovaRange, u32)> {
        let all = self.0.iter().map(|(first, (last, value))| (range(*first, *last), *value));
        all.into_iter().find(|(known, _)| known.overlaps(within))
    }

    fn find_gap(&self, bytes: u64, alignment: u64, offset: u64, within: IovaRange) -> Option<IovaRange> {
        let holes = within.without(self.0.iter().map(|(first, (last, _))| range(*first, *last)));
        holes.into_iter().find_map(|hole| {
            let low = u128::from(hole.first().get().saturating_sub(offset));
            let aligned = low.div_ceil(u128::from(alignment)) * u128::from(alignment) + u128::from(offset);
            let candidate = IovaRange::sized(Iova::new(u64::try_from(aligned).ok()?), bytes)?;
            hole.covers(candidate).then_some(candidate)
        })
    }
}

#[derive(Debug, Clone)]
enum Op {
    Insert(IovaRange),
    Remove(u64),
    RemoveNth(usize),
    /// Removes a range and puts another there, as a vIOMMU does all the time.
    ReplaceNth(usize),
    PopLast,
    Get(u64),
    Overlapping(IovaRange),
    Gap(u64, u32, u64, IovaRange),
}

/// Addresses of a small space, at either end of the 64 bits.
fn address(size: u64) -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..size, 1 => (0..size).prop_map(|distance| u64::MAX - distance)]
}

fn some_range(size: u64, longest: u64) -> impl Strategy<Value = IovaRange> {
    let short = (address(size), 0..longest).prop_map(|(first, more)| range(first, first.saturating_add(more)));
    prop_oneof![30 => short, 1 => Just(IovaRange::ALL)]
}

fn op(size: u64, longest: u64) -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => some_range(size, longest).prop_map(Op::Insert),
        2 => address(size).prop_map(Op::Remove),
        3 => any::<usize>().prop_map(Op::RemoveNth),
        3 => any::<usize>().prop_map(Op::ReplaceNth),
        1 => Just(Op::PopLast),
        1 => address(size).prop_map(Op::Get),
        1 => some_range(size, 8 * longest).prop_map(Op::Overlapping),
        2 => (1..4 * longest, 0..6_u32, 0..8_u64, some_range(size, size))
            .prop_map(|(bytes, shift, offset, within)| Op::Gap(bytes, shift, offset, within)),
    ]
}

fn play(ops: Vec<Op>) {
    let (mut map, mut plain) = (IovaMap::new(), Plain::default());
    for (number, op) in (0..).zip(ops) {
        match op {
            Op::Insert(new) => {
                let existing = plain.first_in(new).map(|(existing, _)| existing);
                assert_eq!(map.insert(new, number).err().map(|overlap| overlap.existing), existing);
                if existing.is_none() {
                    plain.0.insert(new.first().get(), (new.last().get(), number));
                }
            }
            Op::Remove(first) => {
                let expected = plain.0.remove(&first).map(|(last, value)| (range(first, last), value));
                assert_eq!(map.remove(Iova::new(first)), expected);
            }
            Op::RemoveNth(n) => {
                let first = plain.0.keys().nth(n % plain.0.len().max(1)).copied();
                if let Some(first) = first {
                    plain.0.remove(&first);
                    assert_eq!(map.remove_if(Iova::new(first), |_, _| false), None);
                    assert!(!map.drop_if(Iova::new(first), |_, _| false));
                    assert!(map.drop_if(Iova::new(first), |_, _| true));
                }
            }
            Op::ReplaceNth(n) => {
                let Some((first, (last, value))) = plain.0.iter().nth(n % plain.0.len().max(1)).map(|(k, v)| (*k, *v))
                else {
                    continue;
                };
                let (old, new) = (range(first, last), range(last - (last - first) / 2, last));
                assert_eq!(map.remove(Iova::new(first)), Some((old, value)));
                map.tree.check();
                map.insert(new, number).unwrap();
                plain.0.remove(&first);
                plain.0.insert(new.first().get(), (last, number));
            }
            Op::PopLast => {
                let expected = plain.0.pop_last().map(|(first, (last, value))| (range(first, last), value));
                assert_eq!(map.pop_last(), expected);
            }
            Op::Get(at) => {
                let expected = plain.first_in(range(at, at));
                assert_eq!(map.get(Iova::new(at)).map(|(range, value)| (range, *value)), expected);
                assert_eq!(map.get_mut(Iova::new(at)).map(|(range, value)| (range, *value)), expected);
            }
            Op::Overlapping(within) => {
                assert_eq!(map.first_range_in(within), plain.first_in(within).map(|(found, _)| found));
                let expected: Vec<_> = plain
                    .0
                    .iter()
                    .map(|(first, (last, _))| range(*first, *last))
                    .filter(|r| r.overlaps(within))
                    .collect();
                assert!(map.overlapping(within).map(|(range, _)| range).eq(expected));
            }
            Op::Gap(bytes, shift, offset, within) => {
                let expected = plain.find_gap(bytes, 1 << shift, offset, within);
                assert_eq!(map.find_gap(bytes, 1 << shift, offset, within), expected);
            }
        }
        map.tree.check();
        assert_eq!(map.len(), plain.0.len());
    }
}

proptest! {
    #[test]
    fn dense(ops in prop::collection::vec(op(300, 6), 0..300)) {
        play(ops);
    }

    #[test]
    fn sparse(ops in prop::collection::vec(op(1 << 40, 1 << 20), 0..400)) {
        play(ops);
    }
}

#[test]
fn many_in_any_order_leave_nothing_behind() {
    const COUNT: u64 = 20_000;
    type Order = fn(u64) -> u64;
    let orders: [Order; 3] = [|n| n, |n| COUNT - 1 - n, |n| n * 7_919 % COUNT];
    for fill in orders {
        for drain in orders {
            let mut map = IovaMap::new();
            for n in (0..COUNT).map(fill) {
                map.insert(range(10 * n, 10 * n + 4), n).unwrap();
            }
            map.tree.check();
            assert!(map.iter().map(|(_, n)| *n).eq(0..COUNT));
            assert_eq!(map.find_gap(6, 1, 0, IovaRange::ALL), Some(range(10 * COUNT - 5, 10 * COUNT)));
            for (done, n) in (1..).zip((0..COUNT).map(drain)) {
                assert_eq!(map.remove(Iova::new(10 * n)), Some((range(10 * n, 10 * n + 4), n)));
                if done % 1_000 == 0 {
                    map.tree.check();
                }
            }
            assert!(map.is_empty());
            map.tree.check();
        }
    }
}

#[test]
fn ranges_that_come_and_go_leave_few_more_leaves() {
    const COUNT: u64 = 20_000;
    let mut map = IovaMap::new();
    for n in 0..COUNT {
        map.insert(range(10 * n, 10 * n + 4), n).unwrap();
    }
    let full = map.tree.check();
    for n in (0..COUNT).map(|n| n * 7_919 % COUNT) {
        map.insert(range(10 * n + 6, 10 * n + 8), n).unwrap();
        map.remove(Iova::new(10 * n + 6)).unwrap();
    }
    let leaves = map.tree.check();
    assert!(leaves <= full * 3 / 2, "{full} leaves have become {leaves}");
}

#[test]
fn bad_alignments_find_nothing() {
    let mut map = IovaMap::new();
    map.insert(range(0, 9), ()).unwrap();
    assert_eq!(map.find_gap(1, 0, 0, IovaRange::ALL), None);
    assert_eq!(map.find_gap(0, 1, 0, IovaRange::ALL), None);
    assert_eq!(map.find_gap(u64::MAX, 1, 0, IovaRange::ALL), None);
}
