//! `IovaMap` beside maps that hold the same ranges: adding and taking out a range, and the search for a place in a space full
//! of holes that are too small.
#![expect(clippy::expect_used, reason = "what is measured cannot fail")]

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use iommu_core::address::PAGE_SIZE;
use iommu_core::{Iova, IovaMap, IovaRange};
use rangemap::RangeMap;

/// Ranges lie on every other page from here on, so that none touches another and rivals merge nothing.
const BASE: u64 = 1 << 32;

fn place(number: u64) -> u64 {
    BASE + 2 * number * PAGE_SIZE
}

fn page(at: u64) -> IovaRange {
    IovaRange::sized(Iova::new(at), PAGE_SIZE).expect("it does not wrap")
}

/// A page between two ranges, another one each time, in no order.
fn anywhere(round: &mut u64, ranges: u64) -> u64 {
    *round = round.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    place((*round >> 33) % ranges) + PAGE_SIZE
}

fn one_place(_: &mut u64, ranges: u64) -> u64 {
    place(ranges / 2) + PAGE_SIZE
}

/// Sizes that are only worth their time when time is taken.
fn sizes() -> Vec<u64> {
    let measured = std::env::args().any(|argument| argument == "--bench");
    if measured { vec![1, 1_000, 100_000, 1_000_000] } else { vec![1, 1_000] }
}

fn ours(ranges: u64) -> IovaMap<u64> {
    let mut map = IovaMap::new();
    for number in 0..ranges {
        map.insert(page(place(number)), number).expect("nothing is there");
    }
    map
}

fn insert_remove(c: &mut Criterion) {
    for (name, next) in
        [("insert+remove/anywhere", anywhere as fn(&mut u64, u64) -> u64), ("insert+remove/one place", one_place)]
    {
        let mut group = c.benchmark_group(name);
        for ranges in sizes() {
            let mut round = 1;
            let mut map = ours(ranges);
            group.bench_function(BenchmarkId::new("IovaMap", ranges), |b| {
                b.iter(|| {
                    let at = next(&mut round, ranges);
                    map.insert(page(at), 0).expect("nothing is there");
                    black_box(map.remove(Iova::new(at)));
                });
            });
            let mut tree: BTreeMap<u64, (u64, u64)> =
                (0..ranges).map(|number| (place(number), (place(number) + PAGE_SIZE, number))).collect();
            group.bench_function(BenchmarkId::new("BTreeMap", ranges), |b| {
                b.iter(|| {
                    let at = next(&mut round, ranges);
                    // What a caller must ask first: does anything overlap?
                    let before = tree.range(..at + PAGE_SIZE).next_back();
                    assert!(before.is_none_or(|(_, (end, _))| *end <= at));
                    tree.insert(at, (at + PAGE_SIZE, 0));
                    black_box(tree.remove(&at));
                });
            });
            let mut map: RangeMap<u64, u64> =
                (0..ranges).map(|number| (place(number)..place(number) + PAGE_SIZE, number)).collect();
            group.bench_function(BenchmarkId::new("rangemap", ranges), |b| {
                b.iter(|| {
                    let at = next(&mut round, ranges);
                    assert!(!map.overlaps(&(at..at + PAGE_SIZE)));
                    map.insert(at..at + PAGE_SIZE, u64::MAX);
                    map.remove(at..at + PAGE_SIZE);
                });
            });
        }
        group.finish();
    }
}

fn find_gap(c: &mut Criterion) {
    let mut group = c.benchmark_group("two pages where holes have one");
    for ranges in sizes() {
        let mut map = ours(ranges);
        let within = IovaRange::new(Iova::new(BASE), Iova::new(u64::MAX)).expect("it is not empty");
        group.bench_function(BenchmarkId::new("IovaMap", ranges), |b| {
            b.iter(|| black_box(map.find_gap(2 * PAGE_SIZE, PAGE_SIZE, 0, within)).expect("behind all of them"));
        });
        let map: RangeMap<u64, u64> =
            (0..ranges).map(|number| (place(number)..place(number) + PAGE_SIZE, number)).collect();
        group.bench_function(BenchmarkId::new("rangemap", ranges), |b| {
            b.iter(|| {
                let all = BASE..u64::MAX;
                let hole = map.gaps(&all).find(|hole| hole.end - hole.start >= 2 * PAGE_SIZE);
                black_box(hole).expect("behind all of them")
            });
        });
    }
    group.finish();
}

criterion_group!(benches, insert_remove, find_gap);
criterion_main!(benches);
