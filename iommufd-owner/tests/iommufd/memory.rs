//! Pins: what they cost, what happens at a limit, and that what a device may still reach stays pinned.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::Errno;
use iommu_core::failing::Operation;
use iommu_core::software::{LockedPages, Memory, Process};
use iommu_core::user_memory::{Account, BadAddress, Limit, OverLimit, PinnedRun};
use iommu_core::{Access, Iova, PhysAddr, UserAddr, UserMemory};
use iommufd_owner::{MapRequest, Place};

use crate::rig::{Fails, Rig};

/// Where the memory of a [`Window`] begins.
const BEGIN: u64 = 0x10_0000_0000;

/// Memory without a frame behind it, of which each pin gives at most so many pages, none touching the last ones; it counts.
#[derive(Debug)]
struct Window {
    pages: u64,
    most: u64,
    pins: AtomicU64,
    pinned: AtomicU64,
}

impl Window {
    fn new(pages: u64, most: u64) -> Arc<Self> {
        Arc::new(Self { pages, most, pins: AtomicU64::new(0), pinned: AtomicU64::new(0) })
    }

    fn request(self: &Arc<Self>, at: u64, bytes: u64) -> MapRequest<Place> {
        let (process, addr) = (self.clone(), UserAddr::new(BEGIN));
        MapRequest { iova: Place::Fixed(Iova::new(at)), bytes, process, addr, access: Access::ReadWrite }
    }
}

impl UserMemory for Window {
    fn pin(&self, at: UserAddr, bytes: u64, _access: Access) -> Result<PinnedRun, BadAddress> {
        self.pins.fetch_add(1, Ordering::Relaxed);
        let page = (at.get() - BEGIN) / PAGE_SIZE;
        if page >= self.pages {
            return Err(BadAddress { at });
        }
        let pages = (bytes / PAGE_SIZE).min(self.most).min(self.pages - page);
        self.pinned.fetch_add(pages, Ordering::Relaxed);
        Ok(PinnedRun { phys: PhysAddr::new((2 * page + 2) * PAGE_SIZE), bytes: pages * PAGE_SIZE })
    }

    fn unpin(&self, run: PinnedRun) {
        self.pinned.fetch_sub(run.bytes / PAGE_SIZE, Ordering::Relaxed);
    }

    fn read(&self, at: UserAddr, _into: &mut [u8]) -> Result<(), BadAddress> {
        Err(BadAddress { at })
    }

    fn write(&self, at: UserAddr, _from: &[u8]) -> Result<(), BadAddress> {
        Err(BadAddress { at })
    }

    fn charge(&self, _account: Account, _limit: Limit, _pages: u64) -> Result<(), OverLimit> {
        Ok(())
    }

    fn uncharge(&self, _account: Account, _pages: u64) {}
}

#[test]
fn a_long_mapping_of_nothing_is_one_pin_that_fails() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    let bound = context.bind(&rig.members[0]).unwrap();
    bound.attach(ioas).unwrap();
    let nothing = Window::new(0, 1);
    let refused = context.ioas_map(ioas, nothing.request(1 << 32, 1 << 37)).unwrap_err();
    assert_eq!(refused.errno(), Errno::EFAULT);
    assert_eq!(nothing.pins.load(Ordering::Relaxed), 1);
}

#[test]
fn a_page_at_the_end_of_a_large_window_is_one_pin() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    let window = Window::new(1 << 24, u64::MAX);
    let (first, bytes) = (1 << 32, PAGE_SIZE << 24);
    context.ioas_map(ioas, window.request(first, bytes)).unwrap();
    let access = context.access(|_| {}).unwrap();
    access.attach(ioas).unwrap();
    let pins = access.pin(Iova::new(first + bytes - PAGE_SIZE), PAGE_SIZE, Access::Read).unwrap();
    assert_eq!(pins.runs(), [PinnedRun { phys: PhysAddr::new(PAGE_SIZE << 25), bytes: PAGE_SIZE }]);
    assert_eq!(window.pins.load(Ordering::Relaxed), 1);
    drop(pins);
    assert_eq!(window.pinned.load(Ordering::Relaxed), 0);
}

#[test]
fn memory_that_ends_early_is_unpinned_again() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    let bound = context.bind(&rig.members[0]).unwrap();
    bound.attach(ioas).unwrap();
    let window = Window::new(10, 3);
    assert_eq!(context.ioas_map(ioas, window.request(1 << 32, 11 * PAGE_SIZE)).unwrap_err().errno(), Errno::EFAULT);
    assert_eq!(window.pinned.load(Ordering::Relaxed), 0);
    context.ioas_map(ioas, window.request(1 << 32, 10 * PAGE_SIZE)).unwrap();
    assert_eq!(window.pinned.load(Ordering::Relaxed), 10);
    context.ioas_unmap(ioas, Iova::new(1 << 32), 10 * PAGE_SIZE).unwrap();
    assert_eq!(window.pinned.load(Ordering::Relaxed), 0);
}

#[test]
fn f27_nothing_stays_pinned_or_counted_at_the_limit() {
    let rig = Rig::new(&["a1"]);
    let locked = LockedPages::limited(4 * PAGE_SIZE);
    let process = Process::new(&Memory::new(), locked.clone());
    let addr = process.allocate(8 * PAGE_SIZE, Access::ReadWrite).unwrap();
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    let map = |at: u64, pages: u64, page: u64| {
        let addr = UserAddr::new(addr.get() + page * PAGE_SIZE);
        let (place, bytes) = (Place::Fixed(Iova::new(at * PAGE_SIZE)), pages * PAGE_SIZE);
        let request = MapRequest { iova: place, bytes, process: process.clone(), addr, access: Access::ReadWrite };
        context.ioas_map(ioas, request).map(drop).map_err(|error| error.errno())
    };
    let counts = || (process.pinned(), locked.pages());
    map(0, 5, 0).unwrap();
    let bound = context.bind(&rig.members[0]).unwrap();
    assert_eq!(bound.attach(ioas).unwrap_err().errno(), Errno::ENOMEM);
    assert_eq!(counts(), (0, 0));
    context.ioas_unmap(ioas, Iova::new(0), 5 * PAGE_SIZE).unwrap();
    bound.attach(ioas).unwrap();
    assert_eq!(map(0, 3, 0), Ok(()));
    assert_eq!(map(8, 2, 4), Err(Errno::ENOMEM));
    assert_eq!(counts(), (3, 3));
    assert_eq!(map(8, 1, 4), Ok(()));
    let access = context.access(|_| {}).unwrap();
    access.attach(ioas).unwrap();
    let pins = access.pin(Iova::new(0), PAGE_SIZE, Access::Read).unwrap();
    assert_eq!(counts(), (4, 4), "a page that is pinned already counts once");
    drop(bound);
    assert_eq!(counts(), (1, 1), "what the access has pinned");
    drop(pins);
    assert_eq!(counts(), (0, 0));
}

#[test]
fn what_hardware_refuses_to_unmap_stays_pinned_with_the_domain() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    let bound = context.bind(&rig.members[0]).unwrap();
    bound.attach(ioas).unwrap();
    rig.map(&context, ioas, 0, 2, 3).unwrap();
    rig.hardware.refuse(Operation::Unmap);
    assert_eq!(context.ioas_unmap(ioas, Iova::new(0), 2 * PAGE_SIZE), Ok(2 * PAGE_SIZE));
    rig.hardware.heal();
    assert_eq!((rig.reaches(0, 0), rig.process.pinned()), (Some(4), 2), "a device may still reach it");
    bound.detach();
    assert_eq!((rig.reaches(0, 0), rig.process.pinned()), (None, 0), "the domain is gone");
}

#[test]
fn a_map_that_cannot_be_undone_keeps_its_memory() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    let bound = context.bind(&rig.members[0]).unwrap();
    bound.attach(ioas).unwrap();
    for n in 0..6 {
        rig.hardware.refuse(Operation::Unmap);
        rig.fail(Fails::Hardware, n);
        let mapped = rig.map(&context, ioas, 4, 2, 5);
        rig.heal();
        rig.assert_pinned(&format!("call {n} failed: {mapped:?}"));
        if mapped.is_ok() {
            context.ioas_unmap(ioas, Iova::new(0), u64::MAX).unwrap();
        }
    }
    drop(bound);
    context.destroy(ioas).unwrap();
    rig.assert_idle();
}

#[test]
fn memory_is_unmapped_everywhere_before_it_is_unpinned() {
    let rig = Rig::new(&["a1", "a2", "b1"]);
    let context = rig.context("vmm");
    let watched = rig.watched();
    let [a, b] = [(); 2].map(|()| context.ioas_alloc().unwrap());
    let map = |ioas, at: u64, pages, from| {
        let request = rig.request(Place::Fixed(Iova::new(at * PAGE_SIZE)), pages, from);
        context.ioas_map(ioas, MapRequest { process: watched.clone(), ..request }).map(drop)
    };
    map(a, 0, 2, 0).unwrap();
    map(a, 4, 2, 2).unwrap();
    map(b, 0, 2, 4).unwrap();
    let bound: Vec<_> = rig.members.iter().map(|member| context.bind(member).unwrap()).collect();
    // Whatever fails of an attach, the device is gone from what is unpinned.
    for fails in [Fails::Hardware, Fails::Pin] {
        for n in 0..64 {
            rig.fail(fails, n);
            let attached = bound[0].attach(a);
            rig.heal();
            if attached.is_ok() {
                bound[0].detach();
                break;
            }
        }
    }
    for device in &bound {
        device.attach(a).unwrap();
    }
    for n in 0..64 {
        rig.fail(Fails::Pin, n);
        let mapped = map(a, 8, 4, 8);
        rig.heal();
        if mapped.is_ok() {
            break;
        }
    }
    context.ioas_unmap(a, Iova::new(8 * PAGE_SIZE), 4 * PAGE_SIZE).unwrap();
    bound[0].replace(b).unwrap();
    bound[2].replace(b).unwrap();
    drop(bound);
    drop(context);
    rig.assert_idle();
}
