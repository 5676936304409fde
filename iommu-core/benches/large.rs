//! Large memory: 64 GiB mapped in pieces of several sizes, and the dirty bitmap of 1 TiB.
#![expect(clippy::expect_used, reason = "what is measured cannot fail")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use iommu_core::address::{PageSizes, PhysRun};
use iommu_core::device_model::DeviceId;
use iommu_core::hardware::{DirtyFlags, Endpoint, IommuDriver, PagingFlags};
use iommu_core::software::page_table::{PageTable, TableFormat};
use iommu_core::software::{LockedPages, Memory, Process, SimulatedDevice, SoftIommu, SoftIommuConfig};
use iommu_core::{
    Access, Claim, Domain, IommuSubsystem, Iova, IovaRange, Member, Owner, PhysAddr, PhysicalMemory,
    generic_device_group, set_user_bits,
};

const KIB4: u64 = 1 << 12;
const MIB2: u64 = 1 << 21;
const BASE: u64 = 1 << 32;

/// Without time being taken, a thousandth is enough.
fn scaled(bytes: u64) -> u64 {
    if std::env::args().any(|argument| argument == "--bench") { bytes } else { bytes >> 10 }
}

struct User {
    domain: Arc<Domain>,
    physical_memory: PhysicalMemory,
    device: SimulatedDevice,
    memory: Memory,
    _claim: Claim,
    _member: Arc<Member>,
    _subsystem: IommuSubsystem,
}

impl User {
    /// A user whose device is attached to a domain of this format.
    fn new(format: TableFormat) -> Self {
        let config = SoftIommuConfig { format, interrupt_window: None, ..SoftIommuConfig::default() };
        let hardware = SoftIommu::new("soft", config);
        let driver: Arc<dyn IommuDriver> = hardware.clone();
        let placement = move |_: &Endpoint| Some(generic_device_group(&driver));
        let (subsystem, physical_memory) = IommuSubsystem::builder(placement).build();
        let dev = Endpoint::new(DeviceId::new(1), "dev1");
        let member = subsystem.add_device(&dev).expect("it is served").expect("it is served");
        let claim = member.claim(&Owner::new("vm")).expect("it is free");
        let domain = claim.group().allocate_for_user(PagingFlags::DIRTY_TRACKING, None).expect("it can");
        claim.attach(&domain).expect("it fits");
        let memory = Memory::new();
        let device = SimulatedDevice::new(dev, hardware, memory.clone());
        Self { domain, physical_memory, device, memory, _claim: claim, _member: member, _subsystem: subsystem }
    }
}

/// Where the pieces lie in physical memory, and how large they are. No two adjacent ones touch, and none is aligned better
/// than to its size.
fn pieces(whole: u64, piece: u64) -> impl Iterator<Item = (Iova, PhysAddr)> {
    (0..whole / piece).map(move |n| (Iova::new(BASE + n * piece), PhysAddr::new(BASE + (whole - (n + 1) * piece))))
}

fn map(c: &mut Criterion) {
    let mut group = c.benchmark_group("map 64 GiB");
    group.sample_size(10);
    let whole = scaled(64 << 30);
    for (name, piece) in [("one piece", whole), ("2 MiB pieces", MIB2), ("pages", KIB4)] {
        let user = User::new(TableFormat::X86_39);
        let unmap = || {
            user.domain.unmap(Iova::new(BASE), whole).expect("it does not fail");
        };
        group.bench_function(BenchmarkId::new(name, "ours"), |b| {
            let map = |()| {
                let pieces = pieces(whole, piece).map(|(_, phys)| PhysRun { phys, bytes: piece });
                let mapped = user.domain.map_sg(&user.physical_memory, Iova::new(BASE), pieces, Access::ReadWrite);
                mapped.expect("nothing is there");
            };
            b.iter_batched(unmap, map, BatchSize::PerIteration);
            unmap();
        });
        if piece < whole {
            group.bench_function(BenchmarkId::new(name, "a call each"), |b| {
                let map = |()| {
                    for (iova, phys) in pieces(whole, piece) {
                        let mapped = user.domain.map(&user.physical_memory, iova, phys, piece, Access::ReadWrite);
                        mapped.expect("nothing is there");
                    }
                };
                b.iter_batched(unmap, map, BatchSize::PerIteration);
                unmap();
            });
        }
        group.bench_function(BenchmarkId::new(name, "loop of writes"), |b| {
            let map = |mut table: PageTable| {
                for (iova, phys) in pieces(whole, piece) {
                    table.map(iova, phys, piece, Access::ReadWrite.into()).expect("nothing is there");
                }
                table
            };
            b.iter_batched(|| PageTable::new(TableFormat::X86_39), map, BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn dirty(c: &mut Criterion) {
    let mut group = c.benchmark_group("dirty bitmap of 1 TiB");
    group.sample_size(10);
    let whole = scaled(1 << 40);
    let pages = whole / KIB4;
    let sizes = PageSizes::from_bitmap(KIB4).expect("not zero");
    let user = User::new(TableFormat::new(48, sizes).expect("a size of x86"));
    // All of it leads to the same 2 MiB, or it would not fit into this machine once it is written.
    for n in 0..whole / MIB2 {
        let iova = Iova::new(BASE + n * MIB2);
        let mapped = user.domain.map(&user.physical_memory, iova, PhysAddr::new(0), MIB2, Access::ReadWrite);
        mapped.expect("nothing is there");
    }
    user.domain.start_dirty_tracking().expect("it can");
    let range = IovaRange::sized(Iova::new(BASE), whole).expect("it fits");
    let process = Process::new(&user.memory, LockedPages::unlimited());
    let bitmap = process.allocate(pages / 8, Access::ReadWrite).expect("there is memory");
    // As the table holds them: the dirty bit among others.
    let mut entries = vec![3_u64; usize::try_from(pages).expect("they fit")];
    let mut buffer = vec![0_u8; usize::try_from(pages / 8).expect("they fit")];
    for (name, one_in) in [("0.1 %", 1000), ("10 %", 10)] {
        let mut round = 1_u64;
        for _ in 0..pages / one_in {
            round = round.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let page = (round >> 33) % pages;
            user.device.write(Iova::new(BASE + page * KIB4), &[1]).expect("it is mapped");
            *entries.get_mut(usize::try_from(page).expect("it fits")).expect("it is there") |= 1 << 11;
        }
        group.bench_function(BenchmarkId::new(name, "ours"), |b| {
            b.iter(|| {
                let read = user.domain.read_dirty_bitmap(range, 12, DirtyFlags::NO_CLEAR, |first, bits| {
                    let at = bitmap.checked_add(first).expect("it fits");
                    set_user_bits(&*process, at, bits).expect("it is there");
                });
                read.expect("it can");
            });
        });
        group.bench_function(BenchmarkId::new(name, "walk of the table"), |b| {
            b.iter(|| black_box(&entries).iter().filter(|entry| **entry & 1 << 11 != 0).count());
        });
        group.bench_function(BenchmarkId::new(name, "memset"), |b| b.iter(|| black_box(&mut buffer).fill(1)));
    }
    group.finish();
}

criterion_group!(benches, map, dirty);
criterion_main!(benches);
