//! Answers that come later.

use std::fs::{self, OpenOptions};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::calls::{arg, call};
use crate::opened::Opened;
use crate::rig::{CARD, group_file, only_in_a_room, open, room, until_empty};

#[test]
fn an_unbind_is_answered_when_the_user_has_gone() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    let started = AtomicBool::new(false);
    room.enter(|| {
        only_in_a_room();
        let device = Opened::through_group(&group, CARD);
        thread::scope(|scope| {
            let unbind = scope.spawn(|| {
                started.store(true, Ordering::SeqCst);
                fs::write(format!("/sys/bus/pci/devices/{CARD}/driver/unbind"), CARD)
            });
            while room.check_empty().unwrap_err().waiting == 0 {
                thread::yield_now();
            }
            assert!(!unbind.is_finished());
            drop(device);
            unbind.join().unwrap().unwrap();
        });
        assert_eq!(machine.driver(CARD), None);
        assert!(open(&group).is_err());
    })
    .unwrap();
    until_empty(&room);
}

#[test]
fn a_waiter_that_is_killed_is_forgotten() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    let device = room.enter(|| Opened::through_group(&group, CARD)).unwrap();
    let script = format!("test -e {} && echo {CARD} > /sys/bus/pci/devices/{CARD}/driver/unbind", crate::rig::MARK);
    let mut waiter = room.command("sh").arg("-c").arg(&script).spawn().unwrap();
    while room.check_empty().unwrap_err().waiting == 0 {
        thread::yield_now();
    }
    waiter.kill().unwrap();
    waiter.wait().unwrap();
    while room.check_empty().unwrap_err().waiting > 0 {
        thread::yield_now();
    }
    drop(device);
    until_empty(&room);
}

/// A pipe may be filled by a task that waits for its answer.
#[test]
fn nothing_is_sent_to_an_attribute_from_a_pipe() {
    let (room, _machine) = room();
    let attribute = format!("/sys/bus/pci/devices/{CARD}/driver_override");
    room.enter(|| {
        only_in_a_room();
        let file = OpenOptions::new().write(true).open(&attribute).unwrap();
        let (pipe, into) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&into, b"none").unwrap();
        let sent = call(libc::SYS_sendfile, &[arg(file.as_raw_fd()), arg(pipe.as_raw_fd()), 0, 4]);
        assert_eq!(sent, Err(libc::EINVAL));
        assert_eq!(fs::read_to_string(&attribute).unwrap(), "(null)\n");
    })
    .unwrap();
}
