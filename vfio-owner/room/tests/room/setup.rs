//! Rooms that are made, entered and left; or not.

use std::fs;
use std::path::Path;
use std::thread;

use vfio_room::{Room, RoomError};

use crate::calls::filter;
use crate::rig::{MARK, machine, room};

#[test]
fn the_result_comes_out() {
    assert_eq!(room().0.enter(|| 7).unwrap(), 7);
}

#[test]
#[should_panic(expected = "inside")]
fn a_panic_comes_out() {
    let _ = room().0.enter(|| panic!("inside"));
}

#[test]
fn only_inside_is_the_machine_seen() {
    let (room, _) = room();
    assert!(!Path::new(MARK).exists());
    assert_eq!(room.enter(|| fs::read_to_string(MARK)).unwrap().unwrap(), "1\n");
    assert!(!Path::new(MARK).exists());
}

#[test]
fn a_second_listener_is_refused() {
    let (room, _) = room();
    let second = room.enter(|| room.enter(|| unreachable!("entered")));
    assert!(matches!(second, Ok(Err(RoomError::SecondListener))), "{second:?}");
}

/// Answers of `seccomp` in a sandbox, and on a kernel without it.
#[test]
fn what_forbids_a_room_is_said_before_anything_runs() {
    let enter = |errno| {
        let room = room().0;
        let refused = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                filter(libc::SYS_seccomp, errno);
                room.enter(|| unreachable!("entered"))
            });
            inside.join().unwrap()
        });
        refused.unwrap_err()
    };
    assert!(matches!(enter(libc::EPERM), RoomError::Forbidden(_)));
    assert!(matches!(enter(libc::ENOSYS), RoomError::NoNotification));
    assert!(matches!(enter(libc::EINVAL), RoomError::NoNotification));
    let new = thread::spawn(|| {
        filter(libc::SYS_seccomp, libc::ENOSYS);
        Room::new(&machine()).unwrap_err()
    });
    assert!(matches!(new.join().unwrap(), RoomError::NoNotification));
}

#[test]
fn a_room_is_below_other_filters() {
    let (room, _) = room();
    let seen = thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // A call that nobody makes.
            filter(libc::SYS_acct, libc::EPERM);
            room.enter(|| Path::new(MARK).exists())
        });
        inside.join().unwrap()
    });
    assert!(seen.unwrap());
}

#[test]
fn what_passes_by_the_filter_is_refused() {
    let (room, _) = room();
    let refused = |number, errno| {
        let call = || crate::calls::call(number, &[0; 6]);
        assert_eq!(room.enter(call).unwrap(), Err(errno), "{number}");
    };
    refused(libc::SYS_io_uring_setup, libc::ENOSYS);
    refused(libc::SYS_io_uring_enter, libc::ENOSYS);
    refused(libc::SYS_open_by_handle_at, libc::EPERM);
    refused(libc::SYS_mount, libc::EPERM);
    refused(libc::SYS_chroot, libc::EPERM);
    refused(libc::SYS_finit_module, libc::EPERM);
    // What a newer kernel may have, and x32.
    refused(0x1000, libc::ENOSYS);
    refused(0x4000_0002, libc::ENOSYS);
}
