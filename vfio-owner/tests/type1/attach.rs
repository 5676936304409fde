//! Vt14, V46, V47: how groups come under a container's IOMMU, and leave it.

use vfio_owner::backend::{Extension, Unmap};
use vfio_owner::error::{AttachGroupError, SetContainerError, SetIommuError};
use vfio_owner::iommu_core::address::{PAGE_SIZE, PageSizes};
use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::hardware::{Capabilities, DomainKind, HardwareError};
use vfio_owner::iommu_core::reserved::RegionKind;
use vfio_owner::iommu_core::software::SoftIommuConfig;
use vfio_owner::iommu_core::software::page_table::TableFormat;
use vfio_owner::iommu_core::{Attached, Ownership};
use vfio_owner::type1::{Type1Config, UnsafeInterrupts};

use crate::rig::{A0, B0, C0, Rig, plain, reserving};

const V2: Extension = Extension::TYPE1_V2;

/// The group is refused with this number, has nothing, and what was there before has stayed (V46).
fn refused(rig: &Rig, device: &str, errno: Errno) -> AttachGroupError {
    let (pins, view) = (rig.pinned(), rig.view(A0));
    let error = rig.join(device).unwrap_err();
    assert_eq!(error.errno(), errno, "{error}");
    let group = rig.group(device);
    assert_eq!(group.ownership(), Ownership::Idle);
    assert!(matches!(group.attached(), Attached::Default(_)), "{}", group.attached());
    assert_eq!((rig.pinned(), rig.view(A0)), (pins, view));
    assert!(rig.view(device).iter().all(Option::is_none));
    match error {
        SetContainerError::Attach(error) => error,
        error => panic!("{error}"),
    }
}

#[test]
fn vt14_1_no_group_comes_while_memory_is_away() {
    let rig = Rig::new(&[(A0, plain()), (B0, plain())]);
    let _a = rig.first(A0, V2);
    rig.map(0, 2, 0).unwrap();
    rig.map(4, 1, 4).unwrap();
    rig.container.invalidate_vaddr(Unmap::All).unwrap();
    assert_eq!(refused(&rig, B0, Errno::EBUSY), AttachGroupError::VaddrInvalid { mappings: 2 });
    rig.container.update_vaddr(&rig.request(0, 2, 0)).unwrap();
    assert_eq!(refused(&rig, B0, Errno::EBUSY), AttachGroupError::VaddrInvalid { mappings: 1 });
    rig.container.update_vaddr(&rig.request(4, 1, 4)).unwrap();
    assert!(rig.join(B0).is_ok());
}

#[test]
fn vt14_5_hardware_has_no_domain_to_give() {
    let lacking = SoftIommuConfig { absent: vec![DomainKind::Paging], ..plain() };
    let rig = Rig::new(&[(A0, plain()), (B0, lacking)]);
    let _a = rig.first(A0, V2);
    rig.map(0, 1, 0).unwrap();
    assert!(matches!(refused(&rig, B0, Errno::EOPNOTSUPP), AttachGroupError::NoDomain { .. }));
}

#[test]
fn vt14_6_nesting_is_not_to_be_had() {
    let rig = Rig::new(&[(A0, plain())]);
    let file = rig.open(A0);
    file.set_container(&rig.container).unwrap();
    let refused = rig.container.set_iommu(Extension::NESTING).unwrap_err();
    assert_eq!(refused.errno(), Errno::EINVAL);
    assert!(matches!(refused, SetIommuError::Attach(_)), "it is a kind, and its domains are not to be had: {refused}");
    assert_eq!(rig.group(A0).attached(), Attached::Blocking);
    rig.container.set_iommu(V2).unwrap();
}

#[test]
fn vt14_7_hardware_refuses_the_attach() {
    let rig = Rig::new(&[(A0, plain()), (B0, plain())]);
    let _a = rig.first(A0, V2);
    rig.map(0, 1, 0).unwrap();
    rig.hardware(B0).refuse_attach(B0, Some(DomainKind::Paging));
    assert!(matches!(refused(&rig, B0, Errno::EIO), AttachGroupError::Domain(_)));
}

#[test]
fn vt14_8_what_is_mapped_must_be_within_reach() {
    let small = SoftIommuConfig { format: TableFormat::new(32, PageSizes::X86).unwrap(), ..plain() };
    let rig = Rig::new(&[(A0, plain()), (B0, small)]);
    let _a = rig.first(A0, V2);
    rig.map(0xf_ffff, 1, 0).unwrap();
    rig.map(0x10_0000, 1, 1).unwrap();
    assert!(matches!(refused(&rig, B0, Errno::EINVAL), AttachGroupError::Aperture { .. }));
    rig.unmap(0x10_0000, 1).unwrap();
    let _b = rig.join(B0).unwrap();
    assert_eq!(rig.reaches(B0, 0xf_ffff), Some(1));
    // From now on nothing is mapped beyond what both reach.
    assert_eq!(rig.map(0x10_0000, 1, 1).unwrap_err().errno(), Errno::EINVAL);
    let info = rig.container.info().unwrap();
    assert_eq!(info.ranges.last().unwrap().last().get(), (1 << 32) - 1);
}

#[test]
fn vt14_10_nothing_may_be_mapped_where_a_group_reserves() {
    let rig = Rig::new(&[(A0, plain()), (B0, reserving(B0, RegionKind::Reserved, 4, 5))]);
    let _a = rig.first(A0, V2);
    rig.map(0, 4, 0).unwrap();
    rig.map(5, 2, 5).unwrap();
    assert!(matches!(refused(&rig, B0, Errno::EINVAL), AttachGroupError::Reserved { .. }));
    rig.unmap(5, 2).unwrap();
    let _b = rig.join(B0).unwrap();
    assert_eq!(rig.map(5, 1, 5).unwrap_err().errno(), Errno::EINVAL);
    rig.map(6, 1, 6).unwrap();
    assert_eq!((rig.reaches(A0, 6), rig.reaches(B0, 6)), (Some(7), Some(7)));
}

#[test]
fn vt14_10_a_relaxable_region_is_in_nobodys_way() {
    let rig = Rig::new(&[(A0, plain()), (B0, reserving(B0, RegionKind::DirectRelaxable, 4, 5))]);
    let _a = rig.first(A0, V2);
    rig.map(4, 1, 0).unwrap();
    let _b = rig.join(B0).unwrap();
    assert_eq!(rig.reaches(B0, 4), Some(1));
    rig.map(5, 1, 1).unwrap();
}

#[test]
fn vt14_11_what_is_left_is_what_all_can_use() {
    let rig = Rig::new(&[(A0, reserving(A0, RegionKind::Reserved, 2, 3)), (B0, reserving(B0, RegionKind::Msi, 8, 9))]);
    let ranges = || {
        let info = rig.container.info().unwrap();
        let pages = info.ranges.iter().map(|range| (range.first().get() / PAGE_SIZE, range.last().get() / PAGE_SIZE));
        pages.collect::<Vec<_>>()
    };
    let last = (1 << 27) - 1;
    let _a = rig.first(A0, V2);
    assert_eq!(ranges(), [(0, 1), (4, last)]);
    let b = rig.join(B0).unwrap();
    assert_eq!(ranges(), [(0, 1), (4, 7), (10, last)]);
    b.unset_container().unwrap();
    assert_eq!(ranges(), [(0, 1), (4, last)], "V47: what only the other reserved is free again");
}

#[test]
fn vt14_12_interrupts_must_be_isolated_unless_the_administrator_allows_it() {
    let shared = SoftIommuConfig { lacking: [(B0.to_owned(), Capabilities::MSI_ISOLATION)].into(), ..plain() };
    let letters = [(A0, plain()), (B0, shared)];
    let rig = Rig::new(&letters);
    let _a = rig.first(A0, V2);
    rig.map(0, 1, 0).unwrap();
    assert!(matches!(refused(&rig, B0, Errno::EPERM), AttachGroupError::UnsafeInterrupts { .. }));
    let config = Type1Config { unsafe_interrupts: UnsafeInterrupts::Allow, ..Type1Config::default() };
    let rig = Rig::with(&letters, config);
    let _a = rig.first(A0, V2);
    assert!(rig.join(B0).is_ok());
}

#[test]
fn vt14_13_14_groups_share_a_domain_if_they_can_and_are_alike_in_coherency() {
    let incoherent = SoftIommuConfig { lacking: [(B0.to_owned(), Capabilities::ENFORCED_COHERENCY)].into(), ..plain() };
    let rig = Rig::new(&[(A0, plain()), (B0, incoherent), (C0, plain())]);
    let _a = rig.first(A0, V2);
    assert_eq!(rig.container.check_extension(Extension::DMA_CC), 1);
    let b = rig.join(B0).unwrap();
    assert_eq!(rig.container.check_extension(Extension::DMA_CC), 0);
    rig.map(1, 2, 0).unwrap();
    let _c = rig.join(C0).unwrap();
    for device in [A0, B0, C0] {
        assert_eq!((rig.reaches(device, 1), rig.reaches(device, 2)), (Some(1), Some(2)), "{device}");
    }
    assert_eq!(rig.pinned(), 2, "pinned once, however many domains");
    b.unset_container().unwrap();
    assert_eq!(rig.container.check_extension(Extension::DMA_CC), 1);
    assert_eq!((rig.reaches(B0, 1), rig.reaches(A0, 1)), (None, Some(1)));
}

#[test]
fn vt14_15_what_is_mapped_is_there_for_a_group_that_comes_later() {
    let rig = Rig::new(&[(A0, plain()), (B0, plain())]);
    let _a = rig.first(A0, V2);
    rig.map(0, 5, 0).unwrap();
    rig.map(7, 1, 9).unwrap();
    let _b = rig.join(B0).unwrap();
    assert_eq!(rig.view(B0), rig.view(A0));
    assert_eq!(rig.pinned(), 6);
}

/// The mappings that were replayed before the failure go with their domain; nothing of the others is touched.
#[test]
fn vt14_15_a_replay_that_fails_leaves_nothing_behind() {
    let rig = Rig::new(&[(A0, plain()), (B0, plain())]);
    let _a = rig.first(A0, V2);
    rig.map(0, 3, 0).unwrap();
    rig.map(4, 2, 4).unwrap();
    for failing in 0.. {
        let before = rig.hardware(B0).calls();
        rig.hardware(B0).fail_nth(failing, HardwareError::new(Errno::EIO, "on command"));
        match rig.join(B0) {
            Ok(b) => {
                // A detach cannot fail: the device is blocked, whatever its hardware says.
                let survived = rig.hardware(B0).calls() > before + failing;
                rig.hardware(B0).heal();
                assert_eq!(rig.view(B0), rig.view(A0));
                b.unset_container().unwrap();
                if !survived {
                    break;
                }
            }
            Err(error) => {
                assert_eq!(error.errno(), Errno::EIO);
                rig.hardware(B0).heal();
                assert!(rig.view(B0).iter().all(Option::is_none));
                assert_eq!((rig.pinned(), rig.group(B0).ownership()), (5, Ownership::Idle));
                assert_eq!(rig.reaches(A0, 5), Some(6));
            }
        }
    }
}

#[test]
fn v47_with_the_last_group_all_mappings_go_and_with_another_none() {
    let rig = Rig::new(&[(A0, plain()), (B0, plain())]);
    let a = rig.first(A0, V2);
    rig.map(0, 5, 0).unwrap();
    let b = rig.join(B0).unwrap();
    // The domain that the others were copied from goes first.
    a.unset_container().unwrap();
    assert_eq!((rig.reaches(A0, 4), rig.reaches(B0, 4), rig.pinned()), (None, Some(5), 5));
    rig.unmap(0, 5).unwrap();
    assert_eq!((rig.reaches(B0, 4), rig.pinned()), (None, 0));
    rig.map(0, 2, 0).unwrap();
    b.unset_container().unwrap();
    assert_eq!(rig.pinned(), 0);
    assert_eq!(rig.container.info(), None);
}
