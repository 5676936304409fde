//! Random reservations against a count for every address.

use proptest::prelude::*;

use super::*;

/// The addresses that are played with: the lowest and the highest.
const EACH: u64 = 12;

fn address(number: u64) -> Iova {
    Iova::new(if number < EACH { number } else { u64::MAX - (2 * EACH - 1 - number) })
}

fn range(first: u64, more: u64) -> IovaRange {
    let last = address((first + more).min(2 * EACH - 1));
    IovaRange::new(address(first), last).unwrap_or(IovaRange::ALL)
}

fn owner(number: u32) -> ReservedFor {
    if number < 3 { ReservedFor::Device(ObjectId::new(number)) } else { ReservedFor::Domain(ObjectId::new(number)) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_nobody_needs_is_a_hole(ops in prop::collection::vec((0..6_u32, 0..2 * EACH, 0..9_u64, any::<bool>()), 1..40)) {
        let mut reserved = Reserved::default();
        let mut reference: Vec<(u32, IovaRange)> = Vec::new();
        for (whose, first, more, remove) in ops {
            if remove {
                reserved.remove(owner(whose));
                reference.retain(|(other, _)| *other != whose);
            } else {
                reserved.insert(range(first, more), owner(whose));
                reference.push((whose, range(first, more)));
            }
            let merged = |within: IovaRange| within.without(reference.iter().map(|(_, range)| *range));
            for (first, more) in [(0, 2 * EACH), (3, 5), (EACH - 2, 6), (2 * EACH - 2, 1)] {
                let within = range(first, more);
                let holes = merged(within);
                prop_assert_eq!(reserved.holes(within).collect::<Vec<_>>(), holes.clone());
                // From the lowest address that is reserved, up to the next that is not.
                let lowest = within.without(holes).first().copied().map(IovaRange::first);
                let piece = lowest.and_then(|lowest| {
                    let behind = IovaRange::new(lowest, Iova::new(u64::MAX))?;
                    behind.without(merged(behind)).first().copied()
                });
                prop_assert_eq!(reserved.first_in(within), piece);
            }
            let covers: Vec<u32> = reserved.cover.values().copied().collect();
            prop_assert!(covers.windows(2).all(|pair| pair[0] != pair[1]) && covers.first() != Some(&0));
        }
    }
}
