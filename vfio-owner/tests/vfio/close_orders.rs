//! Table Vt10: whatever is closed first, the end is the same, and on the way nothing is given up too early.

use vfio_owner::iommu_core::Ownership;

use crate::room::{NIC, PAGE, Room};

/// What is open of one attachment.
struct Files {
    group: Option<vfio_owner::GroupFile>,
    container: Option<vfio_owner::Container>,
    device: Option<vfio_owner::OpenDevice>,
}

#[test]
fn vt10_every_order_of_closing_ends_the_same() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let room = Room::with(&[NIC]);
        let (group, container) = room.ready(NIC);
        room.map(&container, 0, PAGE);
        let device = group.device(NIC).unwrap();
        let mut files = Files { group: Some(group), container: Some(container), device: Some(device) };
        for what in order {
            assert!(room.reaches(NIC, 0), "{order:?}: given up before {what}");
            match what {
                0 => drop(files.group.take()),
                1 => drop(files.container.take()),
                _ => drop(files.device.take()),
            }
            // V8: the container lives on through the group, V7: the group's file through the device.
            if files.group.is_none() && files.device.is_none() {
                break;
            }
        }
        assert_eq!(room.ownership(NIC), Ownership::Idle, "{order:?}");
        assert!(!room.reaches(NIC, 0), "{order:?}");
        assert_eq!(room.process.pinned(), 0, "{order:?}");
        room.free(NIC);
        room.machine.bind(NIC, "e1000e").unwrap();
    }
}

#[test]
fn v7_a_device_keeps_the_file_of_its_group_open() {
    let room = Room::with(&[NIC]);
    let (group, _container) = room.ready(NIC);
    let one = group.device(NIC).unwrap();
    let two = group.device(NIC).unwrap();
    drop(group);
    drop(one);
    assert!(room.machine.open_group(NIC).is_err());
    drop(two);
    assert_eq!(room.ownership(NIC), Ownership::Idle);
    room.group(NIC);
}
