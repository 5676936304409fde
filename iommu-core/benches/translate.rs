//! What page tables cost beside a flat map of every page.
#![expect(clippy::expect_used, reason = "what is measured cannot fail")]

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iommu_core::address::{Access, Iova, PageSizes, PhysAddr};
use iommu_core::software::page_table::{PageTable, TableFormat};

const PAGES: u64 = 4096;
const BASE: u64 = 0x1_0000_0000;

/// Tables that can map only pages of this size, and `PAGES` of them.
fn tables(page: u64) -> PageTable {
    let sizes = PageSizes::from_bitmap(page).expect("not zero");
    PageTable::new(TableFormat::new(48, sizes).expect("a size of x86"))
}

fn map_tables(tables: &mut PageTable, page: u64) {
    for iova in (0..PAGES).map(|n| BASE + n * page) {
        tables
            .map(Iova::new(iova), PhysAddr::new(iova ^ BASE), page, Access::ReadWrite.into())
            .expect("nothing is in the way");
    }
}

fn map_rival(rival: &mut BTreeMap<u64, u64>, page: u64) {
    for iova in (0..PAGES).map(|n| BASE + n * page) {
        rival.insert(iova, iova ^ BASE);
    }
}

/// Every page once, in an order that is not that of the addresses.
fn scattered(page: u64) -> impl Iterator<Item = u64> {
    (0..PAGES).map(move |n| BASE + (n * 1597 % PAGES) * page + 64)
}

fn map_unmap(c: &mut Criterion) {
    let mut group = c.benchmark_group("map+unmap");
    group.throughput(Throughput::Elements(PAGES));
    for (name, page) in [("4K", 1 << 12), ("2M", 1 << 21)] {
        group.bench_function(BenchmarkId::new("page table", name), |b| {
            let unmap = |mut tables: PageTable| {
                map_tables(&mut tables, page);
                for n in 0..PAGES {
                    black_box(tables.unmap(Iova::new(BASE + n * page), page));
                }
                tables
            };
            b.iter_batched(|| tables(page), unmap, BatchSize::SmallInput);
        });
        group.bench_function(BenchmarkId::new("page table, one range", name), |b| {
            let whole = |mut tables: PageTable| {
                let mapped = tables.map(Iova::new(BASE), PhysAddr::new(0), PAGES * page, Access::ReadWrite.into());
                mapped.expect("nothing is in the way");
                black_box(tables.unmap(Iova::new(BASE), PAGES * page));
                tables
            };
            b.iter_batched(|| tables(page), whole, BatchSize::SmallInput);
        });
        group.bench_function(BenchmarkId::new("BTreeMap", name), |b| {
            let remove = |mut rival: BTreeMap<u64, u64>| {
                map_rival(&mut rival, page);
                for n in 0..PAGES {
                    black_box(rival.remove(&(BASE + n * page)));
                }
                rival
            };
            b.iter_batched(BTreeMap::new, remove, BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn translate(c: &mut Criterion) {
    let mut group = c.benchmark_group("translate");
    group.throughput(Throughput::Elements(PAGES));
    for (name, page) in [("4K", 1 << 12), ("2M", 1 << 21)] {
        let mut tables = tables(page);
        map_tables(&mut tables, page);
        group.bench_function(BenchmarkId::new("page table", name), |b| {
            let walk = |iova| tables.translate(Iova::new(iova), Access::Read).expect("it is mapped").phys.get();
            b.iter(|| scattered(page).map(walk).fold(0, u64::wrapping_add));
        });
        let mut rival = BTreeMap::new();
        map_rival(&mut rival, page);
        group.bench_function(BenchmarkId::new("BTreeMap", name), |b| {
            let find = |iova| {
                let (first, phys) = rival.range(..=iova).next_back().expect("it is mapped");
                phys + (iova - first)
            };
            b.iter(|| scattered(page).map(find).fold(0, u64::wrapping_add));
        });
    }
    group.finish();
}

criterion_group!(benches, map_unmap, translate);
criterion_main!(benches);
