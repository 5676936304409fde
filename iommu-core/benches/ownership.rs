//! What ownership costs as shipped, beside the floor that nothing with a lock can pass: two lock-unlock pairs on the same
//! access pattern, one to begin and one to end.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "what is measured cannot fail")]

use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use device_model::DeviceId;
use iommu_core::hardware::{Endpoint, EndpointProperties, FaultSink, HardwareDomain, HardwareError, IommuDriver};
use iommu_core::{
    DeviceGroup, DomainKind, GroupId, IommuSubsystem, KernelUse, Member, Owner, Transition, generic_device_group,
};

/// Hardware that costs nothing.
#[derive(Debug)]
struct Null;

impl IommuDriver for Null {
    fn name(&self) -> &'static str {
        "null"
    }

    fn probe(&self, _dev: &Endpoint, _faults: Arc<dyn FaultSink>) -> Result<EndpointProperties, HardwareError> {
        Ok(EndpointProperties::default())
    }

    fn release(&self, _dev: &Endpoint) {}

    fn allocate(&self, _kind: DomainKind, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        Ok(Box::new(Self))
    }

    fn block(&self, _dev: &Endpoint) -> Result<(), HardwareError> {
        Ok(())
    }
}

impl HardwareDomain for Null {
    fn attach(&self, _dev: &Endpoint) -> Result<(), HardwareError> {
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Watched {
    Yes,
    No,
}

/// `groups` groups of `size` devices each.
fn machine(groups: u64, size: u64, watched: Watched) -> (IommuSubsystem, Vec<Arc<Member>>) {
    let hardware: Arc<dyn IommuDriver> = Arc::new(Null);
    let served = hardware.clone();
    let builder = IommuSubsystem::builder(move |_: &Endpoint| Some(generic_device_group(&served)));
    let builder = match watched {
        Watched::Yes => builder.observer(|transition: &Transition<'_>| {
            black_box(transition.sequence);
        }),
        Watched::No => builder,
    };
    let (iommu, _) = builder.build();
    let add = |number: u64| {
        let endpoint = Endpoint::new(DeviceId::new(number), format!("device {number}"));
        let group = DeviceGroup::founded_by(&hardware, DeviceId::new(number - number % size));
        iommu.add_device_to(&endpoint, group).expect("null hardware refuses nothing")
    };
    let members = (0..groups * size).map(add).collect();
    (iommu, members)
}

/// Draws from `0..count`, the same each time.
struct Draw {
    state: Cell<u64>,
    count: usize,
}

impl Draw {
    fn new(count: usize) -> Self {
        Self { state: Cell::new(0x9e37_79b9_7f4a_7c15), count }
    }

    fn next(&self) -> usize {
        let mut state = self.state.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.state.set(state);
        usize::try_from(state % self.count as u64).unwrap_or(0)
    }
}

#[expect(clippy::disallowed_types, reason = "the floor is the bare lock")]
type Floor = parking_lot::Mutex<u64>;

/// A lock in an allocation of its own, as a group has it.
#[repr(align(64))]
struct Padded(Floor);

fn floor(group: &mut BenchmarkGroup<'_, WallTime>, locks: usize) {
    let count = locks;
    let locks: Vec<Arc<Padded>> = (0..locks).map(|_| Arc::new(Padded(Floor::new(0)))).collect();
    let draw = Draw::new(count);
    group.bench_function(BenchmarkId::new("floor", count), |b| {
        b.iter(|| {
            let lock = &locks[draw.next()].0;
            *black_box(lock).lock() += 1;
            *black_box(lock).lock() -= 1;
        });
    });
}

fn kernel_use(c: &mut Criterion) {
    let mut group = c.benchmark_group("use_unuse");
    let driver: Arc<str> = "e1000".into();
    for groups in [1, 1_000, 100_000] {
        floor(&mut group, groups);
        for (name, watched) in [("shipped", Watched::No), ("observed", Watched::Yes)] {
            let (_iommu, members) = machine(groups as u64, 1, watched);
            let draw = Draw::new(groups);
            group.bench_function(BenchmarkId::new(name, groups), |b| {
                b.iter(|| KernelUse::begin(black_box(&members[draw.next()]).clone(), &driver).expect("free"));
            });
        }
    }
    group.finish();
}

fn claims(c: &mut Criterion) {
    let mut group = c.benchmark_group("claim_release");
    let owner = Owner::new("owner");
    for groups in [1, 1_000, 100_000] {
        floor(&mut group, groups);
        for (name, watched) in [("shipped", Watched::No), ("observed", Watched::Yes)] {
            let (_iommu, members) = machine(groups as u64, 1, watched);
            let draw = Draw::new(groups);
            group.bench_function(BenchmarkId::new(name, groups), |b| {
                b.iter(|| black_box(&members[draw.next()]).group().claim(&owner).expect("free"));
            });
        }
    }
    group.finish();

    let mut group = c.benchmark_group("claim_release_by_size");
    for size in [1, 8, 64, 512, 4096] {
        let (_iommu, members) = machine(1, size, Watched::No);
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::new("devices", size), |b| {
            b.iter(|| black_box(&members[0]).group().claim(&owner).expect("free"));
        });
    }
    group.finish();

    let mut group = c.benchmark_group("device_claim_release_nested");
    let (_iommu, members) = machine(1, 64, Watched::No);
    for held in [0, 1, 64] {
        let held_claims: Vec<_> = members.iter().take(held).map(|member| member.claim(&owner).expect("free")).collect();
        group.bench_function(BenchmarkId::new("held", held), |b| {
            b.iter(|| black_box(&members[0]).claim(&owner).expect("one owner"));
        });
        drop(held_claims);
    }
    group.finish();
}

/// Runs `work` in two threads, each `iterations` times; how long both took.
fn both(iterations: u64, work: [&(dyn Fn() + Sync); 2]) -> Duration {
    let start = std::sync::Barrier::new(3);
    std::thread::scope(|scope| {
        let threads = work.map(|work| {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                for _ in 0..iterations {
                    work();
                }
            })
        });
        start.wait();
        let began = Instant::now();
        for thread in threads {
            thread.join().expect("no thread panics");
        }
        began.elapsed()
    })
}

/// Two threads, on one group and on two, beside two threads on private locks.
fn two_threads(c: &mut Criterion) {
    let mut group = c.benchmark_group("two_threads");
    let driver: Arc<str> = "e1000".into();
    let (_iommu, members) = machine(2, 1, Watched::No);
    let owners = [Owner::new("one"), Owner::new("two")];
    let locks = [(); 2].map(|()| Arc::new(Padded(Floor::new(0))));
    let pair = |lock: &Padded| {
        *black_box(&lock.0).lock() += 1;
        *black_box(&lock.0).lock() -= 1;
    };
    group.bench_function("floor/two", |b| {
        b.iter_custom(|n| both(n, [&|| pair(&locks[0]), &|| pair(&locks[1])]));
    });
    let drivers = [driver.clone(), "e1000e".into()];
    let used = |n: usize, which: usize| drop(KernelUse::begin(members[n].clone(), &drivers[which]).expect("free"));
    group.bench_function("use/two_groups", |b| b.iter_custom(|n| both(n, [&|| used(0, 0), &|| used(1, 1)])));
    group.bench_function("use/one_group", |b| b.iter_custom(|n| both(n, [&|| used(0, 0), &|| used(0, 0)])));
    let claim = |n: usize| drop(members[n].group().claim(&owners[n]).expect("free"));
    group.bench_function("claim/two_groups", |b| b.iter_custom(|n| both(n, [&|| claim(0), &|| claim(1)])));
    group.finish();
}

fn look_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("group_by_number");
    for groups in [1, 1_000, 100_000_u32] {
        let (iommu, _members) = machine(groups.into(), 1, Watched::No);
        group.bench_function(BenchmarkId::new("groups", groups), |b| {
            b.iter(|| iommu.group(black_box(GroupId::new(groups / 2))).expect("it exists"));
        });
    }
    group.finish();
}

fn boot(c: &mut Criterion) {
    let mut group = c.benchmark_group("boot");
    group.sample_size(10);
    for (devices, size) in [(1_000, 4), (10_000, 4), (100_000, 4), (10_000, 10_000)] {
        group.throughput(Throughput::Elements(devices));
        group.bench_function(BenchmarkId::new(format!("groups_of_{size}"), devices), |b| {
            b.iter_batched(|| (), |()| machine(devices / size, size, Watched::No), BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = kernel_use, claims, two_threads, look_up, boot
}
criterion_main!(benches);
