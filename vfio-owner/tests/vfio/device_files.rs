//! Device files and iommufds: tables Vt11 to Vt13, V40 to V43, V55.

use vfio_owner::error::{BindIommufdError, GetDeviceError, HotResetError};
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::sysfs::Snapshot;
use vfio_owner::iommu_core::{Access, Attached, Iova, Ownership};
use vfio_owner::iommufd_owner::{Context, MapRequest, ObjectId, Place};
use vfio_owner::testbed::Machine;
use vfio_owner::{AffectedOwner, DeviceFile, GroupStatus};

use crate::room::{BEHIND_PORT, CARD, NIC, Room, is_done};

fn open(room: &Room, device: &str) -> DeviceFile {
    room.machine.open_device(device).unwrap()
}

/// An address space with the user's first page at 0.
fn space(room: &Room, context: &Context) -> ObjectId {
    let ioas = context.ioas_alloc().unwrap();
    let (process, addr) = (room.process.clone(), room.ram);
    let place = Place::Fixed(Iova::new(0));
    context
        .ioas_map(ioas, MapRequest { iova: place, bytes: PAGE_SIZE, process, addr, access: Access::ReadWrite })
        .unwrap();
    ioas
}

#[test]
fn v10_a_device_file_answers_once_it_is_bound() {
    let room = Room::with(&[NIC]);
    let file = open(&room, NIC);
    assert_eq!(file.bound().unwrap_err().errno(), Errno::EINVAL, "Vt12.1");
    let bound = file.bind_iommufd(&room.machine.open_iommufd("vmm")).unwrap();
    assert_eq!((bound.info().regions, file.bound().unwrap().iommufd_id()), (9, bound.iommufd_id()));
    bound.detach_iommufd_pt();
}

#[test]
fn vt11_one_file_of_a_device_is_bound_at_a_time() {
    let room = Room::with(&[NIC]);
    let [mine, theirs] = ["vmm", "another"].map(|name| room.machine.open_iommufd(name));
    let (one, two) = (open(&room, NIC), open(&room, NIC));
    one.bind_iommufd(&mine).unwrap();
    for file in [&one, &two] {
        let refused = file.bind_iommufd(&theirs).unwrap_err();
        assert!(matches!(refused, BindIommufdError::Bound { .. }));
        assert_eq!(refused.errno(), Errno::EINVAL, "Vt11.6, Vt11.8");
    }
    drop(one);
    assert_eq!(room.ownership(NIC), Ownership::Idle);
    two.bind_iommufd(&theirs).unwrap();
}

#[test]
fn vt13_the_two_paths_exclude_each_other() {
    let room = Room::with(&BEHIND_PORT);
    let context = room.machine.open_iommufd("vmm");
    let group = room.group(BEHIND_PORT[0]);
    let file = open(&room, BEHIND_PORT[0]);
    let refused = file.bind_iommufd(&context).unwrap_err();
    assert!(matches!(refused, BindIommufdError::GroupOpen { .. }));
    assert_eq!(refused.errno(), Errno::EBUSY, "Vt13.1");
    drop(group);
    file.bind_iommufd(&context).unwrap();
    let blocked = room.machine.open_group(BEHIND_PORT[1]).unwrap_err();
    assert_eq!(blocked.errno(), Errno::EBUSY, "Vt13.4");
    assert!(blocked.to_string().contains(BEHIND_PORT[0]), "{blocked}");
    let other = open(&room, BEHIND_PORT[1]);
    assert_eq!(other.bind_iommufd(&room.machine.open_iommufd("another")).unwrap_err().errno(), Errno::EPERM, "V38");
    other.bind_iommufd(&context).unwrap();
    drop((file, other));
    room.group(BEHIND_PORT[0]);
}

#[test]
fn vt13_5_a_kernel_driver_at_the_neighbour_is_named() {
    let room = Room::with(&[CARD[0]]);
    let file = open(&room, CARD[0]);
    let refused = file.bind_iommufd(&room.machine.open_iommufd("vmm")).unwrap_err();
    assert_eq!(refused.errno(), Errno::EPERM);
    assert_eq!(refused.to_string(), "group 3 is used by kernel drivers: 0000:00:04.1 (e1000)");
    room.group(CARD[0]);
}

#[test]
fn vt12_attach_again_replaces_without_a_moment_in_between() {
    let room = Room::with(&BEHIND_PORT);
    let context = room.machine.open_iommufd("vmm");
    let [a, b] = [(); 2].map(|()| space(&room, &context));
    let files = BEHIND_PORT.map(|device| open(&room, device).bind_iommufd(&context).unwrap());
    assert!(!room.reaches(BEHIND_PORT[0], 0));
    files[0].attach_iommufd_pt(a).unwrap();
    files[1].attach_iommufd_pt(a).unwrap();
    files[0].attach_iommufd_pt(b).unwrap();
    assert!(BEHIND_PORT.iter().all(|device| room.reaches(device, 0)));
    context.destroy(a).unwrap();
    files[0].detach_iommufd_pt();
    assert!(room.reaches(BEHIND_PORT[0], 0), "F68");
    files[1].detach_iommufd_pt();
    assert!(!room.reaches(BEHIND_PORT[1], 0));
    assert_eq!(room.process.pinned(), 0);
}

#[test]
fn v14_unbinding_waits_for_a_device_file() {
    let room = Room::with(&[NIC]);
    let (bound, idle) = (open(&room, NIC), open(&room, NIC));
    bound.bind_iommufd(&room.machine.open_iommufd("vmm")).unwrap();
    let mut unbind = room.unbind_blocked(NIC);
    assert_eq!(room.machine.open_device(NIC).unwrap_err().errno(), Errno::ENOENT, "V12");
    drop(bound);
    assert!(!is_done(&mut unbind), "V6: even one that was never bound");
    drop(idle);
    assert!(is_done(&mut unbind));
    room.machine.bind(NIC, "e1000e").unwrap();
}

#[test]
fn v40_an_iommufd_in_a_containers_place_claims_when_a_device_is_opened() {
    let room = Room::with(&BEHIND_PORT);
    let context = room.machine.open_iommufd("vmm");
    let group = room.group(BEHIND_PORT[0]);
    group.set_iommufd(&context).unwrap();
    assert_eq!((group.status(), room.ownership(BEHIND_PORT[0])), (Ok(GroupStatus::InContainer), Ownership::Idle));
    assert_eq!(group.set_iommufd(&context).unwrap_err().errno(), Errno::EINVAL, "Vt4.2");
    let one = group.device(BEHIND_PORT[0]).unwrap();
    assert_eq!(room.attached(BEHIND_PORT[0]), Attached::Own, "V40: attached to the address space for VFIO");
    let two = group.device(BEHIND_PORT[1]).unwrap();
    assert!(matches!(room.ownership(BEHIND_PORT[0]), Ownership::User { claims, .. } if claims.get() == 2), "V41");
    group.unset_container().unwrap();
    assert_eq!(one.info().regions, 9, "V22");
    drop(group);
    // V43: the group can be opened again while its devices are open.
    let again = room.group(BEHIND_PORT[0]);
    assert!(matches!(again.device(BEHIND_PORT[0]), Err(GetDeviceError::NoContainer { .. })));
    assert_eq!(again.set_container(&room.container()).unwrap_err().errno(), Errno::EPERM, "Vt13.7, V39");
    drop((one, two));
    assert_eq!(room.ownership(BEHIND_PORT[0]), Ownership::Idle);
}

#[test]
fn v42_viability_shows_when_a_device_is_opened() {
    let room = Room::with(&[CARD[0]]);
    let group = room.group(CARD[0]);
    group.set_iommufd(&room.machine.open_iommufd("vmm")).unwrap();
    let refused = group.device(CARD[0]).unwrap_err();
    assert_eq!(refused.errno(), Errno::EPERM);
    assert!(refused.to_string().contains("0000:00:04.1 (e1000)"), "{refused}");
    group.unset_container().unwrap();
}

#[test]
fn v55_a_hot_reset_needs_all_devices_that_it_resets() {
    let room = Room::with(&[BEHIND_PORT[0]]);
    room.free(BEHIND_PORT[1]);
    let (group, _container) = room.ready(BEHIND_PORT[0]);
    let device = group.device(BEHIND_PORT[0]).unwrap();
    let functions = device.hot_reset_info().unwrap().functions;
    let names: Vec<&str> = functions.iter().map(|function| &*function.device).collect();
    assert_eq!(names, BEHIND_PORT);
    let stranger = device.hot_reset(&[&group]).unwrap_err();
    assert_eq!(stranger.to_string(), "0000:01:00.1 would be reset as well, and is not registered with VFIO");
    room.give(BEHIND_PORT[1]);
    assert_eq!(device.hot_reset(&[]).unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(link_is_down(device.hot_reset(&[&group])), Ok(()), "V91: reset, but the link does not come back");
}

#[test]
fn v55_a_device_file_shows_its_context() {
    let room = Room::with(&BEHIND_PORT);
    let file = open(&room, BEHIND_PORT[0]);
    let bound = file.bind_iommufd(&room.machine.open_iommufd("vmm")).unwrap();
    assert_eq!(link_is_down(bound.hot_reset(&[])), Ok(()));
}

#[test]
fn v55_a_bound_file_names_no_groups() {
    let room = Room::with(&[BEHIND_PORT[0], BEHIND_PORT[1], NIC]);
    let group = room.group(NIC);
    let bound = open(&room, BEHIND_PORT[0]).bind_iommufd(&room.machine.open_iommufd("vmm")).unwrap();
    let refused = bound.hot_reset(&[&group]).unwrap_err();
    assert!(matches!(refused, HotResetError::WrongList { .. }));
    assert_eq!(refused.errno(), Errno::EINVAL);
}

#[test]
fn v6_access_outlives_the_file_that_it_came_from() {
    let room = Room::with(&[NIC]);
    let file = open(&room, NIC);
    let bound = file.bind_iommufd(&room.machine.open_iommufd("vmm")).unwrap();
    drop(file);
    let mut unbind = room.unbind_blocked(NIC);
    drop(bound);
    assert!(is_done(&mut unbind));
    assert_eq!(room.ownership(NIC), Ownership::Idle);
}

#[test]
fn vt11_a_device_that_is_open_through_its_group_is_not_bound() {
    let room = Room::with(&[NIC]);
    let context = room.machine.open_iommufd("vmm");
    let group = room.group(NIC);
    group.set_iommufd(&context).unwrap();
    let device = group.device(NIC).unwrap();
    drop(group);
    // V43: nothing of the group is open but the device.
    let file = open(&room, NIC);
    let refused = file.bind_iommufd(&context).unwrap_err();
    assert!(matches!(refused, BindIommufdError::Bound { .. }));
    assert_eq!(refused.errno(), Errno::EINVAL);
    drop(device);
    file.bind_iommufd(&context).unwrap();
}

/// The port above has a link that never says that it is active.
fn link_is_down(result: Result<(), HotResetError>) -> Result<(), Option<HotResetError>> {
    match result {
        Err(HotResetError::LinkDown { .. }) => Ok(()),
        other => Err(other.err()),
    }
}

#[test]
fn v58_device_files_are_numbered_from_0_on() {
    let room = Room::with(&[NIC, CARD[0]]);
    let numbers = || [NIC, CARD[0]].map(|device| open(&room, device).number());
    assert_eq!(numbers(), [0, 1]);
    room.free(NIC);
    room.give(NIC);
    assert_eq!(numbers(), [0, 1], "the lowest free one is next");
}

#[test]
fn v55_both_ways_into_a_context_show_whose_a_device_is() {
    // Two functions on one bus, each in a group of its own.
    let layout = "
        driver e1000
        00:01.0 root-port+acs>0a - 0
        0a:00.0 nic - 1
        0a:00.1 nic - 2";
    let [one, two] = ["0000:0a:00.0", "0000:0a:00.1"];
    let machine = Machine::builder(Snapshot::from_layout(layout).unwrap()).as_found().build().unwrap();
    for device in [one, two] {
        machine.bind(device, "vfio-pci").unwrap();
    }
    let context = machine.open_iommufd("vmm");
    let bound = machine.open_device(one).unwrap().bind_iommufd(&context).unwrap();
    let owners = || bound.hot_reset_info().unwrap().owners;
    assert_eq!(owners(), [AffectedOwner::Object(bound.iommufd_id()), AffectedOwner::NotOwned]);
    let group = machine.open_group(two).unwrap();
    group.set_iommufd(&context).unwrap();
    assert_eq!(owners()[1], AffectedOwner::NotOwned, "nothing is claimed yet");
    let opened = group.device(two).unwrap();
    assert!(matches!(owners()[1], AffectedOwner::Object(id) if id != bound.iommufd_id()));
    assert!(matches!(opened.hot_reset(&[]), Err(HotResetError::WrongList { .. })), "opened through its group");
    drop((opened, group));
    assert_eq!(owners()[1], AffectedOwner::NotOwned);
}
