//! What VFIO costs: a mapping made and undone beside so many others, against maps that hold the same ranges and do nothing
//! else; DMA through a mapping; a group opened and closed.
#![expect(clippy::expect_used, reason = "what is measured cannot fail")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use rangemap::RangeMap;
use vfio_owner::backend::{Extension, MapRequest, Unmap};
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::software::LockedPages;
use vfio_owner::iommu_core::sysfs::{Archive, MemoryTree, Snapshot};
use vfio_owner::iommu_core::{Access, Iova, UserMemory as _};
use vfio_owner::testbed::{self, Machine};
use vfio_owner::type1::Type1Config;
use vfio_owner::{Container, GroupFile};

const NIC: &str = "0000:00:03.0";

/// Mappings lie on every other page from here on, so that none touches another and rivals merge nothing.
const BASE: u64 = 1 << 32;

fn place(number: u64) -> u64 {
    BASE + 2 * number * PAGE_SIZE
}

/// A page between two mappings, another one each time, in no order.
fn gap(round: &mut u64, mappings: u64) -> u64 {
    *round = round.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    place((*round >> 33) % mappings) + PAGE_SIZE
}

/// Sizes that are only worth their time when time is taken.
fn measures() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

fn sizes() -> Vec<u64> {
    if measures() { vec![1, 1_000, 100_000, 1_000_000] } else { vec![1, 1_000] }
}

struct User {
    machine: Machine,
    /// One page of its memory, for any place.
    request: MapRequest,
    container: Container,
    group: GroupFile,
}

impl User {
    /// A user with a device whose container holds so many mappings of 4 KiB.
    fn new(mappings: u64) -> Self {
        let config = Type1Config { dma_entry_limit: u32::MAX, ..Type1Config::default() };
        let machine = Machine::builder(testbed::pc()).type1(config).build().expect("no device was named");
        machine.unbind(NIC).expect("it is bound").wait();
        machine.bind(NIC, "vfio-pci").expect("it is free");
        let process = machine.process(LockedPages::unlimited());
        let ram = process.allocate(PAGE_SIZE, Access::ReadWrite).expect("there is memory");
        // Memory that nobody has written is not there: a device's cache has nothing to point to.
        process.write(ram, &[1]).expect("it is allocated");
        let (group, container) = (machine.open_group(NIC).expect("it is closed"), machine.vfio().open_container());
        group.set_container(&container).expect("it is viable");
        container.set_iommu(Extension::TYPE1_V2).expect("there is a group");
        let request =
            MapRequest { iova: Iova::new(0), bytes: PAGE_SIZE, process, addr: ram, access: Access::ReadWrite };
        let mut user = Self { machine, request, container, group };
        (0..mappings).for_each(|number| user.map(place(number)));
        user
    }

    fn map(&mut self, iova: u64) {
        self.request.iova = Iova::new(iova);
        self.container.map(&self.request).expect("nothing is there");
    }

    fn unmap(&self, iova: u64) {
        let unmapped = self.container.unmap(Unmap::Range { iova: Iova::new(iova), bytes: PAGE_SIZE });
        assert_eq!(unmapped, Ok(PAGE_SIZE));
    }
}

fn rivals(group: &mut BenchmarkGroup<'_, WallTime>, mappings: u64, next: fn(&mut u64, u64) -> u64) {
    let mut tree: BTreeMap<u64, (u64, u64)> = (0..mappings).map(|n| (place(n), (place(n) + PAGE_SIZE, n))).collect();
    let mut round = 1;
    group.bench_function(BenchmarkId::new("BTreeMap", mappings), |b| {
        b.iter(|| {
            let at = next(&mut round, mappings);
            // What a caller must ask first: does anything overlap?
            let before = tree.range(..at + PAGE_SIZE).next_back().is_some_and(|(_, (end, _))| *end > at);
            assert!(!before);
            tree.insert(at, (at + PAGE_SIZE, 0));
            black_box(tree.remove(&at));
        });
    });
    drop(tree);
    let mut ranges: RangeMap<u64, u64> = (0..mappings).map(|n| (place(n)..place(n) + PAGE_SIZE, n)).collect();
    group.bench_function(BenchmarkId::new("rangemap", mappings), |b| {
        b.iter(|| {
            let at = next(&mut round, mappings);
            assert!(!ranges.overlaps(&(at..at + PAGE_SIZE)));
            ranges.insert(at..at + PAGE_SIZE, u64::MAX);
            ranges.remove(at..at + PAGE_SIZE);
        });
    });
}

fn map_unmap(c: &mut Criterion) {
    let hot: fn(&mut u64, u64) -> u64 = |_, mappings| place(mappings / 2) + PAGE_SIZE;
    for (name, next) in [("map+unmap/anywhere", gap as fn(&mut u64, u64) -> u64), ("map+unmap/one place", hot)] {
        let mut group = c.benchmark_group(name);
        for mappings in sizes() {
            let mut user = User::new(mappings);
            let mut round = 1;
            group.bench_function(BenchmarkId::new("type1", mappings), |b| {
                b.iter(|| {
                    let at = next(&mut round, mappings);
                    user.map(at);
                    user.unmap(at);
                });
            });
            drop(user);
            rivals(&mut group, mappings, next);
        }
        group.finish();
    }
}

/// 64 bytes through a mapping: each time the same one, or another one in no order; beside the copy alone.
fn dma(c: &mut Criterion) {
    let mut group = c.benchmark_group("read 64 bytes by DMA");
    let same: fn(&mut u64, u64) -> u64 = |_, mappings| place(mappings / 2);
    let other: fn(&mut u64, u64) -> u64 = |round, mappings| gap(round, mappings) - PAGE_SIZE;
    let mut bytes = [0; 64];
    for mappings in sizes() {
        let user = User::new(mappings);
        let device = user.machine.dma(NIC).expect("it is there");
        for (name, next) in [("hot", same), ("cold", other)] {
            let mut round = 1;
            group.bench_function(BenchmarkId::new(name, mappings), |b| {
                b.iter(|| {
                    let at = next(&mut round, mappings);
                    device.read(Iova::new(at), &mut bytes).expect("it is mapped");
                });
            });
        }
    }
    let source = [0_u8; 64];
    group.bench_function(BenchmarkId::new("copy", 1), |b| {
        b.iter(|| black_box(&mut bytes).copy_from_slice(black_box(&source)));
    });
    group.finish();
}

/// What ends with a container or at once, beside freeing a map that holds the same ranges.
fn ends(c: &mut Criterion) {
    let mappings = if measures() { 1_000_000 } else { 100 };
    let mut group = c.benchmark_group("end of 1M mappings");
    group.sample_size(10).warm_up_time(Duration::from_millis(1));
    group.bench_function("unmap all", |b| {
        b.iter_batched(
            || User::new(mappings),
            |user| {
                user.container.unmap(Unmap::All).expect("it can be unmapped");
                user
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("close a container", |b| {
        b.iter_batched(
            || User::new(mappings),
            |user| {
                let User { machine, request, container, group } = user;
                drop((container, group));
                (machine, request)
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("free a BTreeMap", |b| {
        let tree = || -> BTreeMap<u64, (u64, u64)> { (0..mappings).map(|n| (place(n), (place(n) + 1, n))).collect() };
        b.iter_batched(tree, drop, BatchSize::PerIteration);
    });
    group.finish();
}

/// So many network cards, each in a group of its own, as a table of devices.
fn layout(devices: u32) -> String {
    let lines: Vec<String> = (0..devices).map(|number| format!("{} nic - {number}", nic(number))).collect();
    lines.join("\n")
}

fn nic(number: u32) -> String {
    format!("{:04x}:{:02x}:{:02x}.0", number >> 12, number >> 5 & 0x7f, number & 0x1f)
}

/// Groups that share a container, put in and taken out again.
fn set_container(c: &mut Criterion) {
    let mut group = c.benchmark_group("set-container");
    for groups in if measures() { [50, 400] } else { [2, 4] } {
        let names: Vec<String> = (0..groups).map(nic).collect();
        let snapshot = Snapshot::from_layout(&layout(groups)).expect("it is one");
        let machine = Machine::builder(snapshot).as_found().build().expect("no device was named");
        for name in &names {
            machine.bind(name, "vfio-pci").expect("it is free");
        }
        let files: Vec<GroupFile> = names.iter().map(|name| machine.open_group(name).expect("it is closed")).collect();
        let container = machine.vfio().open_container();
        group.bench_function(BenchmarkId::new("groups", groups), |b| {
            b.iter(|| {
                for (number, file) in files.iter().enumerate() {
                    file.set_container(&container).expect("it is viable");
                    if number == 0 {
                        container.set_iommu(Extension::TYPE1_V2).expect("there is a group");
                    }
                }
                for file in &files {
                    file.unset_container().expect("no device is open");
                }
            });
        });
    }
    group.finish();
}

/// A machine made of the archive that describes it; beside reading the archive alone.
fn machines(c: &mut Criterion) {
    let mut group = c.benchmark_group("machine from a snapshot");
    group.sample_size(10);
    for devices in if measures() { vec![20, 1_000, 10_000] } else { vec![20] } {
        let text = MemoryTree::from_layout(&layout(devices)).expect("it is one").to_archive();
        let read = || Archive::parse(&text).expect("it was written by us");
        group.bench_function(BenchmarkId::new("booted", devices), |b| {
            b.iter(|| Machine::boot(&Snapshot::load(&read()).expect("it has devices")));
        });
        group.bench_function(BenchmarkId::new("reading the file", devices), |b| {
            b.iter(read);
        });
    }
    group.finish();
}

fn groups(c: &mut Criterion) {
    let user = User::new(1);
    let machine = &user.machine;
    let other = "0000:01:00.0";
    for device in [other, "0000:01:00.1"] {
        machine.unbind(device).expect("it is bound").wait();
    }
    machine.bind(other, "vfio-pci").expect("it is free");
    let mut group = c.benchmark_group("group");
    group.bench_function("open+close", |b| b.iter(|| machine.open_group(other).expect("it is closed")));
    group.bench_function("open+set-container+set-iommu+get-device+close", |b| {
        b.iter(|| {
            let container = machine.vfio().open_container();
            let file = machine.open_group(other).expect("it is closed");
            file.set_container(&container).expect("it is viable");
            container.set_iommu(Extension::TYPE1_V2).expect("there is a group");
            file.device(other).expect("it is on vfio-pci")
        });
    });
    group.finish();
}

criterion_group!(benches, map_unmap, dma, ends, set_container, machines, groups);
criterion_main!(benches);
