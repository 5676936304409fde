//! What the hardware trait asks of an IOMMU driver: a suite that any driver can be run through, and what a missing flush does.
#![cfg(not(shuttle))]
#![expect(clippy::unwrap_used, reason = "what a test takes for granted may fail it")]

#[cfg(not(feature = "std"))]
dma_locks::provide!(dma_locks::Spinning);

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use iommu_core::address::{PageSizes, PhysRun};
use iommu_core::device_model::sync::Mutex;
use iommu_core::device_model::{DeviceId, Errno};
use iommu_core::failing::{FailingIommu, Operation};
use iommu_core::hardware::{
    DirtyFlags, DomainKind, Endpoint, Fault, FaultReason, FaultSink, Gather, HardwareDomain, HardwareError,
    IommuDriver, PageRun, Paging, PagingFlags,
};
use iommu_core::software::page_table::TableFormat;
use iommu_core::software::{Memory, SimulatedDevice, SoftIommu, SoftIommuConfig};
use iommu_core::{Access, IommuSubsystem, Iova, IovaRange, Owner, PhysAddr, Protection, generic_device_group};
use proptest::prelude::*;

const PAGE: u64 = 0x1000;

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<Fault>>);

impl FaultSink for Heard {
    fn report(&self, fault: &Fault) {
        self.0.lock().push(*fault);
    }
}

fn dev(id: u64) -> Endpoint {
    Endpoint::new(DeviceId::new(id), format!("dev{id}"))
}

fn iova(at: u64) -> Iova {
    Iova::new(at)
}

/// An IOMMU that serves a device, and a paging domain to which it is attached.
fn attached(driver: &dyn IommuDriver) -> Box<dyn HardwareDomain> {
    driver.probe(&dev(1), Arc::new(Heard::default())).unwrap();
    let domain = driver.allocate(DomainKind::Paging, &dev(1)).unwrap();
    domain.attach(&dev(1)).unwrap();
    domain
}

/// Maps a page at a time, so as to see that a prefix is what the driver says that it is.
fn map(paging: &dyn Paging, at: u64, to: u64, count: usize) -> Result<usize, HardwareError> {
    let mut done = 0;
    while done < count {
        let offset = done as u64 * PAGE;
        match paging.map_pages(
            iova(at + offset),
            PhysAddr::new(to + offset),
            PAGE,
            count - done,
            Access::ReadWrite.into(),
        ) {
            Ok(pages) => {
                assert!((1..=count - done).contains(&pages), "at least one page, and no more than were asked for");
                done += pages;
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => return Ok(done),
        }
    }
    Ok(done)
}

#[derive(Clone, Debug)]
enum Step {
    Map {
        page: u64,
        frame: u64,
        count: usize,
    },
    /// Runs of pages one behind the other: frame and count of each.
    MapRuns {
        page: u64,
        runs: Vec<(u64, usize)>,
    },
    Unmap {
        page: u64,
        count: usize,
    },
    FlushAll,
}

fn step() -> impl Strategy<Value = Step> {
    // Around the place where one table ends.
    let page = 500..530_u64;
    prop_oneof![
        3 => (page.clone(), 0..64_u64, 1..20_usize).prop_map(|(page, frame, count)| Step::Map { page, frame, count }),
        2 => (page.clone(), prop::collection::vec((0..64_u64, 1..8_usize), 1..6))
            .prop_map(|(page, runs)| Step::MapRuns { page, runs }),
        2 => (page, 1..20_usize).prop_map(|(page, count)| Step::Unmap { page, count }),
        1 => Just(Step::FlushAll),
    ]
}

/// What of that which it unmaps a driver wants flushed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flushes {
    All,
    /// No device of the suite has done DMA.
    WhatDevicesCached,
}

/// The contract of [`Paging`], for any driver: against a flat map of pages of 4 KiB.
fn paging_contract(driver: &dyn IommuDriver, flushes: Flushes, steps: &[Step]) -> Result<(), TestCaseError> {
    let domain = attached(driver);
    let paging = domain.paging().unwrap();
    let geometry = paging.geometry();
    prop_assert!(geometry.page_sizes.bitmap() & PAGE != 0, "the suite maps pages of 4 KiB");
    let mut model: BTreeMap<u64, u64> = BTreeMap::new();
    for step in steps {
        match *step {
            Step::MapRuns { page, ref runs } => {
                let frames = runs.iter().flat_map(|(frame, count)| (*frame..).take(*count));
                let new: Vec<(u64, u64)> = (page..).zip(frames).collect();
                let free = new.iter().take_while(|(page, _)| !model.contains_key(page)).count();
                let run = |(frame, count): &(u64, usize)| PageRun {
                    phys: PhysAddr::new(frame * PAGE),
                    page_size: PAGE,
                    count: *count,
                };
                let (runs, before) = (runs.iter().map(run).collect::<Vec<_>>(), 7);
                let mut mapped = before;
                let all = paging.map_runs(iova(page * PAGE), &runs, Access::ReadWrite.into(), &mut mapped);
                prop_assert_eq!(mapped - before, free as u64 * PAGE, "it ends where something is mapped");
                let error = if free == new.len() { None } else { Some(Errno::EEXIST) };
                prop_assert_eq!(all.err().map(|error| error.errno), error);
                model.extend(new.into_iter().take(free));
            }
            Step::Map { page, frame, count } => {
                let free = (page..).take(count).take_while(|page| !model.contains_key(page)).count();
                let mapped = map(paging, page * PAGE, frame * PAGE, count);
                match mapped {
                    Ok(pages) => prop_assert_eq!(pages, free, "it ends where something is mapped"),
                    Err(error) => {
                        prop_assert_eq!(free, 0);
                        prop_assert_eq!(error.errno, Errno::EEXIST);
                    }
                }
                model.extend((0..free as u64).map(|n| (page + n, frame + n)));
            }
            Step::Unmap { page, count } => {
                let there = (page..).take(count).take_while(|page| model.contains_key(page)).count();
                let mut gather = Gather::new();
                let bytes = paging.unmap_pages(iova(page * PAGE), PAGE, count, &mut gather).unwrap();
                prop_assert_eq!(bytes, there as u64 * PAGE, "it ends at a hole");
                let unmapped = IovaRange::sized(iova(page * PAGE), bytes).filter(|_| flushes == Flushes::All);
                prop_assert_eq!(gather.range(), unmapped, "what was unmapped is to be flushed");
                paging.flush(&gather).unwrap();
                model.retain(|at, _| !(page..page + there as u64).contains(at));
            }
            Step::FlushAll => paging.flush_all().unwrap(),
        }
        for page in 490..560 {
            let leads_to = model.get(&page).map(|frame| PhysAddr::new(frame * PAGE + 8));
            prop_assert_eq!(paging.iova_to_phys(iova(page * PAGE + 8)), leads_to, "page {}", page);
            let frames = (page..555).map_while(|page| Some(*model.get(&page)?));
            let together =
                (0..).zip(frames).take_while(|(n, frame)| model.get(&page) == frame.checked_sub(*n).as_ref());
            let together = together.count() as u64;
            let bytes = (together * PAGE).saturating_sub(8);
            let range = IovaRange::new(iova(page * PAGE + 8), iova(555 * PAGE - 1));
            let run = range.and_then(|range| paging.iova_to_run(range));
            prop_assert_eq!(run, leads_to.filter(|_| bytes > 0).map(|phys| PhysRun { phys, bytes }), "page {}", page);
        }
    }
    Ok(())
}

fn caching() -> SoftIommuConfig {
    SoftIommuConfig { iotlb: true, ..SoftIommuConfig::default() }
}

proptest! {
    #[test]
    fn the_software_iommu_keeps_the_contract(steps in prop::collection::vec(step(), 1..20), iotlb: bool) {
        let soft = || SoftIommu::new("soft", SoftIommuConfig { iotlb, ..SoftIommuConfig::default() });
        paging_contract(&*soft(), if iotlb { Flushes::All } else { Flushes::WhatDevicesCached }, &steps)?;
        paging_contract(&*FailingIommu::new(soft()), Flushes::All, &steps)?;
    }

    /// Of few pages, a device sees what is mapped now if, and only if, unmaps are flushed: of every step some pages are flushed
    /// and others are not.
    #[test]
    fn what_is_not_flushed_is_served(rounds in prop::collection::vec((0..4_u64, any::<bool>()), 1..20), iotlb: bool) {
        let soft = SoftIommu::new("soft", SoftIommuConfig { iotlb, ..SoftIommuConfig::default() });
        let domain = attached(&*soft);
        let paging = domain.paging().unwrap();
        let memory = Memory::new();
        let device = SimulatedDevice::new(dev(1), soft.clone(), memory.clone());
        let mut cached: BTreeMap<u64, u64> = BTreeMap::new();
        for (frame, (page, flushes)) in (16..).zip(rounds) {
            prop_assert_eq!(map(paging, page * PAGE, frame * PAGE, 1).unwrap(), 1);
            let serves = *cached.entry(page).or_insert(frame);
            memory.write(PhysAddr::new(serves * PAGE), &[0]);
            device.write(iova(page * PAGE), &[1]).unwrap();
            prop_assert_eq!(memory.bytes(PhysAddr::new(serves * PAGE)), [1], "what was cached first");
            let mut gather = Gather::new();
            paging.unmap_pages(iova(page * PAGE), PAGE, 1, &mut gather).unwrap();
            if flushes {
                paging.flush(&gather).unwrap();
                cached.remove(&page);
            }
            prop_assert_eq!(device.write(iova(page * PAGE), &[1]).is_ok(), !flushes);
        }
        paging.flush_all().unwrap();
        for page in 0..4 {
            prop_assert_eq!(device.write(iova(page * PAGE), &[1]).unwrap_err().reason, FaultReason::NotMapped);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Pages of two sizes, across the parts in which a bitmap is read: exactly the bits of the pages that were written, and none
    /// of them twice.
    #[test]
    fn a_dirty_bitmap_has_the_pages_that_were_written(
        skipped in 0..1024_u64,
        shift in prop_oneof![Just(12), 12..24_u32],
        // Anywhere, and where the second part of the bitmap begins.
        written in prop::collection::vec(prop_oneof![0..66 * 1024_u64, 32 * 1024..34 * 1024_u64], 0..40),
    ) {
        const LARGE: u64 = 512;
        let soft = SoftIommu::new("soft", SoftIommuConfig { interrupt_window: None, ..SoftIommuConfig::default() });
        let driver: Arc<dyn IommuDriver> = soft.clone();
        let placement = move |_: &Endpoint| Some(generic_device_group(&driver));
        let (subsystem, physical_memory) = IommuSubsystem::builder(placement).build();
        let member = subsystem.add_device(&dev(1)).unwrap().unwrap();
        let claim = member.claim(&Owner::new("vm")).unwrap();
        let domain = claim.group().allocate_for_user(PagingFlags::DIRTY_TRACKING, None).unwrap();
        claim.attach(&domain).unwrap();
        // 2 MiB in a large page, 2 MiB in small ones, and so on.
        let pages = 66 * 1024;
        for at in (0..pages).step_by(2 * 512) {
            let map = |at: u64, to: u64| {
                let access = Access::ReadWrite;
                domain.map(&physical_memory, iova(at * PAGE), PhysAddr::new(to * PAGE), LARGE * PAGE, access).unwrap();
            };
            map(at, 0);
            map(at + LARGE, 1);
        }
        domain.start_dirty_tracking().unwrap();
        let device = SimulatedDevice::new(dev(1), soft, Memory::new());
        let first = skipped & !((1 << (shift - 12)) - 1);
        let range = IovaRange::new(iova(first * PAGE), iova(pages * PAGE - 1)).unwrap();
        let mut model = BTreeSet::new();
        for page in &written {
            device.write(iova(page * PAGE), &[1]).unwrap();
            let is_large = (page / LARGE).is_multiple_of(2);
            let dirty = if is_large { page / LARGE * LARGE..=page / LARGE * LARGE + (LARGE - 1) } else { *page..=*page };
            model.extend(dirty.filter(|page| *page >= first).map(|page| ((page - first) * PAGE) >> shift));
        }
        let read = |flags| {
            let (mut seen, mut parts) = (BTreeSet::new(), Vec::new());
            let write = |first: u64, bytes: &[u8]| {
                let is_set = |bit: &u64| bytes[usize::try_from(bit / 8).unwrap()] >> (bit % 8) & 1 == 1;
                seen.extend((0..bytes.len() as u64 * 8).filter(is_set).map(|bit| first * 8 + bit));
                parts.push(first);
            };
            domain.read_dirty_bitmap(range, shift, flags, write).unwrap();
            assert!(parts.is_sorted());
            seen
        };
        prop_assert_eq!(&read(DirtyFlags::NO_CLEAR), &model);
        prop_assert_eq!(&read(DirtyFlags::empty()), &model);
        prop_assert_eq!(read(DirtyFlags::empty()), BTreeSet::new());
        // The flush was precise enough for the next write to be seen.
        for page in &written {
            device.write(iova(page * PAGE), &[1]).unwrap();
        }
        prop_assert_eq!(&read(DirtyFlags::empty()), &model);
    }
}

/// A cached page that is known to be dirty is not marked again: clearing needs a flush, which the core does.
#[test]
fn clearing_dirty_pages_gathers_them() {
    for iotlb in [false, true] {
        clearing_gathers(SoftIommuConfig { iotlb, ..SoftIommuConfig::default() });
    }
}

fn clearing_gathers(config: SoftIommuConfig) {
    let soft = SoftIommu::new("soft", config);
    soft.probe(&dev(1), Arc::new(Heard::default())).unwrap();
    let domain = soft.allocate_for_user(PagingFlags::DIRTY_TRACKING, None, &dev(1)).unwrap();
    domain.attach(&dev(1)).unwrap();
    let (paging, tracking) = (domain.paging().unwrap(), domain.dirty_tracking().unwrap());
    map(paging, 0, 0, 4).unwrap();
    let device = SimulatedDevice::new(dev(1), soft.clone(), Memory::new());
    let read = |flags, flushes: bool| {
        let (mut gather, mut pages) = (Gather::new(), Vec::new());
        tracking
            .read(IovaRange::ALL, flags, &mut gather, &mut |dirty| {
                pages.extend(dirty.runs().flat_map(|run| run.first().get() / PAGE..=run.last().get() / PAGE));
            })
            .unwrap();
        assert_eq!(gather.range().is_some(), flags.is_empty() && !pages.is_empty());
        if flushes {
            paging.flush(&gather).unwrap();
        }
        pages
    };
    let write = |page: u64| device.write(iova(page * PAGE), &[1]).unwrap();
    write(3);
    tracking.start().unwrap();
    write(1);
    assert_eq!(read(DirtyFlags::NO_CLEAR, true), [1]);
    assert_eq!(read(DirtyFlags::empty(), false), [1]);
    write(1);
    assert_eq!(read(DirtyFlags::empty(), true), [], "the cache says that it is dirty already");
    write(2);
    assert_eq!(read(DirtyFlags::empty(), true), [2]);
    write(2);
    assert_eq!(read(DirtyFlags::empty(), true), [2], "after the flush it is marked anew");
    write(3);
    assert_eq!(read(DirtyFlags::empty(), true), [3], "what was cached before tracking began is marked");
}

/// A domain serves devices of every unit that walks tables of its format, and those of no other driver.
#[test]
fn units_of_one_driver_share_domains() {
    let small = TableFormat::new(39, PageSizes::from_bitmap(PAGE).unwrap()).unwrap();
    let config = |format| SoftIommuConfig { format, ..SoftIommuConfig::default() };
    let formats = [TableFormat::X86_39, TableFormat::X86_39, small];
    let units = SoftIommu::units(formats.map(|format| ("dmar", config(format))));
    let memory = Memory::new();
    let devices: Vec<_> = (1..)
        .zip(&units)
        .map(|(id, unit)| {
            unit.probe(&dev(id), Arc::new(Heard::default())).unwrap();
            SimulatedDevice::new(dev(id), unit.clone(), memory.clone())
        })
        .collect();
    let domain = units[0].allocate(DomainKind::Paging, &dev(1)).unwrap();
    map(domain.paging().unwrap(), 0, 0x5000, 1).unwrap();
    domain.attach(&dev(1)).unwrap();
    domain.attach(&dev(2)).unwrap();
    assert_eq!(domain.attach(&dev(3)).unwrap_err().errno, Errno::EINVAL, "tables of another format");
    assert!(units.iter().all(|unit| unit.accepts(&*units[0])), "which shows at the attach only");
    devices[0].write(iova(0), &[1]).unwrap();
    devices[1].write(iova(1), &[2]).unwrap();
    assert_eq!(memory.bytes(PhysAddr::new(0x5000)), [1, 2]);
    // Each unit answers for its own devices only.
    let stray = units[0].dma_write(dev(2).id, iova(0), &[3], &memory).unwrap_err();
    assert_eq!(stray.reason, FaultReason::Unserved);

    let stranger = SoftIommu::new("dmar", config(TableFormat::X86_39));
    assert!(!stranger.accepts(&*units[0]) && !units[0].accepts(&*stranger));
    // Fault injection changes nothing about it.
    let wrapped = [0, 1].map(|n| FailingIommu::new(units[n].clone()));
    assert!(wrapped[0].accepts(&*wrapped[1]) && wrapped[0].accepts(&*units[1]) && !wrapped[0].accepts(&*stranger));
}

/// Faults are reported to the sink of the device, until it is released.
#[test]
fn faults_are_reported() {
    let soft = SoftIommu::new("soft", SoftIommuConfig::default());
    let heard = [(); 2].map(|()| Arc::new(Heard::default()));
    for (id, sink) in (1..).zip(&heard) {
        soft.probe(&dev(id), sink.clone()).unwrap();
    }
    let memory = Memory::new();
    soft.dma_write(dev(2).id, iova(0x10), &[1], &memory).unwrap_err();
    let fault = heard[1].0.lock()[0];
    assert_eq!((fault.device, fault.iova, fault.reason), (dev(2).id, iova(0x10), FaultReason::NotAttached));
    soft.release(&dev(2));
    soft.dma_write(dev(2).id, iova(0x10), &[1], &memory).unwrap_err();
    assert_eq!(heard.map(|sink| sink.0.lock().len()), [0, 1]);
    assert_eq!(soft.take_faults().len(), 2, "the unit's own log has all");
}

/// What a mapping says is kept in the page tables.
#[test]
fn protection_is_kept() {
    let mut tables = iommu_core::software::page_table::PageTable::new(TableFormat::X86_39);
    for (n, protection) in (0..).zip([
        Protection::READ | Protection::CACHE | Protection::NOEXEC,
        Protection::WRITE | Protection::MMIO,
        Protection::READ | Protection::WRITE | Protection::PRIV,
    ]) {
        tables.map_pages(iova(n * PAGE), PhysAddr::new(n * PAGE), PAGE, 1, protection).unwrap();
        assert_eq!(tables.lookup(iova(n * PAGE)).unwrap().protection, protection);
    }
}

/// Operations that fail on command do not reach the tables.
#[test]
fn refused_unmaps_and_flushes_change_nothing() {
    let failing = FailingIommu::new(SoftIommu::new("soft", caching()));
    let domain = attached(&*failing);
    let paging = domain.paging().unwrap();
    map(paging, 0, 0, 1).unwrap();
    let mut gather = Gather::new();
    failing.refuse(Operation::Unmap);
    assert_eq!(paging.unmap_pages(iova(0), PAGE, 1, &mut gather).unwrap_err().errno, Errno::EIO);
    assert!(gather.range().is_none() && paging.iova_to_phys(iova(0)).is_some());
    failing.heal();
    failing.refuse(Operation::Flush);
    paging.unmap_pages(iova(0), PAGE, 1, &mut gather).unwrap();
    paging.flush(&gather).unwrap_err();
    paging.flush_all().unwrap_err();
}
