//! Many rooms.

use std::fs;
use std::thread;

use vfio_room::Room;

use crate::rig::{CARD, group_file, machine, only_in_a_room, open, open_soon, until_empty};

#[test]
fn a_hundred_rooms_at_a_time() {
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let machine = machine();
                let room = Room::new(&machine).unwrap();
                let group = group_file(&machine, CARD);
                room.enter(|| {
                    only_in_a_room();
                    let file = open(&group).unwrap();
                    drop(file);
                    fs::write(format!("/sys/bus/pci/devices/{CARD}/driver/unbind"), CARD).unwrap();
                })
                .unwrap();
                assert_eq!(machine.driver(CARD), None);
                until_empty(&room);
            });
        }
    });
}

#[test]
fn rooms_on_one_machine_contend() {
    let machine = machine();
    let (one, two) = (Room::new(&machine).unwrap(), Room::new(&machine).unwrap());
    let group = group_file(&machine, CARD);
    let file = one.enter(|| open(&group).unwrap()).unwrap();
    let refused = two.enter(|| open(&group).unwrap_err()).unwrap();
    assert_eq!(refused.raw_os_error(), Some(libc::EBUSY));
    assert!(!two.refusals().is_empty());
    let left = one.check_empty().unwrap_err();
    assert!(left.files[0].holders.contains(&std::process::id()));
    drop(file);
    until_empty(&one);
    drop(two.enter(|| open_soon(&group)).unwrap());
}

/// Rooms on one machine see what the others set, even what nothing depends on.
#[test]
fn rooms_on_one_machine_share_settings() {
    let machine = machine();
    let (one, two) = (Room::new(&machine).unwrap(), Room::new(&machine).unwrap());
    let control = format!("/sys/bus/pci/devices/{CARD}/power/control");
    one.enter(|| {
        only_in_a_room();
        fs::write(&control, "on").unwrap();
    })
    .unwrap();
    assert_eq!(two.enter(|| fs::read_to_string(&control)).unwrap().unwrap(), "on\n");
}
