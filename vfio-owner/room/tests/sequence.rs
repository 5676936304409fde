//! Rooms one after the other leave nothing. Alone in its process: nobody else makes threads and files.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::sync::Arc;

use vfio_room::Room;
use vfio_room::vfio_owner::testbed::{Machine, pc};

fn count(directory: &str) -> usize {
    fs::read_dir(directory).unwrap().count()
}

/// Threads, and descriptors. The directory that is read is one of them.
fn counts() -> (usize, usize) {
    (count("/proc/self/task"), count("/proc/self/fd"))
}

#[test]
fn rooms_in_sequence_leave_nothing() {
    let rooms = std::env::var("ROOM_SEQUENCE").ok().and_then(|rooms| rooms.parse().ok()).unwrap_or(300);
    let machine = Arc::new(Machine::boot(&pc()));
    let before = counts();
    for _ in 0..rooms {
        let room = Room::new(&machine).unwrap();
        room.enter(|| fs::read_dir("/sys/bus/pci/devices").unwrap().count()).unwrap();
        assert!(room.command("true").status().unwrap().success());
        drop(room);
    }
    assert_eq!(counts(), before);
}
