//! Unbinding a driver whose device is open: V12 to V17.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use vfio_owner::GroupStatus;
use vfio_owner::iommu_core::device_model::{Errno, Unbind};
use vfio_owner::iommu_core::{Attached, Ownership};

use crate::room::{BEHIND_PORT, NIC, PAGE, Room, is_done};

#[test]
fn v15_only_an_open_device_holds_up_its_unbinding() {
    let room = Room::with(&[NIC]);
    let (group, container) = room.ready(NIC);
    room.map(&container, 0, PAGE);
    let device = group.device(NIC).unwrap();
    let mut unbind = room.unbind_blocked(NIC);
    // V12: nobody gets in any more, and other work goes on.
    assert_eq!(group.device(NIC).unwrap_err().errno(), Errno::ENODEV);
    assert_eq!(group.status(), Ok(GroupStatus::InContainer));
    assert!(room.reaches(NIC, 0));
    assert!(!is_done(&mut unbind));
    drop(device);
    assert!(is_done(&mut unbind));
    assert_eq!(room.machine.driver(NIC), None);
}

#[test]
fn v16_v17_the_last_device_takes_the_container_along() {
    let room = Room::with(&[NIC]);
    let (group, container) = room.ready(NIC);
    room.map(&container, 0, PAGE);
    room.free(NIC);
    assert_eq!(room.ownership(NIC), Ownership::Idle);
    assert_eq!(room.process.pinned(), 0);
    assert_eq!(group.status().unwrap_err().errno(), Errno::ENODEV);
    assert_eq!(group.set_container(&container).unwrap_err().errno(), Errno::ENODEV);
    assert_eq!(group.unset_container().unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(group.device(NIC).unwrap_err().errno(), Errno::ENODEV);
    // A later device gets a group of its own, though the old file is open.
    room.give(NIC);
    let new = room.group(NIC);
    assert_eq!(new.status(), Ok(GroupStatus::Viable));
    new.set_container(&container).unwrap();
    drop(group);
    assert_eq!(new.status(), Ok(GroupStatus::InContainer));
    assert!(room.ownership(NIC).owner().is_some());
}

#[test]
fn v16_a_device_that_is_not_the_last_leaves_the_container_alone() {
    let room = Room::with(&BEHIND_PORT);
    let (group, container) = room.ready(BEHIND_PORT[0]);
    room.map(&container, 0, PAGE);
    room.free(BEHIND_PORT[0]);
    assert!(room.reaches(BEHIND_PORT[0], 0), "it is still in the group");
    assert_eq!(group.status(), Ok(GroupStatus::InContainer));
    assert_eq!(group.device(BEHIND_PORT[0]).unwrap_err().errno(), Errno::ENODEV);
    group.device(BEHIND_PORT[1]).unwrap();
}

/// Behind a bridge whose requests look like theirs.
const CONVENTIONAL: [&str; 2] = ["0000:03:01.0", "0000:03:02.0"];

#[test]
fn a_device_is_removed_while_its_group_is_owned() {
    let room = Room::with(&[CONVENTIONAL[0], CONVENTIONAL[1]]);
    let (group, container) = room.ready(CONVENTIONAL[0]);
    room.map(&container, 0, PAGE);
    let device = group.device(CONVENTIONAL[1]).unwrap();
    let mut removal = room.machine.remove(CONVENTIONAL[1]).unwrap();
    assert!(!is_done(&mut removal));
    drop(device);
    assert!(is_done(&mut removal));
    assert_eq!(room.attached(CONVENTIONAL[0]), Attached::Own);
    room.machine.rescan();
    assert!(room.reaches(CONVENTIONAL[1], 0), "it joins on the owner's domain (Lt4.8)");
    // e1000 was refused, since the group is owned.
    assert_eq!(room.machine.driver(CONVENTIONAL[1]), None);
}

#[test]
fn v13_a_thread_that_unbinds_waits_until_the_user_has_gone() {
    let room = Arc::new(Room::with(&[NIC]));
    let (group, _container) = room.ready(NIC);
    let device = group.device(NIC).unwrap();
    let unbind = room.unbind_blocked(NIC);
    let (told, heard) = channel();
    let waiter = thread::spawn(move || {
        Unbind::wait(unbind);
        told.send(()).unwrap();
    });
    assert!(heard.try_recv().is_err());
    drop(device);
    waiter.join().unwrap();
    heard.recv().unwrap();
    drop(group);
    room.machine.bind(NIC, "e1000e").unwrap();
}

/// V53: a reset takes the device lock, which an unbinding holds until the user has gone.
#[test]
fn v53_nothing_is_reset_for_a_user_whose_driver_is_leaving() {
    let room = Room::with(&[NIC]);
    let context = room.machine.open_iommufd("vmm");
    let (open, idle) = (room.machine.open_device(NIC).unwrap(), room.machine.open_device(NIC).unwrap());
    let bound = open.bind_iommufd(&context).unwrap();
    let mut unbind = room.unbind_blocked(NIC);
    assert_eq!(bound.reset().unwrap_err().errno(), Errno::EAGAIN);
    drop((open, bound));
    assert_eq!(idle.bind_iommufd(&context).unwrap_err().errno(), Errno::EAGAIN, "it is reset when it is opened");
    assert_eq!(room.ownership(NIC), Ownership::Idle);
    drop(idle);
    assert!(is_done(&mut unbind));
}

/// V87, Vt11.11: what was alone on its bus when it was found is reset by the bridge, while it is alone.
#[test]
fn v87_a_device_behind_a_bridge_is_reset_while_it_is_alone() {
    let (first, second) = ("0000:03:01.0", "0000:03:02.0");
    let room = Room::with(&[first, second]);
    let context = room.machine.open_iommufd("vmm");
    let resets = |name: &str| {
        let file = room.machine.open_device(name).unwrap();
        let device = file.bind_iommufd(&context).unwrap();
        assert_eq!(device.info().resettable, device.reset().is_ok());
        device.info().resettable
    };
    assert!(!resets(first), "the bridge would reset its neighbour");
    assert!(!resets(second));
    let file = room.machine.open_device(first).unwrap();
    let mut unbind = room.unbind_blocked(first);
    assert_eq!(file.bind_iommufd(&context).unwrap_err().errno(), Errno::EAGAIN, "it is tried all the same");
    drop(file);
    assert!(is_done(&mut unbind));
    room.give(first);
    assert!(is_done(&mut room.machine.remove(second).unwrap()));
    assert!(resets(first));
}
