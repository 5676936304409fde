//! Rooms one after the other leave nothing. Alone in its process: nobody else makes threads, files and memory.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use vfio_room::Room;
use vfio_room::vfio_owner::iommu_core::device_model::sync::{Condvar, Mutex};
use vfio_room::vfio_owner::testbed::{Machine, pc};

/// Counts what is allocated and not freed.
struct Counting;

static PIECES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PIECES.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        PIECES.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: as promised to us.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(directory: &str) -> usize {
    fs::read_dir(directory).unwrap().count()
}

/// Threads, descriptors, pieces of memory. The directory that is read is one of the descriptors.
fn counts() -> (usize, usize, usize) {
    // What checks the lock order keeps what it has seen.
    let pieces = if cfg!(lock_order) { 0 } else { PIECES.load(Ordering::Relaxed) };
    (count("/proc/self/task"), count("/proc/self/fd"), pieces)
}

fn use_a_room(machine: &Arc<Machine>) {
    let room = Room::new(machine).unwrap();
    room.enter(|| fs::read_dir("/sys/bus/pci/devices").unwrap().count()).unwrap();
    assert!(room.command("true").status().unwrap().success());
    room.check_empty().unwrap();
}

#[test]
fn rooms_in_sequence_leave_nothing() {
    let rooms = std::env::var("ROOM_SEQUENCE").ok().and_then(|rooms| rooms.parse().ok()).unwrap_or(300);
    let directory = tempfile::tempdir().unwrap();
    tempfile::env::override_temp_dir(directory.path()).unwrap();
    let machine = Arc::new(Machine::boot(&pc()));
    // What is made once, by a room, and by the first thread of all that waits for a lock.
    use_a_room(&machine);
    let lock = Mutex::new(());
    drop(Condvar::new().wait_for(lock.lock(), Duration::from_millis(1)));
    let before = counts();
    for _ in 0..rooms {
        use_a_room(&machine);
    }
    assert_eq!(counts(), before);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
