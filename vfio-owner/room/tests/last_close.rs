//! The last close of a file, however it comes. Alone in its process: a child that another test starts has all descriptors until
//! it executes its program.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[expect(dead_code, reason = "other tests have the rest")]
#[path = "room/calls.rs"]
mod calls;
#[expect(dead_code, reason = "other tests have the rest")]
#[path = "room/opened.rs"]
mod opened;
#[expect(dead_code, reason = "other tests have the rest")]
#[path = "room/rig.rs"]
mod rig;

use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use calls::Mapping;
use opened::Opened;
use rig::{CARD, group_file, open, room, times};

/// A group's file is open once at most: whether it is held shows whether it can be opened.
fn is_held(group: &str) -> bool {
    match open(group) {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
            true
        }
    }
}

/// A way of opening the group and losing it.
type Way = fn(&str);

const WAYS: [(&str, Way); 11] = [
    ("close", by_close),
    ("close of all duplicates", by_the_close_of_all_duplicates),
    ("close by another thread", by_the_close_of_a_thread),
    ("unmapping", by_unmapping),
    ("end of a message", by_the_end_of_a_message),
    ("exit", by_exit),
    ("kill", by_kill),
    ("exit of what was executed", by_the_exit_of_what_was_executed),
    ("exec", by_exec),
    ("exit of a child", by_the_exit_of_a_child),
    ("racing closes", by_racing_closes),
];

/// Opens the group, loses it, and looks right afterwards, many times.
#[test]
fn the_last_close_is_exact() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    for (name, way) in WAYS {
        room.enter(|| {
            for turn in 0..times() {
                way(&group);
                assert!(!is_held(&group), "{name}, turn {turn}");
            }
        })
        .unwrap();
        room.check_empty().unwrap();
    }
}

fn by_close(group: &str) {
    let file = open(group).unwrap();
    assert!(is_held(group));
    drop(file);
}

fn by_the_close_of_all_duplicates(group: &str) {
    let file = open(group).unwrap();
    let copy = file.try_clone().unwrap();
    drop(file);
    assert!(is_held(group));
    drop(copy);
}

fn by_the_close_of_a_thread(group: &str) {
    let file = open(group).unwrap();
    thread::spawn(move || drop(file)).join().unwrap();
}

/// The group that a device came from is held by the device.
fn by_unmapping(group: &str) {
    let opened = Opened::through_group(group, CARD);
    let mapping = Mapping::of(&opened.device, 0x1000, 0).unwrap();
    drop(opened);
    assert!(is_held(group));
    drop(mapping);
}

/// A descriptor that nobody has received is held by the socket.
fn by_the_end_of_a_message(group: &str) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let file = open(group).unwrap();
    send(&ours, &file);
    drop(file);
    assert!(is_held(group));
    drop(ours);
    assert!(is_held(group));
    drop(theirs);
}

fn send(socket: &UnixStream, file: &File) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut buffer = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    assert!(buffer.push(SendAncillaryMessage::ScmRights(&files)));
    sendmsg(socket, &[std::io::IoSlice::new(&[0])], &mut buffer, SendFlags::empty()).unwrap();
}

/// Starts a shell that holds the group as descriptor 3 and does what it is told once it has said so.
fn holder(group: &str, script: &str) -> Child {
    let script = format!("exec 3<>{group} || exit 1; echo; {script}");
    let mut command = std::process::Command::new("sh");
    command.arg("-c").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child
}

fn go_on(child: &mut Child) {
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
}

fn by_exit(group: &str) {
    let mut child = holder(group, "read x");
    assert!(is_held(group));
    go_on(&mut child);
    assert!(child.wait().unwrap().success());
}

fn by_kill(group: &str) {
    let mut child = holder(group, "read x");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A program that is executed keeps what is not closed on exec.
fn by_the_exit_of_what_was_executed(group: &str) {
    let mut child = holder(group, "exec cat");
    go_on(&mut child);
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    assert!(is_held(group));
    assert!(child.wait_with_output().unwrap().status.success());
}

/// std opens files so that they are closed on exec.
fn by_exec(group: &str) {
    let file = open(group).unwrap();
    let mut child = std::process::Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    go_on(&mut child);
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    drop(file);
    assert!(!is_held(group));
    child.wait_with_output().unwrap();
}

/// A child that was forked holds what its parent has left.
fn by_the_exit_of_a_child(group: &str) {
    // In the background, a shell reads from elsewhere unless it is told what.
    let mut child = holder(group, "exec 4<&0; (read x <&4) & exec 3>&- 4<&-; wait");
    assert!(is_held(group));
    go_on(&mut child);
    assert!(child.wait_with_output().unwrap().status.success());
}

/// Several threads open and close the group: one has it at a time.
fn by_racing_closes(group: &str) {
    let inside = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..4 {
                    let Ok(file) = open(group) else { continue };
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(file);
                }
            });
        }
    });
}
