//! Opening a group, its status, and putting it into a container: tables Vt2 to Vt6.

use std::sync::Arc;

use vfio_owner::GroupStatus;
use vfio_owner::backend::Extension;
use vfio_owner::error::{GetDeviceError, OpenGroupError, SetContainerError, SetIommuError, UnsetContainerError};
use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::{Attached, ClaimError, Owner, Ownership};
use vfio_owner::testbed::MachineError;

use crate::room::{BEHIND_PORT, CARD, NIC, Room};

fn open_error(room: &Room, device: &str) -> OpenGroupError {
    match room.machine.open_group(device) {
        Err(MachineError::OpenGroup(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn v1_the_file_comes_with_the_first_device_and_goes_with_the_last() {
    let room = Room::new();
    assert_eq!(open_error(&room, CARD[0]).errno(), Errno::ENOENT);
    room.give(CARD[0]);
    room.give(CARD[1]);
    drop(room.group(CARD[0]));
    room.free(CARD[0]);
    drop(room.group(CARD[0]));
    room.free(CARD[1]);
    assert!(matches!(open_error(&room, CARD[0]), OpenGroupError::NoFile { .. }));
}

#[test]
fn v11_registering_claims_nothing() {
    let room = Room::with(&[NIC]);
    assert_eq!(room.ownership(NIC), Ownership::Idle);
    assert!(matches!(room.attached(NIC), Attached::Default(_)));
}

#[test]
fn vt2_4_a_group_has_one_open_file() {
    let room = Room::with(&[CARD[0]]);
    let file = room.group(CARD[0]);
    let again = open_error(&room, CARD[1]);
    assert!(matches!(again, OpenGroupError::Open { .. }));
    assert_eq!(again.errno(), Errno::EBUSY);
    let dup = file.clone();
    drop(file);
    assert_eq!(open_error(&room, CARD[0]).errno(), Errno::EBUSY);
    drop(dup);
    room.group(CARD[0]);
}

#[test]
fn vt3_status_is_about_who_holds_the_group() {
    let room = Room::with(&[CARD[0]]);
    let file = room.group(CARD[0]);
    assert_eq!(file.status(), Ok(GroupStatus::NotViable));
    room.free(CARD[1]);
    assert_eq!(file.status(), Ok(GroupStatus::Viable));
    let container = room.container();
    file.set_container(&container).unwrap();
    assert_eq!(file.status(), Ok(GroupStatus::InContainer));
    file.unset_container().unwrap();
    assert_eq!(file.status(), Ok(GroupStatus::Viable));
    let member = room.machine.member(CARD[2]).unwrap();
    let claim = member.claim(&Owner::new("somebody")).unwrap();
    assert_eq!(file.status(), Ok(GroupStatus::NotViable));
    drop(claim);
}

#[test]
fn vt13_5_a_sibling_on_a_kernel_driver_is_named() {
    let room = Room::with(&[CARD[0]]);
    let file = room.group(CARD[0]);
    let container = room.container();
    let error = file.set_container(&container).unwrap_err();
    assert_eq!(error.errno(), Errno::EPERM);
    assert_eq!(error.to_string(), "group 3 is used by kernel drivers: 0000:00:04.1 (e1000)");
    assert!(matches!(error, SetContainerError::Claim(ClaimError::KernelUse { .. })));
    assert_eq!(file.unset_container().unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(container.set_iommu(Extension::TYPE1).unwrap_err().errno(), Errno::EINVAL);
    assert!(matches!(room.attached(CARD[1]), Attached::Default(_)));
}

#[test]
fn vt13_6_drivers_that_manage_their_dma_are_not_in_the_way() {
    let room = Room::with(&[CARD[0]]);
    room.free(CARD[1]);
    room.machine.bind(CARD[1], "pci-stub").unwrap();
    let file = room.group(CARD[0]);
    file.set_container(&room.container()).unwrap();
}

#[test]
fn v18_a_sibling_gets_no_kernel_driver_before_the_release() {
    let room = Room::with(&BEHIND_PORT);
    let file = room.group(BEHIND_PORT[0]);
    file.set_container(&room.container()).unwrap();
    room.free(BEHIND_PORT[1]);
    let refused = room.machine.bind(BEHIND_PORT[1], "e1000e").unwrap_err();
    assert_eq!(refused.errno(), Errno::EBUSY);
    drop(file);
    room.machine.bind(BEHIND_PORT[1], "e1000e").unwrap();
}

#[test]
fn vt4_2_a_group_is_in_one_container() {
    let room = Room::with(&[NIC]);
    let (file, one, two) = (room.group(NIC), room.container(), room.container());
    file.set_container(&one).unwrap();
    for container in [&one, &two] {
        let error = file.set_container(container).unwrap_err();
        assert!(matches!(error, SetContainerError::Attached { .. }));
        assert_eq!(error.errno(), Errno::EINVAL);
    }
}

#[test]
fn v24_the_claim_comes_before_the_iommu() {
    let room = Room::with(&[NIC]);
    let file = room.group(NIC);
    file.set_container(&room.container()).unwrap();
    assert!(room.ownership(NIC).owner().is_some());
    assert_eq!(room.attached(NIC), Attached::Blocking);
}

#[test]
fn vt5_a_group_leaves_its_container_once_no_device_is_open() {
    let room = Room::with(&[NIC]);
    let file = room.group(NIC);
    assert!(matches!(file.unset_container(), Err(UnsetContainerError::NotAttached { .. })));
    file.set_container(&room.container()).unwrap();
    file.unset_container().unwrap();
    let (container, device) = {
        let container = room.container();
        file.set_container(&container).unwrap();
        container.set_iommu(Extension::TYPE1).unwrap();
        (container, file.device(NIC).unwrap())
    };
    let busy = file.unset_container().unwrap_err();
    assert!(matches!(busy, UnsetContainerError::DevicesOpen { devices: 1, .. }));
    assert_eq!(busy.errno(), Errno::EBUSY);
    drop(device);
    file.unset_container().unwrap();
    assert_eq!(container.check_extension(Extension::TYPE1), 1);
    assert_eq!(room.ownership(NIC), Ownership::Idle);
}

#[test]
fn vt6_a_device_is_opened_once_the_container_has_an_iommu() {
    let room = Room::with(&[NIC, CARD[0]]);
    let file = room.group(NIC);
    let error = |name| file.device(name).unwrap_err();
    for foreign in [CARD[0], "", "0000:00:03"] {
        assert!(matches!(error(foreign), GetDeviceError::NoDevice { .. }), "{foreign}");
        assert_eq!(error(foreign).errno(), Errno::ENODEV);
    }
    assert!(matches!(error(NIC), GetDeviceError::NoContainer { .. }));
    let container = room.container();
    file.set_container(&container).unwrap();
    assert!(matches!(error(NIC), GetDeviceError::NoIommu { .. }));
    assert_eq!(error(NIC).errno(), Errno::EINVAL);
    container.set_iommu(Extension::TYPE1).unwrap();
    let first = file.device(NIC).unwrap();
    let second = file.device(NIC).unwrap();
    drop(first);
    assert_eq!(file.unset_container().unwrap_err().errno(), Errno::EBUSY);
    drop(second);
    file.unset_container().unwrap();
}

#[test]
fn what_is_checked_first_is_told_without_doing_it() {
    let room = Room::with(&[NIC]);
    let (file, container) = (room.group(NIC), room.container());
    assert!(Arc::ptr_eq(file.iommu_group().unwrap(), &room.machine.group(NIC).unwrap()));
    assert_eq!(container.may_set_iommu(Extension::TYPE1), Err(SetIommuError::NoGroup));
    assert_eq!(container.tracks_dirty().unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(file.may_set_container(), Ok(()));
    assert_eq!(room.ownership(NIC), Ownership::Idle);
    file.set_container(&container).unwrap();
    assert!(matches!(file.may_set_container(), Err(SetContainerError::Attached { .. })));
    assert_eq!(container.may_set_iommu(Extension::TYPE1), Ok(()));
    container.set_iommu(Extension::TYPE1).unwrap();
    assert_eq!(container.may_set_iommu(Extension::TYPE1), Err(SetIommuError::AlreadySet));
    assert_eq!(container.tracks_dirty().unwrap_err().errno(), Errno::EACCES, "V51: version 1");
    drop(file);
    room.free(NIC);
    room.give(NIC);
    let (_file, container) = room.ready(NIC);
    assert_eq!(container.tracks_dirty(), Ok(()));
}
