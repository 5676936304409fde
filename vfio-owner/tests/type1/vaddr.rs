//! Vt15.6 to Vt15.8, Vt16.11: memory that goes to another process while devices keep reaching it.

use vfio_owner::backend::{Extension, MapRequest, Unmap};
use vfio_owner::error::{MapDmaError, UnmapDmaError};
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::software::{LockedPages, Process};
use vfio_owner::iommu_core::{Access, UserMemory as _};

use crate::rig::{A0, B0, Rig, plain, range};

const V2: Extension = Extension::TYPE1_V2;

#[test]
fn vt15_6_7_only_what_is_away_and_exactly_that() {
    let (rig, _a) = Rig::ready(V2);
    rig.map(2, 2, 0).unwrap();
    let update = |at, pages| rig.container.update_vaddr(&rig.request(at, pages, 0)).unwrap_err();
    assert_eq!(update(2, 2).errno(), Errno::EINVAL, "it is not away");
    rig.container.invalidate_vaddr(range(2, 2)).unwrap();
    assert_eq!(update(6, 2).errno(), Errno::ENOENT);
    for (at, pages) in [(2, 1), (3, 1), (1, 3), (2, 3)] {
        assert!(matches!(update(at, pages), MapDmaError::NotThatMapping { .. }), "{at} {pages}");
    }
    rig.container.update_vaddr(&rig.request(2, 2, 4)).unwrap();
    // Devices reach what they reached all the time.
    assert_eq!((rig.reaches(A0, 2), rig.pinned()), (Some(1), 2));
}

#[test]
fn vt15_8_the_new_owner_pays_and_the_old_one_no_more() {
    let (rig, _a) = Rig::ready(V2);
    rig.map(2, 2, 0).unwrap();
    let next = |bytes: u64| {
        let locked = LockedPages::limited(bytes);
        let process = Process::new(rig.machine.memory(), locked.clone());
        let addr = process.allocate(4 * PAGE_SIZE, Access::ReadWrite).unwrap();
        (MapRequest { process, addr, ..rig.request(2, 2, 0) }, locked)
    };
    rig.container.invalidate_vaddr(Unmap::All).unwrap();
    let (poor, locked) = next(PAGE_SIZE);
    let error = rig.container.update_vaddr(&poor).unwrap_err();
    assert_eq!((error.errno(), locked.pages(), rig.locked.pages()), (Errno::ENOMEM, 0, 2));
    let (rich, locked) = next(4 * PAGE_SIZE);
    rig.container.update_vaddr(&rich).unwrap();
    assert_eq!((locked.pages(), rig.locked.pages(), rig.process.pinned()), (2, 0, 2));
    rig.unmap(2, 2).unwrap();
    assert_eq!((locked.pages(), rig.locked.pages(), rig.process.pinned()), (0, 0, 0));
}

#[test]
fn vt15_8_the_same_owner_does_not_pay_twice() {
    let (rig, _a) = Rig::ready(V2);
    // All that may be locked: paying twice for a moment would be too much.
    rig.map(0, crate::rig::PAGES, 0).unwrap();
    rig.container.invalidate_vaddr(Unmap::All).unwrap();
    rig.container.update_vaddr(&rig.request(0, crate::rig::PAGES, 0)).unwrap();
    assert_eq!(rig.pinned(), crate::rig::PAGES);
}

#[test]
fn vt16_11_twice_away_is_an_error_that_changes_nothing() {
    let (rig, _a) = Rig::ready(V2);
    rig.map(0, 2, 0).unwrap();
    rig.map(2, 2, 2).unwrap();
    assert_eq!(rig.container.invalidate_vaddr(range(2, 2)), Ok(2 * PAGE_SIZE));
    let error = rig.container.invalidate_vaddr(range(0, 4)).unwrap_err();
    assert!(matches!(error, UnmapDmaError::VaddrInvalid { .. }), "{error}");
    // The first, which this call would have taken along, is where it was.
    assert_eq!(rig.container.update_vaddr(&rig.request(0, 2, 0)).unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(rig.container.invalidate_vaddr(range(0, 2)), Ok(2 * PAGE_SIZE));
}

#[test]
fn what_is_away_can_be_unmapped() {
    let (rig, _a) = Rig::ready(V2);
    rig.map(0, 2, 0).unwrap();
    rig.container.invalidate_vaddr(Unmap::All).unwrap();
    assert_eq!(rig.unmap(0, 2), Ok(2));
    assert_eq!(rig.pinned(), 0);
    rig.map(0, 1, 0).unwrap();
    assert_eq!(rig.reaches(A0, 0), Some(1));
    assert!(rig.process.read(rig.ram, &mut [0]).is_ok());
}

#[test]
fn vt14_1_what_was_away_and_is_unmapped_keeps_no_group_out() {
    let rig = Rig::new(&[(A0, plain()), (B0, plain())]);
    let _a = rig.first(A0, V2);
    for at in [0, 2, 4] {
        rig.map(at, 2, at).unwrap();
    }
    assert_eq!(rig.container.invalidate_vaddr(range(0, 4)), Ok(4 * PAGE_SIZE));
    assert_eq!(rig.unmap(4, 2), Ok(2), "it was there");
    assert_eq!(rig.unmap(0, 2), Ok(2));
    assert_eq!(rig.join(B0).unwrap_err().errno(), Errno::EBUSY, "one is away still");
    assert_eq!(rig.container.unmap(Unmap::All), Ok(2 * PAGE_SIZE));
    assert!(rig.join(B0).is_ok());
}
