//! What ownership costs, beside the floor that nothing with a lock can pass: `parking_lot` locked and unlocked twice, once
//! to begin and once to end.
#![expect(clippy::expect_used, reason = "what is measured cannot fail")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use device_model::DeviceId;
use iommu_core::hardware::{Endpoint, EndpointProperties, FaultSink, HardwareDomain, HardwareError, IommuDriver};
use iommu_core::placement::{GroupKey, OneEach, Placement};
use iommu_core::{Claim, DomainKind, Iommu, KernelUse, Member, Owner};

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

/// `groups` groups of `size` devices each.
fn machine(groups: u64, size: u64) -> (Iommu, Vec<Arc<Member>>) {
    let hardware: Arc<dyn IommuDriver> = Arc::new(Null);
    let iommu = Iommu::new(OneEach(hardware.clone()));
    let members = (0..groups * size).map(|number| add(&iommu, &hardware, number, number / size)).collect();
    (iommu, members)
}

fn add(iommu: &Iommu, hardware: &Arc<dyn IommuDriver>, number: u64, group: u64) -> Arc<Member> {
    let endpoint = Endpoint::new(DeviceId::new(number), format!("device {number}"));
    let placement = Placement { iommu: hardware.clone(), key: GroupKey::Device(DeviceId::new(group)) };
    iommu.add_endpoint(endpoint, placement).expect("null hardware refuses nothing")
}

#[expect(clippy::disallowed_types, reason = "the floor is the bare lock")]
fn floor(group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>) {
    let lock = parking_lot::Mutex::new(0_u32);
    group.bench_function("floor_two_lock_unlock_pairs", |b| {
        b.iter(|| {
            *black_box(&lock).lock() += 1;
            *black_box(&lock).lock() -= 1;
        });
    });
}

fn kernel_use(c: &mut Criterion) {
    let mut group = c.benchmark_group("kernel_use_unuse");
    floor(&mut group);
    let driver: Arc<str> = "e1000".into();
    for groups in [1, 1_000, 100_000] {
        let (_iommu, members) = machine(groups, 1);
        let member = members.get(members.len() / 2).expect("there is a group");
        group.bench_function(BenchmarkId::new("groups", groups), |b| {
            b.iter(|| KernelUse::begin(&**black_box(member), &driver).expect("the group is free"));
        });
    }
    group.finish();
}

fn group_claim(c: &mut Criterion) {
    let mut group = c.benchmark_group("group_claim_release");
    floor(&mut group);
    let owner = Owner::new("owner");
    for groups in [1, 1_000, 100_000] {
        let (_iommu, members) = machine(groups, 1);
        let member = members.get(members.len() / 2).expect("there is a group");
        group.bench_function(BenchmarkId::new("groups", groups), |b| {
            b.iter(|| Claim::begin(&**black_box(member.group()), &owner).expect("the group is free"));
        });
    }
    group.finish();
    let mut group = c.benchmark_group("group_claim_release_by_size");
    for size in [1, 8, 64, 512, 4096] {
        let (_iommu, members) = machine(1, size);
        let first = members.first().expect("there is a device");
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::new("devices", size), |b| {
            b.iter(|| Claim::begin(&**black_box(first.group()), &owner).expect("the group is free"));
        });
    }
    group.finish();
}

fn device_claims(c: &mut Criterion) {
    let mut group = c.benchmark_group("device_claim_release_nested");
    floor(&mut group);
    let owner = Owner::new("owner");
    let (_iommu, members) = machine(1, 64);
    let member = members.first().expect("there is a device");
    for held in [0, 1, 64] {
        let held_claims: Vec<_> =
            members.iter().take(held).map(|member| member.claim(&owner).expect("one owner")).collect();
        group.bench_function(BenchmarkId::new("held", held), |b| {
            b.iter(|| black_box(member).claim(&owner).expect("one owner"));
        });
        drop(held_claims);
    }
    group.finish();
}

fn boot(c: &mut Criterion) {
    let mut group = c.benchmark_group("boot");
    group.sample_size(10);
    for devices in [1_000, 10_000, 100_000] {
        group.throughput(Throughput::Elements(devices));
        group.bench_function(BenchmarkId::new("devices", devices), |b| {
            b.iter_batched(|| (), |()| machine(devices / 4, 4), BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = kernel_use, group_claim, device_claims, boot
}
criterion_main!(benches);
