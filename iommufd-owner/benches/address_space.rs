//! Address spaces of an iommufd beside maps that hold the same ranges: mapping and unmapping, copying, placing, and what a
//! device that is attached adds.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "what is measured cannot fail")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::DeviceId;
use iommu_core::hardware::{Endpoint, IommuDriver};
use iommu_core::software::{LockedPages, Memory, Process, SoftIommu, SoftIommuConfig};
use iommu_core::{Access, IommuSubsystem, Iova, Member, PhysicalMemory, UserAddr, generic_single_device_group};
use iommufd_owner::{Context, CopyRequest, MapRequest, ObjectId, Place};
use rangemap::RangeMap;

/// Areas lie on every other page from here on, so that none touches another and rivals merge nothing.
const BASE: u64 = 1 << 32;

fn place(number: u64) -> u64 {
    BASE + 2 * number * PAGE_SIZE
}

/// A page between two areas, another one each time, in no order.
fn anywhere(round: &mut u64, areas: u64) -> u64 {
    *round = round.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    place((*round >> 33) % areas) + PAGE_SIZE
}

/// Sizes that are only worth their time when time is taken.
fn sizes() -> Vec<u64> {
    let measured = std::env::args().any(|argument| argument == "--bench");
    if measured { vec![1, 1_000, 100_000, 1_000_000] } else { vec![1, 100] }
}

/// A process with one page, and a context with an address space that shows it many times.
struct Space {
    process: Arc<Process>,
    page: UserAddr,
    context: Context,
    ioas: ObjectId,
}

impl Space {
    fn new(areas: u64) -> Self {
        let process = Process::new(&Memory::new(), LockedPages::unlimited());
        let page = process.allocate(PAGE_SIZE, Access::ReadWrite).expect("there is memory");
        let context = Context::new("vmm", &group_of(0).1);
        let ioas = context.ioas_alloc().expect("there are ids");
        let space = Self { process, page, context, ioas };
        for number in 0..areas {
            space.map(Place::Fixed(Iova::new(place(number))), 1);
        }
        space
    }

    fn map(&self, place: Place, pages: u64) -> Iova {
        let process = self.process.clone();
        let request =
            MapRequest { iova: place, bytes: pages * PAGE_SIZE, process, addr: self.page, access: Access::ReadWrite };
        self.context.ioas_map(self.ioas, request).expect("there is room")
    }

    fn unmap(&self, at: u64, pages: u64) {
        self.context.ioas_unmap(self.ioas, Iova::new(at), pages * PAGE_SIZE).expect("it is mapped");
    }

    fn copy(&self, from: u64, to: u64) {
        let (from, place) = (Iova::new(from), Place::Fixed(Iova::new(to)));
        let request = CopyRequest { from, bytes: PAGE_SIZE, place, access: Access::Read };
        self.context.ioas_copy(self.ioas, self.ioas, request).expect("there is room");
    }
}

/// The same, as a map from where an area begins to where it ends and whose memory it shows.
fn tree(areas: u64) -> BTreeMap<u64, (u64, Arc<u64>)> {
    (0..areas).map(|number| (place(number), (place(number) + PAGE_SIZE, Arc::new(number)))).collect()
}

fn overlaps(tree: &BTreeMap<u64, (u64, Arc<u64>)>, at: u64) -> bool {
    tree.range(..at + PAGE_SIZE).next_back().is_some_and(|(_, (end, _))| *end > at)
}

fn rival(areas: u64) -> RangeMap<u64, Arc<u64>> {
    (0..areas).map(|number| (place(number)..place(number) + PAGE_SIZE, Arc::new(number))).collect()
}

fn map_unmap(c: &mut Criterion) {
    let mut group = c.benchmark_group("map+unmap");
    for areas in sizes() {
        let mut round = 1;
        let space = Space::new(areas);
        group.bench_function(BenchmarkId::new("iommufd", areas), |b| {
            b.iter(|| {
                let at = anywhere(&mut round, areas);
                space.map(Place::Fixed(Iova::new(at)), 1);
                space.unmap(at, 1);
            });
        });
        drop(space);
        let mut tree = tree(areas);
        group.bench_function(BenchmarkId::new("BTreeMap", areas), |b| {
            b.iter(|| {
                let at = anywhere(&mut round, areas);
                assert!(!overlaps(&tree, at));
                tree.insert(at, (at + PAGE_SIZE, Arc::new(at)));
                black_box(tree.remove(&at));
            });
        });
        drop(tree);
        let mut map = rival(areas);
        group.bench_function(BenchmarkId::new("rangemap", areas), |b| {
            b.iter(|| {
                let at = anywhere(&mut round, areas);
                assert!(!map.overlaps(&(at..at + PAGE_SIZE)));
                map.insert(at..at + PAGE_SIZE, Arc::new(at));
                map.remove(at..at + PAGE_SIZE);
            });
        });
    }
    group.finish();
}

fn copy(c: &mut Criterion) {
    let mut group = c.benchmark_group("copy+unmap");
    for areas in sizes() {
        let mut round = 1;
        let space = Space::new(areas);
        group.bench_function(BenchmarkId::new("iommufd", areas), |b| {
            b.iter(|| {
                let at = anywhere(&mut round, areas);
                space.copy(at - PAGE_SIZE, at);
                space.unmap(at, 1);
            });
        });
        drop(space);
        let mut tree = tree(areas);
        group.bench_function(BenchmarkId::new("BTreeMap", areas), |b| {
            b.iter(|| {
                let at = anywhere(&mut round, areas);
                let (_, source) = tree.get(&(at - PAGE_SIZE)).expect("it is mapped").clone();
                assert!(!overlaps(&tree, at));
                tree.insert(at, (at + PAGE_SIZE, source));
                black_box(tree.remove(&at));
            });
        });
        drop(tree);
        let mut map = rival(areas);
        group.bench_function(BenchmarkId::new("rangemap", areas), |b| {
            b.iter(|| {
                let at = anywhere(&mut round, areas);
                let source = map.get(&(at - PAGE_SIZE)).expect("it is mapped").clone();
                assert!(!map.overlaps(&(at..at + PAGE_SIZE)));
                map.insert(at..at + PAGE_SIZE, source);
                map.remove(at..at + PAGE_SIZE);
            });
        });
    }
    group.finish();
}

/// Two pages, where every hole between areas has one.
fn anywhere_in_fragments(c: &mut Criterion) {
    let mut group = c.benchmark_group("place among holes of one page");
    for areas in sizes() {
        let space = Space::new(areas);
        // The only hole below them that has two pages.
        space.context.ioas_allow_iovas(space.ioas, &[(Iova::new(BASE), Iova::new(u64::MAX >> 1))]).expect("it is free");
        group.bench_function(BenchmarkId::new("iommufd", areas), |b| {
            b.iter(|| {
                let at = space.map(Place::Anywhere, 2);
                space.unmap(at.get(), 2);
            });
        });
        drop(space);
        let mut map = rival(areas);
        group.bench_function(BenchmarkId::new("rangemap", areas), |b| {
            b.iter(|| {
                let hole = map.gaps(&(BASE..u64::MAX)).find(|hole| hole.end - hole.start >= 2 * PAGE_SIZE);
                let at = hole.expect("behind all of them").start;
                map.insert(at..at + 2 * PAGE_SIZE, Arc::new(at));
                map.remove(at..at + 2 * PAGE_SIZE);
            });
        });
    }
    group.finish();
}

/// What an attached device adds: pins, accounting, page tables; by how many pages are mapped at once.
fn attached(c: &mut Criterion) {
    let mut group = c.benchmark_group("map+unmap with a device attached");
    let (_iommu, physical, members) = group_of(1);
    for pages in [1, 512] {
        let process = Process::new(&Memory::new(), LockedPages::unlimited());
        let page = process.allocate(pages * PAGE_SIZE, Access::ReadWrite).expect("there is memory");
        let context = Context::new("vmm", &physical);
        let ioas = context.ioas_alloc().expect("there are ids");
        let space = Space { process, page, context, ioas };
        let bound = space.context.bind(&members[0]).expect("nobody has it");
        bound.attach(ioas).expect("nothing is in the way");
        group.bench_function(BenchmarkId::new("pages", pages), |b| {
            b.iter(|| {
                space.map(Place::Fixed(Iova::new(BASE)), pages);
                space.unmap(BASE, pages);
            });
        });
    }
    group.finish();
}

fn group_of(devices: u64) -> (IommuSubsystem, PhysicalMemory, Vec<Arc<Member>>) {
    let hardware: Arc<dyn IommuDriver> = SoftIommu::new("soft", SoftIommuConfig::default());
    let (iommu, physical) =
        IommuSubsystem::builder(move |_: &Endpoint| Some(generic_single_device_group(&hardware))).build();
    let plug = |number| {
        let endpoint = Endpoint::new(DeviceId::new(number), format!("dev{number}"));
        iommu.add_device(&endpoint).expect("it can be served").expect("it is served")
    };
    let members = (0..devices).map(plug).collect();
    (iommu, physical, members)
}

/// Attach and replace by the size of the group, all of whose devices are bound and attached.
fn by_group_size(c: &mut Criterion) {
    let mut group = c.benchmark_group("by devices of the group");
    for devices in [1, 8, 64] {
        let (_iommu, physical, members) = group_of(devices);
        let context = Context::new("vmm", &physical);
        let bound: Vec<_> = members.iter().map(|member| context.bind(member).expect("nobody has it")).collect();
        let spaces = [(); 2].map(|()| context.ioas_alloc().expect("there are ids"));
        let [a, b] = spaces.map(|ioas| context.hwpt_alloc(bound[0].id(), ioas).expect("it can be made"));
        group.bench_function(BenchmarkId::new("attach+detach of the first", devices), |bench| {
            bench.iter(|| {
                bound[0].attach(a).expect("nothing is in the way");
                bound[0].detach();
            });
        });
        for device in &bound {
            device.attach(a).expect("nothing is in the way");
        }
        group.bench_function(BenchmarkId::new("two replaces", devices), |bench| {
            bench.iter(|| {
                bound[0].replace(b).expect("nothing is in the way");
                bound[0].replace(a).expect("nothing is in the way");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, map_unmap, copy, anywhere_in_fragments, attached, by_group_size);
criterion_main!(benches);
