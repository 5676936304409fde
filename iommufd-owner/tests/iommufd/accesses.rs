//! Users in the kernel: F23, F59, F60.

use std::sync::Arc;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::Mutex;
use iommu_core::{Access, Iova};
use iommufd_owner::{AccessPins, Context};

use crate::rig::Rig;

#[test]
fn f23_an_unmap_asks_accesses_to_let_go() {
    let rig = Rig::new(&["a1"]);
    let context = Context::new("vmm");
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
    let context = Context::new("vmm");
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
    let context = Context::new("vmm");
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
