//! Answers that come later.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

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
