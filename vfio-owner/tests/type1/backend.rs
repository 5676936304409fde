//! Type1 without a container around it: what is mapped before there is a group (V48), and what is left at its end.

use vfio_owner::backend::{Backend as _, ContainerIommu, Extension, Unmap};
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::hardware::HardwareError;
use vfio_owner::iommu_core::software::{LockedPages, Process};
use vfio_owner::iommu_core::{Access, Claim, Owner};
use vfio_owner::type1::Type1;

use crate::rig::{A0, B0, PAGES, Rig, plain, range};

fn rig() -> Rig {
    Rig::new(&[(A0, plain()), (B0, plain())])
}

fn iommu(rig: &Rig) -> Box<dyn ContainerIommu> {
    Type1::new(rig.machine.physical_memory()).open(Extension::TYPE1_V2).unwrap()
}

fn claim(rig: &Rig, device: &str) -> Claim {
    rig.group(device).claim(&Owner::new("somebody")).unwrap()
}

#[test]
fn v48_what_is_mapped_before_there_is_a_group_is_pinned_with_the_first() {
    let rig = rig();
    let mut iommu = iommu(&rig);
    iommu.map(&rig.request(1, 3, 0)).unwrap();
    iommu.map(&rig.request(6, 2, 4)).unwrap();
    assert_eq!(iommu.map(&rig.request(2, 1, 0)).unwrap_err().errno(), Errno::EEXIST);
    assert_eq!(rig.pinned(), 0);
    let [a, b] = [A0, B0].map(|device| claim(&rig, device));
    iommu.attach_group(&a).unwrap();
    assert_eq!((rig.pinned(), rig.reaches(A0, 3), rig.reaches(A0, 6)), (5, Some(3), Some(5)));
    iommu.attach_group(&b).unwrap();
    assert_eq!((rig.pinned(), rig.view(B0)), (5, rig.view(A0)));
    assert_eq!(iommu.attach_group(&a).unwrap_err().errno(), Errno::EINVAL, "Vt14.3");
    iommu.detach_group(&a);
    iommu.detach_group(&a);
    assert_eq!((rig.pinned(), rig.reaches(A0, 3), rig.reaches(B0, 3)), (5, None, Some(3)));
}

#[test]
fn v48_what_cannot_be_pinned_keeps_the_group_out_and_stays_mapped() {
    let rig = rig();
    let mut iommu = iommu(&rig);
    iommu.map(&rig.request(0, 2, 0)).unwrap();
    iommu.map(&rig.request(4, 3, 4)).unwrap();
    let a = claim(&rig, A0);
    let refused = |iommu: &mut dyn ContainerIommu, errno| {
        assert_eq!(iommu.attach_group(&a).unwrap_err().errno(), errno);
        assert!(rig.pinned() == 0 && rig.view(A0).iter().all(Option::is_none));
    };
    for pin in 0..5 {
        rig.user.fail_nth(pin);
        refused(&mut *iommu, Errno::EFAULT);
        rig.user.heal();
    }
    // The allocation and the attach come first.
    for call in 0..7 {
        rig.hardware(A0).fail_nth(call, HardwareError::new(Errno::EIO, "on command"));
        refused(&mut *iommu, Errno::EIO);
        rig.hardware(A0).heal();
    }
    // More than may be locked, in all.
    iommu.map(&rig.request(20, PAGES - 4, 0)).unwrap();
    refused(&mut *iommu, Errno::ENOMEM);
    assert_eq!(iommu.unmap(range(20, PAGES - 4)), Ok((PAGES - 4) * PAGE_SIZE));
    iommu.attach_group(&a).unwrap();
    assert_eq!((rig.pinned(), rig.reaches(A0, 6)), (5, Some(7)));
    assert_eq!(iommu.unmap(Unmap::All), Ok(5 * PAGE_SIZE));
    assert_eq!(rig.pinned(), 0);
}

#[test]
fn vt15_8_who_has_the_memory_when_it_is_pinned_pays_for_it() {
    let rig = rig();
    let mut iommu = iommu(&rig);
    iommu.map(&rig.request(0, 2, 0)).unwrap();
    iommu.map(&rig.request(4, 1, 4)).unwrap();
    assert_eq!(iommu.invalidate_vaddr(range(0, 2)), Ok(2 * PAGE_SIZE));
    let a = claim(&rig, A0);
    assert_eq!(iommu.attach_group(&a).unwrap_err().errno(), Errno::EBUSY, "Vt14.1");
    let locked = LockedPages::limited(2 * PAGE_SIZE);
    let next = Process::new(rig.machine.memory(), locked.clone());
    let addr = next.allocate(2 * PAGE_SIZE, Access::ReadWrite).unwrap();
    let request = vfio_owner::backend::MapRequest { process: next.clone(), addr, ..rig.request(0, 2, 0) };
    iommu.update_vaddr(&request).unwrap();
    assert_eq!((locked.pages(), rig.pinned()), (0, 0), "nothing is pinned yet");
    iommu.attach_group(&a).unwrap();
    assert_eq!((locked.pages(), next.pinned(), rig.pinned()), (2, 2, 1));
    assert_eq!((rig.reaches(A0, 0), rig.reaches(A0, 4)), (Some(0), Some(5)));
    drop(iommu);
    assert_eq!((locked.pages(), next.pinned(), rig.pinned()), (0, 0, 0));
}

#[test]
fn what_ends_with_groups_in_it_leaves_no_mapping_and_no_pin() {
    let rig = rig();
    let mut iommu = iommu(&rig);
    let [a, b] = [A0, B0].map(|device| claim(&rig, device));
    iommu.attach_group(&a).unwrap();
    iommu.attach_group(&b).unwrap();
    iommu.map(&rig.request(0, 4, 0)).unwrap();
    drop(iommu);
    assert_eq!(rig.pinned(), 0);
    assert!([A0, B0].iter().all(|device| rig.view(device).iter().all(Option::is_none)));
}
