//! Users in the kernel: F23, F59, F60.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::Mutex;
use iommu_core::{Access, Iova};
use iommufd_owner::{AccessPins, IoasAccess, MapRequest, ObjectId, Place};

use crate::rig::Rig;

#[test]
fn f23_an_unmap_asks_accesses_to_let_go() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    rig.map(&context, ioas, 0, 2, 3).unwrap();
    let held: Arc<Mutex<Option<AccessPins>>> = Arc::default();
    let letting_go = held.clone();
    let access = context.access(move |_| {
        let pins = letting_go.lock().take();
        drop(pins);
    });
    let access = access.unwrap();
    assert_eq!(access.pin(Iova::new(0), PAGE_SIZE, Access::Read).unwrap_err().errno(), Errno::ENOENT);
    access.attach(ioas).unwrap();
    assert_eq!(context.destroy(ioas).unwrap_err().errno(), Errno::EBUSY, "Ft2.2");
    let pins = access.pin(Iova::new(PAGE_SIZE), PAGE_SIZE, Access::ReadWrite).unwrap();
    assert_eq!((pins.runs().len(), rig.process.pinned()), (1, 1));
    *held.lock() = Some(pins);
    assert_eq!(context.ioas_unmap(ioas, Iova::new(0), u64::MAX), Ok(2 * PAGE_SIZE));
    assert_eq!(rig.process.pinned(), 0);
}

#[test]
fn ft6_9_an_access_that_does_not_let_go_stops_the_unmap() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    rig.map(&context, ioas, 0, 1, 0).unwrap();
    let access = context.access(|_| {}).unwrap();
    access.attach(ioas).unwrap();
    let pins = access.pin(Iova::new(0), PAGE_SIZE, Access::Read).unwrap();
    assert_eq!(context.ioas_unmap(ioas, Iova::new(0), PAGE_SIZE).unwrap_err().errno(), Errno::EDEADLK);
    drop(pins);
    assert_eq!(context.ioas_unmap(ioas, Iova::new(0), PAGE_SIZE), Ok(PAGE_SIZE));
}

#[test]
fn f60_reads_and_writes_cross_areas_and_stop_at_holes() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    rig.map(&context, ioas, 0, 1, 4).unwrap();
    rig.map(&context, ioas, 1, 1, 9).unwrap();
    let access = context.access(|_| {}).unwrap();
    access.attach(ioas).unwrap();
    let mut bytes = [0; 0x1001];
    access.read(Iova::new(0), &mut bytes).unwrap();
    assert_eq!((bytes[0], bytes[0x1000]), (5, 10));
    access.write(Iova::new(0xfff), &[7, 8]).unwrap();
    access.read(Iova::new(0xfff), &mut bytes[..2]).unwrap();
    assert_eq!(bytes[..2], [7, 8]);
    assert_eq!(access.read(Iova::new(0x1fff), &mut [0; 2]).unwrap_err().errno(), Errno::ENOENT);
    assert_eq!(access.pin(Iova::new(0), 3 * PAGE_SIZE, Access::Read).unwrap_err().errno(), Errno::ENOENT);
    assert_eq!(rig.process.pinned(), 0, "all or nothing");
}

#[test]
fn f60_a_mapping_of_any_length_may_begin_inside_of_a_page() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    let page = rig.request(Place::Fixed(Iova::new(0)), 1, 3);
    let addr = page.addr.checked_add(PAGE_SIZE - 1).unwrap();
    let access = context.access_without_pins().unwrap();
    access.attach(ioas).unwrap();
    // More pages than 32 bits count.
    for bytes in [2, 1 << 45] {
        context.ioas_map(ioas, MapRequest { addr, bytes, ..page.clone() }).unwrap();
        let mut read = [9; 2];
        access.read(Iova::new(0), &mut read).unwrap();
        assert_eq!(read, [0, 5]);
        assert_eq!(context.ioas_unmap(ioas, Iova::new(0), u64::MAX), Ok(bytes));
    }
}

#[test]
fn f59_an_access_moves_after_it_has_let_go() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let [a, b] = [0, 1].map(|page| {
        let ioas = context.ioas_alloc().unwrap();
        rig.map(&context, ioas, 0, 1, page).unwrap();
        ioas
    });
    let held: Arc<Mutex<Option<AccessPins>>> = Arc::default();
    let own: Arc<Mutex<Option<Arc<IoasAccess>>>> = Arc::default();
    let (letting_go, myself) = (held.clone(), own.clone());
    let access = context.access(move |_| {
        let pins = letting_go.lock().take();
        drop(pins);
        let myself = myself.lock().clone();
        let Some(myself) = myself else { return };
        assert_eq!(myself.detach().unwrap_err().errno(), Errno::EBUSY, "it is on its way");
        assert_eq!(myself.attach(b).unwrap_err().errno(), Errno::EBUSY);
        assert_eq!(myself.read(Iova::new(0), &mut [0]).unwrap_err().errno(), Errno::ENOENT, "it uses none");
    });
    let access = Arc::new(access.unwrap());
    *own.lock() = Some(access.clone());
    assert_eq!(access.replace(a).unwrap_err().errno(), Errno::ENOENT);
    access.attach(a).unwrap();
    assert_eq!(access.attach(b).unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(access.replace(a), Ok(()), "the same");
    assert_eq!(access.replace(ObjectId::new(99)).unwrap_err().errno(), Errno::ENOENT);
    *held.lock() = Some(access.pin(Iova::new(0), PAGE_SIZE, Access::Read).unwrap());
    access.replace(b).unwrap();
    assert_eq!(rig.process.pinned(), 0);
    let mut byte = [0];
    access.read(Iova::new(0), &mut byte).unwrap();
    assert_eq!(byte, [2]);
    context.destroy(a).unwrap();
    assert_eq!(context.destroy(b).unwrap_err().errno(), Errno::EBUSY);
    access.detach().unwrap();
    context.destroy(b).unwrap();
    *own.lock() = None;
    assert_eq!(context.destroy(access.id()).unwrap_err().errno(), Errno::EBUSY, "Ft2.6");
}

#[test]
fn f13_only_an_access_that_pins_demands_whole_pages() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    let odd = MapRequest { bytes: 3, ..rig.request(Place::Fixed(Iova::new(5)), 1, 0) };
    context.ioas_map(ioas, odd.clone()).unwrap();
    let pinning = context.access(|_| {}).unwrap();
    assert_eq!(pinning.attach(ioas).unwrap_err().errno(), Errno::EADDRINUSE);
    let reader = context.access_without_pins().unwrap();
    reader.attach(ioas).unwrap();
    let mut byte = [0];
    reader.read(Iova::new(5), &mut byte).unwrap();
    assert_eq!(byte, [1]);
    assert_eq!(reader.pin(Iova::new(5), 1, Access::Read).unwrap_err().errno(), Errno::EINVAL);
    context.ioas_unmap(ioas, Iova::new(5), 3).unwrap();
    pinning.attach(ioas).unwrap();
    assert_eq!(context.ioas_map(ioas, odd).unwrap_err().errno(), Errno::EINVAL);
    rig.map(&context, ioas, 0, 1, 0).unwrap();
    let pin = |iova: u64, bytes| pinning.pin(Iova::new(iova), bytes, Access::Read).map(drop).map_err(|e| e.errno());
    assert_eq!(pin(0, 0), Err(Errno::EINVAL));
    assert_eq!(pin(u64::MAX, 2), Err(Errno::EOVERFLOW));
    assert_eq!([pin(1, 2), pin(1, 1), pin(0, 1)], [Err(Errno::EINVAL); 3]);
    assert_eq!(pin(0, PAGE_SIZE), Ok(()));
}

#[test]
fn ft6_9_each_mapping_is_asked_for_a_hundred_times() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    for number in 0..150 {
        rig.map(&context, ioas, 2 * number, 1, 0).unwrap();
    }
    let held: Arc<Mutex<BTreeMap<u64, AccessPins>>> = Arc::default();
    let asked = Arc::new(AtomicU32::new(0));
    let (letting_go, count) = (held.clone(), asked.clone());
    let access = context.access(move |range| {
        count.fetch_add(1, Ordering::Relaxed);
        let pins = letting_go.lock().remove(&range.first().get());
        drop(pins);
    });
    let access = access.unwrap();
    access.attach(ioas).unwrap();
    let pin = |number: u64| access.pin(Iova::new(2 * number * PAGE_SIZE), PAGE_SIZE, Access::Read).unwrap();
    for number in 0..150 {
        let pins = pin(number);
        held.lock().insert(2 * number * PAGE_SIZE, pins);
    }
    let stuck = held.lock().remove(&(298 * PAGE_SIZE));
    let refused = context.ioas_unmap(ioas, Iova::new(0), u64::MAX).unwrap_err();
    assert_eq!(refused.errno(), Errno::EDEADLK);
    assert_eq!(asked.load(Ordering::Relaxed), 149 + 100);
    let again = access.pin(Iova::new(298 * PAGE_SIZE), PAGE_SIZE, Access::Read).unwrap_err();
    assert_eq!(again.errno(), Errno::EINVAL, "F23: the mark stays");
    drop(stuck);
    assert_eq!(context.ioas_unmap(ioas, Iova::new(0), u64::MAX), Ok(PAGE_SIZE), "the others are gone");
}

#[test]
fn f24_what_is_mapped_behind_an_unmap_stays() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    rig.map(&context, ioas, 0, 1, 0).unwrap();
    rig.map(&context, ioas, 2, 1, 0).unwrap();
    let held: Arc<Mutex<Option<AccessPins>>> = Arc::default();
    let (letting_go, same) = (held.clone(), context.clone());
    let request = rig.request(Place::Fixed(Iova::new(0)), 1, 5);
    let access = context.access(move |_| {
        let pins = letting_go.lock().take();
        if pins.is_some() {
            same.ioas_map(ioas, request.clone()).unwrap();
        }
        drop(pins);
    });
    let access = access.unwrap();
    access.attach(ioas).unwrap();
    *held.lock() = Some(access.pin(Iova::new(2 * PAGE_SIZE), PAGE_SIZE, Access::Read).unwrap());
    assert_eq!(context.ioas_unmap(ioas, Iova::new(0), 8 * PAGE_SIZE), Ok(2 * PAGE_SIZE));
    let mut byte = [0];
    access.read(Iova::new(0), &mut byte).unwrap();
    assert_eq!(byte, [6], "what the notice mapped");
}

#[test]
fn f59_an_access_does_what_its_mappings_permit() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    let readable = MapRequest { access: Access::Read, ..rig.request(Place::Fixed(Iova::new(0)), 1, 0) };
    let writable = MapRequest { access: Access::Write, ..rig.request(Place::Fixed(Iova::new(PAGE_SIZE)), 1, 1) };
    context.ioas_map(ioas, readable).unwrap();
    context.ioas_map(ioas, writable).unwrap();
    let access = context.access(|_| {}).unwrap();
    access.attach(ioas).unwrap();
    let (mut byte, second) = ([0], Iova::new(PAGE_SIZE));
    assert_eq!(access.read(Iova::new(0), &mut byte), Ok(()));
    assert_eq!(access.write(Iova::new(0), &[9]).unwrap_err().errno(), Errno::EPERM);
    assert_eq!(access.write(second, &[9]), Ok(()));
    assert_eq!(access.read(second, &mut byte).unwrap_err().errno(), Errno::EPERM);
    let pin = |at, access_kind| access.pin(at, PAGE_SIZE, access_kind).map(drop).map_err(|error| error.errno());
    assert_eq!(pin(Iova::new(0), Access::Read), Ok(()));
    assert_eq!(pin(Iova::new(0), Access::ReadWrite), Err(Errno::EPERM));
    assert_eq!(pin(second, Access::Read), Err(Errno::EPERM));
    assert_eq!(rig.process.pinned(), 0);
}

#[test]
fn an_access_that_cannot_move_stays() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let [a, b] = [(); 2].map(|()| context.ioas_alloc().unwrap());
    rig.map(&context, a, 0, 1, 3).unwrap();
    let odd = MapRequest { bytes: 3, ..rig.request(Place::Fixed(Iova::new(5)), 1, 0) };
    context.ioas_map(b, odd).unwrap();
    let access = context.access(|_| {}).unwrap();
    access.attach(a).unwrap();
    assert_eq!(access.replace(b).unwrap_err().errno(), Errno::EADDRINUSE);
    let mut byte = [0];
    access.read(Iova::new(0), &mut byte).unwrap();
    assert_eq!(byte, [4]);
    context.destroy(b).unwrap();
    assert_eq!(context.destroy(a).unwrap_err().errno(), Errno::EBUSY);
    access.detach().unwrap();
    assert_eq!(context.ioas_iova_ranges(a).unwrap().alignment, 1);
}
