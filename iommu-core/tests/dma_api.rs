//! The DMA API: what a device reaches of the memory that its driver maps, strict and lazy, until the driver is unbound; and
//! that memory which a device may still reach is not given back, whatever fails.
#![cfg(not(shuttle))]
#![expect(clippy::unwrap_used, reason = "what a test takes for granted may fail it")]

#[cfg(not(feature = "std"))]
dma_locks::provide!(dma_locks::Spinning);

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use iommu_core::device_model::{DeviceId, Errno};
use iommu_core::dma_api::{DmaDirection, DmaMapError, DmaMapping};
use iommu_core::failing::{FailingIommu, Operation};
use iommu_core::hardware::{Endpoint, HardwareError, IommuDriver};
use iommu_core::reserved::{RegionKind, ReservedRegion};
use iommu_core::software::{Memory, SimulatedDevice, SoftIommu, SoftIommuConfig};
use iommu_core::{
    DefaultDomainType, Dma, IommuSubsystem, Iova, KernelUse, MapError, Member, PhysAddr, PhysicalMemory, TypeRequest,
    generic_device_group,
};
use proptest::prelude::*;

const PAGE: u64 = 0x1000;
/// As many unmaps wait for a flush in a lazy domain at the most.
const FLUSH_QUEUE: u64 = 256;

/// Memory of a driver: how often it is referenced tells whether it was given back.
type Buffer = Arc<()>;

/// A device that is bound to a kernel driver, behind an IOMMU that caches translations until they are flushed.
struct World {
    hardware: Arc<FailingIommu>,
    subsystem: IommuSubsystem,
    right: PhysicalMemory,
    member: Arc<Member>,
    memory: Memory,
    device: SimulatedDevice,
}

impl World {
    fn new(kind: DefaultDomainType, config: SoftIommuConfig) -> Self {
        let soft = SoftIommu::new("soft", SoftIommuConfig { iotlb: true, ..config });
        let hardware = FailingIommu::new(soft.clone());
        let driver: Arc<dyn IommuDriver> = hardware.clone();
        let builder = IommuSubsystem::builder(move |_: &Endpoint| Some(generic_device_group(&driver)));
        let (subsystem, right) = builder.default_domain(kind).build();
        let nic = Endpoint::new(DeviceId::new(1), "nic");
        let member = subsystem.add_device(&nic).unwrap().unwrap();
        let memory = Memory::new();
        let device = SimulatedDevice::new(nic, soft, memory.clone());
        Self { hardware, subsystem, right, member, memory, device }
    }

    fn of(kind: DefaultDomainType) -> Self {
        Self::new(kind, SoftIommuConfig::default())
    }

    fn bind(&self) -> KernelUse {
        KernelUse::begin(self.member.clone(), &"driver".into()).unwrap()
    }

    fn map(&self, dma: &Dma, phys: u64, bytes: u64, buffer: &Buffer) -> Result<DmaMapping<Buffer>, DmaMapError> {
        let phys = PhysAddr::new(phys);
        dma.map(&self.right, phys, bytes, DmaDirection::Bidirectional, buffer.clone()).map_err(|refusal| {
            assert!(refusal.memory.is_some(), "the memory is given back");
            refusal.error
        })
    }

    /// Whether a write of the device at `iova` arrives at `phys`.
    fn reaches(&self, iova: Iova, phys: u64) -> bool {
        self.memory.write(PhysAddr::new(phys), &[0]);
        self.device.write(iova, &[1]).is_ok() && self.memory.bytes(PhysAddr::new(phys)) == [1]
    }

    fn quarantined(&self) -> usize {
        self.member.group().default_domain().unwrap().quarantined()
    }
}

fn is_given_back(buffer: &Buffer) -> bool {
    Arc::strong_count(buffer) == 1
}

fn refusal() -> HardwareError {
    HardwareError::new(Errno::EIO, "told to fail")
}

#[test]
fn strict_is_strict() {
    let world = World::of(DefaultDomainType::Dma);
    let kernel_use = world.bind();
    let (dma, buffer) = (kernel_use.dma().unwrap(), Buffer::default());
    let mapping = world.map(dma, 0x8000, PAGE, &buffer).unwrap();
    let at = mapping.iova();
    assert!(world.reaches(at, 0x8000));
    drop(mapping.unmap().unwrap());
    assert!(is_given_back(&buffer) && !world.reaches(at, 0x8000));
    assert_eq!(world.map(dma, 0x9000, PAGE, &buffer).unwrap().iova(), at, "the address is free again");
}

#[test]
fn lazy_is_lazy() {
    for in_place in [false, true] {
        let world = World::of(if in_place { DefaultDomainType::Dma } else { DefaultDomainType::DmaLazy });
        let kernel_use = world.bind();
        if in_place {
            let lazy = TypeRequest::Explicit(DefaultDomainType::DmaLazy);
            world.subsystem.set_default_domain_type(world.member.group(), lazy).unwrap();
        }
        let (dma, buffer) = (kernel_use.dma().unwrap(), Buffer::default());
        let mapping = world.map(dma, 0x8000, PAGE, &buffer).unwrap();
        let at = mapping.iova();
        assert!(world.reaches(at, 0x8000));
        let calls = world.hardware.calls();
        drop(mapping);
        assert_eq!(world.hardware.calls() - calls, 1, "it was unmapped, and not flushed");
        assert!(world.reaches(at, 0x8000), "so it is still cached");
        let next = world.map(dma, 0x9000, PAGE, &buffer).unwrap();
        assert_ne!(next.iova(), at, "and its address is not used again");
        dma.flush().unwrap();
        assert!(!world.reaches(at, 0x8000));
        assert_eq!(world.map(dma, 0xa000, PAGE, &buffer).unwrap().iova(), at);
    }
}

#[test]
fn a_full_queue_is_flushed() {
    let world = World::of(DefaultDomainType::DmaLazy);
    let kernel_use = world.bind();
    let (dma, buffer) = (kernel_use.dma().unwrap(), Buffer::default());
    let mapping = world.map(dma, 0x8000, PAGE, &buffer).unwrap();
    let at = mapping.iova();
    assert!(world.reaches(at, 0x8000));
    drop(mapping);
    for n in 1..FLUSH_QUEUE {
        assert!(world.reaches(at, 0x8000), "{n} wait");
        drop(world.map(dma, 0x9000, PAGE, &buffer).unwrap());
    }
    assert!(!world.reaches(at, 0x8000));
    assert_eq!(world.map(dma, 0x9000, PAGE, &buffer).unwrap().iova(), at, "all addresses are free again");
}

#[test]
fn an_unbound_driver_has_no_mappings() {
    for kind in [DefaultDomainType::Dma, DefaultDomainType::DmaLazy] {
        let world = World::of(kind);
        let kernel_use = world.bind();
        let buffers = [(); 3].map(|()| Buffer::default());
        let dma = kernel_use.dma().unwrap();
        let [kept, unmapped, leaked] = buffers.each_ref().map(|buffer| world.map(dma, 0x8000, PAGE, buffer).unwrap());
        let places = [&kept, &unmapped, &leaked].map(DmaMapping::iova);
        assert!(places.iter().all(|at| world.reaches(*at, 0x8000)) && kept.is_live());
        drop(unmapped);
        std::mem::forget(leaked);
        drop(kernel_use);
        assert!(!kept.is_live());
        assert!(!places.iter().any(|at| world.reaches(*at, 0x8000)), "{kind:?}");
        assert!(!is_given_back(&buffers[0]), "the driver still holds it");
        drop(kept.unmap().unwrap());
        assert!(is_given_back(&buffers[0]));
        // The next driver has all addresses to itself.
        let next = world.bind();
        assert_eq!(world.map(next.dma().unwrap(), 0x9000, PAGE, &buffers[0]).unwrap().iova(), places[0]);
        assert_eq!(world.quarantined(), 0);
    }
}

/// Whichever call hardware refuses, and whenever: memory that the device may reach is kept, and its address not used again.
#[test]
fn memory_that_hardware_does_not_let_go_is_kept() {
    for operation in [Operation::Unmap, Operation::Flush] {
        for revoked in [false, true] {
            let world = World::of(DefaultDomainType::Dma);
            let kernel_use = world.bind();
            let (dma, buffer) = (kernel_use.dma().unwrap(), Buffer::default());
            let mapping = world.map(dma, 0x8000, PAGE, &buffer).unwrap();
            let at = mapping.iova();
            assert!(world.reaches(at, 0x8000));
            world.hardware.refuse(operation);
            let kernel_use = (!revoked).then_some(kernel_use);
            let error = mapping.unmap().unwrap_err();
            world.hardware.heal();
            assert_eq!(error.errno, Errno::EIO);
            assert!(world.reaches(at, 0x8000), "{operation:?}");
            assert_eq!((is_given_back(&buffer), world.quarantined()), (false, 1), "{operation:?}");
            let next = world.bind();
            assert_ne!(world.map(next.dma().unwrap(), 0x9000, PAGE, &Buffer::default()).unwrap().iova(), at);
            drop((next, kernel_use));
            world.subsystem.remove(&world.member);
            drop(world);
            assert!(is_given_back(&buffer), "it is given back with the domain, when the device is gone");
        }
    }
}

#[test]
fn what_was_refused_at_the_unbind_is_tried_again() {
    let world = World::of(DefaultDomainType::Dma);
    let kernel_use = world.bind();
    let buffer = Buffer::default();
    let mapping = world.map(kernel_use.dma().unwrap(), 0x8000, PAGE, &buffer).unwrap();
    let at = mapping.iova();
    world.hardware.refuse(Operation::Unmap);
    drop(kernel_use);
    world.hardware.heal();
    assert!(mapping.is_live() && world.reaches(at, 0x8000));
    drop(mapping);
    assert!(is_given_back(&buffer) && !world.reaches(at, 0x8000));
}

/// A mapping that fails half-way, and cannot be undone.
#[test]
fn what_may_be_mapped_in_part_is_kept() {
    let world = World::of(DefaultDomainType::Dma);
    let kernel_use = world.bind();
    let dma = kernel_use.dma().unwrap();
    // Two tables hold so many pages of 4 KiB, at an offset that no larger page fits.
    let map = |buffer: &Buffer| {
        dma.map(&world.right, PhysAddr::new(0x8000), 600 * PAGE, DmaDirection::ToDevice, buffer.clone())
    };
    let buffer = Buffer::default();
    world.hardware.fail_nth(1, refusal());
    let undone = map(&buffer).unwrap_err();
    assert_eq!(undone.error, DmaMapError::Map(MapError::Hardware(refusal())));
    drop(undone);
    assert!(is_given_back(&buffer));
    world.hardware.fail_nth(1, refusal());
    world.hardware.refuse(Operation::Unmap);
    let stuck = map(&buffer).unwrap_err();
    world.hardware.heal();
    assert!(matches!(stuck.error, DmaMapError::Map(MapError::Reachable { .. })) && stuck.memory.is_none());
    assert_eq!((is_given_back(&buffer), world.quarantined()), (false, 1));
    drop(map(&buffer).unwrap());
}

/// An IOMMU driver that unwinds, in whichever call: the memory is kept, the use ends, and the next driver can map.
#[test]
fn an_iommu_driver_may_unwind() {
    let run = |world: &World, buffer: &Buffer| {
        let kernel_use = world.bind();
        let dma = kernel_use.dma().unwrap();
        let first = world.map(dma, 0x8000, 600 * PAGE, buffer).unwrap();
        let second = world.map(dma, 0x8000, PAGE, buffer).unwrap();
        drop(second);
        drop(kernel_use);
        drop(first);
    };
    for kind in [DefaultDomainType::Dma, DefaultDomainType::DmaLazy] {
        for n in 0.. {
            let (world, buffer) = (World::of(kind), Buffer::default());
            world.hardware.panic_nth(n);
            if catch_unwind(AssertUnwindSafe(|| run(&world, &buffer))).is_ok() {
                world.hardware.heal();
                assert!(n > 5, "it makes calls");
                assert!(is_given_back(&buffer));
                break;
            }
            // No lock is held, no use is left, and the device can be used.
            assert!(!world.member.group().ownership().is_held(), "call {n}");
            run(&world, &Buffer::default());
        }
    }
}

#[test]
fn addresses_fit_the_device() {
    let reserved = ReservedRegion { first: Iova::new(0x1000), kind: RegionKind::Reserved, last: Iova::new(0x2fff) };
    let config =
        SoftIommuConfig { reserved: [("nic".to_owned(), vec![reserved])].into(), ..SoftIommuConfig::default() };
    let world = World::new(DefaultDomainType::Dma, config);
    let kernel_use = world.bind();
    let (dma, buffer) = (kernel_use.dma().unwrap(), Buffer::default());
    dma.set_mask(0x5fff);
    // Neither the first page nor a reserved one; bytes that are no whole page.
    let odd = world.map(dma, 0x8ff8, 0x10, &buffer).unwrap();
    assert_eq!((odd.iova(), odd.bytes()), (Iova::new(0x3ff8), 0x10));
    assert!(world.reaches(Iova::new(0x4007), 0x9007));
    let last = world.map(dma, 0x9000, PAGE, &buffer).unwrap();
    assert_eq!(last.iova(), Iova::new(0x5000));
    let full = world.map(dma, 0x9000, PAGE, &buffer).unwrap_err();
    assert_eq!((full.errno(), &full), (Errno::ENOSPC, &DmaMapError::NoAddress { bytes: PAGE, mask: 0x5fff }));
    dma.set_mask(u64::MAX);
    // Large pages are possible.
    let large = world.map(dma, 0x4020_0000, 0x20_0000, &buffer).unwrap();
    assert!(large.iova().is_aligned(0x20_0000));
    // The interrupt window lies in the way of so much.
    let huge = world.map(dma, 0, 0xfee0_0000, &buffer).unwrap();
    assert!(huge.iova().get() > 0xfeef_ffff);
    for (phys, bytes) in [(0, 0), (u64::MAX, 2)] {
        assert_eq!(world.map(dma, phys, bytes, &buffer).unwrap_err(), DmaMapError::BadRange);
    }
    assert!(world.map(dma, 0, u64::MAX, &buffer).is_err());
}

#[test]
fn without_translation_addresses_are_physical() {
    let world = World::of(DefaultDomainType::Identity);
    let kernel_use = world.bind();
    let (dma, buffer) = (kernel_use.dma().unwrap(), Buffer::default());
    let mapping = world.map(dma, 0x8008, 8, &buffer).unwrap();
    assert!(mapping.iova() == Iova::new(0x8008) && mapping.is_live());
    assert!(world.reaches(mapping.iova(), 0x8008));
    dma.set_mask(0xffff_ffff);
    assert_eq!(world.map(dma, 1 << 32, 8, &buffer).unwrap_err().errno(), Errno::ENOSPC);
    drop(kernel_use);
    assert!(!mapping.is_live());
    drop(mapping);
    assert!(is_given_back(&buffer));
}

#[test]
fn the_right_of_another_subsystem_maps_nothing() {
    let (world, other) = (World::of(DefaultDomainType::Dma), World::of(DefaultDomainType::Dma));
    let (kernel_use, buffer) = (world.bind(), Buffer::default());
    let dma = kernel_use.dma().unwrap();
    let refused = dma.map(&other.right, PhysAddr::new(0), PAGE, DmaDirection::ToDevice, buffer.clone()).unwrap_err();
    assert_eq!(refused.error.errno(), Errno::EPERM);
    drop(refused);
    assert!(is_given_back(&buffer));
}

#[test]
fn directions_are_permissions() {
    let world = World::of(DefaultDomainType::Dma);
    let kernel_use = world.bind();
    let dma = kernel_use.dma().unwrap();
    for (direction, reads, writes) in [
        (DmaDirection::ToDevice, true, false),
        (DmaDirection::FromDevice, false, true),
        (DmaDirection::Bidirectional, true, true),
    ] {
        let mapping = dma.map(&world.right, PhysAddr::new(0x8000), PAGE, direction, ()).unwrap();
        let at = mapping.iova();
        let passes = (world.device.read(at, &mut [0]).is_ok(), world.device.write(at, &[0]).is_ok());
        assert_eq!(passes, (reads, writes), "{direction:?}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Map {
        page: u64,
        pages: u64,
    },
    Unmap(prop::sample::Index),
    Forget(prop::sample::Index),
    Flush,
    Rebind,
    /// The n-th hardware call from now fails.
    Fail(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (8..64_u64, 1..6_u64).prop_map(|(page, pages)| Step::Map { page, pages }),
        4 => any::<prop::sample::Index>().prop_map(Step::Unmap),
        1 => any::<prop::sample::Index>().prop_map(Step::Forget),
        1 => Just(Step::Flush),
        1 => Just(Step::Rebind),
        1 => (0..4_u32).prop_map(Step::Fail),
    ]
}

proptest! {
    /// Whatever a driver does, and whatever hardware refuses: a device reaches what is mapped, in a strict domain no memory
    /// that was given back, and in both none after the driver was unbound.
    #[test]
    fn memory_that_is_given_back_is_out_of_reach(steps in prop::collection::vec(step(), 1..60), lazy: bool) {
        let world = World::of(if lazy { DefaultDomainType::DmaLazy } else { DefaultDomainType::Dma });
        let mut kernel_use = Some(world.bind());
        let mut live: Vec<(DmaMapping<Buffer>, u64)> = Vec::new();
        // Every page that was ever mapped, with its address, where it is, and whose it is.
        let mut ever: Vec<(Iova, u64, Weak<()>)> = Vec::new();
        for step in steps {
            let dma = kernel_use.as_ref().unwrap().dma().unwrap();
            match step {
                Step::Map { page, pages } => {
                    let (buffer, phys) = (Buffer::default(), page * PAGE);
                    let weak = Arc::downgrade(&buffer);
                    let direction = DmaDirection::Bidirectional;
                    if let Ok(mapping) = dma.map(&world.right, PhysAddr::new(phys), pages * PAGE, direction, buffer) {
                        let place = |n: u64| (mapping.iova().checked_add(n * PAGE).unwrap(), phys + n * PAGE, weak.clone());
                        ever.extend((0..pages).map(place));
                        live.push((mapping, phys));
                    }
                }
                Step::Unmap(index) if !live.is_empty() => {
                    let _ = live.swap_remove(index.index(live.len())).0.unmap();
                }
                Step::Forget(index) if !live.is_empty() => std::mem::forget(live.swap_remove(index.index(live.len())).0),
                Step::Unmap(_) | Step::Forget(_) => {}
                Step::Flush => drop(dma.flush()),
                Step::Rebind => {
                    drop(kernel_use.take());
                    // Mappings that the driver has left are of no use; those that hardware refused are in quarantine.
                    live.clear();
                    kernel_use = Some(world.bind());
                }
                Step::Fail(n) => world.hardware.fail_nth(n, refusal()),
            }
            for (mapping, phys) in &live {
                prop_assert!(mapping.is_live() && world.reaches(mapping.iova(), *phys), "{:?} after {:?}", mapping, step);
            }
            // A lazy domain is flushed when its driver is unbound, unless hardware refuses that.
            let flushed = matches!(step, Step::Rebind) && world.hardware.last_failed().is_none();
            if lazy && !flushed {
                continue;
            }
            let held: BTreeSet<(Iova, u64)> =
                ever.iter().filter(|page| page.2.strong_count() > 0).map(|page| (page.0, page.1)).collect();
            for (iova, phys, _) in &ever {
                if !held.contains(&(*iova, *phys)) {
                    prop_assert!(!world.reaches(*iova, *phys), "{} leads to {:#x} after {:?}", iova, phys, step);
                }
            }
        }
    }
}
