//! What most tests need.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;

use vfio_room::Room;
use vfio_room::vfio_owner::testbed::{Machine, pc};

/// A card that is alone in its group.
pub(crate) const CARD: &str = "0000:00:03.0";
/// A function of a card without ACS: it shares its group with [`SIBLING`].
pub(crate) const FUNCTION: &str = "0000:00:04.0";
pub(crate) const SIBLING: &str = "0000:00:04.1";

/// A file that only rooms have.
pub(crate) const MARK: &str = "/sys/kernel/vfio_room";

/// A machine whose [`CARD`] is bound to vfio-pci, and a room with it.
pub(crate) fn room() -> (Room, Arc<Machine>) {
    let machine = machine();
    (Room::new(&machine).unwrap(), machine)
}

pub(crate) fn machine() -> Arc<Machine> {
    let machine = Arc::new(Machine::boot(&pc()));
    hand_over(&machine, CARD);
    machine
}

/// Binds a device to vfio-pci.
pub(crate) fn hand_over(machine: &Machine, device: &str) {
    if machine.driver(device).is_some() {
        machine.unbind(device).unwrap().wait();
    }
    machine.bind(device, "vfio-pci").unwrap();
}

/// The file of the group of a device.
pub(crate) fn group_file(machine: &Machine, device: &str) -> String {
    format!("/dev/vfio/{}", machine.group(device).unwrap().id())
}

/// Opens a file for reading and writing.
pub(crate) fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Opens a group again, as [`soon`] as it can be.
pub(crate) fn open_soon(group: &str) -> File {
    soon(|| open(group))
}

/// Tries again until it succeeds: what was closed is busy as long as a child that another test has just forked has it.
pub(crate) fn soon<T, E: Debug>(attempt: impl Fn() -> Result<T, E>) -> T {
    for _ in 0..10_000 {
        if let Ok(done) = attempt() {
            return done;
        }
        std::thread::yield_now();
    }
    attempt().unwrap()
}

/// Waits until nothing of the room is held: a child that another test has just forked has all descriptors until it executes its
/// program.
pub(crate) fn until_empty(room: &Room) {
    while room.check_empty().is_err() {
        std::thread::yield_now();
    }
}

/// Stops what binds or unbinds by a path, unless it is in a room: outside, the addresses are real.
pub(crate) fn only_in_a_room() {
    assert!(Path::new(MARK).exists(), "not in a room");
}

/// How often what is to be exact is tried.
pub(crate) fn times() -> usize {
    std::env::var("ROOM_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(100)
}
