//! Signals while calls wait for their answers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use nix::sys::pthread::{pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::rig::{CARD, group_file, open_soon, room, times, until_empty};

extern "C" fn ignore(_: libc::c_int) {}

/// Is stored when this is dropped.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Each call is made once: a group that was opened twice, unseen by the client, would be busy for good.
#[test]
fn a_storm_of_signals_loses_and_doubles_no_call() {
    // Without `SA_RESTART`: what is interrupted says so.
    let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    let done = AtomicBool::new(false);
    room.enter(|| {
        thread::scope(|scope| {
            let (done, group) = (&done, &group);
            let ((number, target), (bye, heard)) = (channel(), channel::<()>());
            scope.spawn(move || {
                number.send(pthread_self()).unwrap();
                {
                    // Also if it panics.
                    let _done = Done(done);
                    for _ in 0..10 * times() {
                        drop(open_soon(group));
                    }
                }
                let _ = heard.recv();
            });
            let target = target.recv().unwrap();
            while !done.load(Ordering::SeqCst) {
                // The thread ends when it hears that we do.
                let _ = pthread_kill(target, Signal::SIGUSR1);
                // A call that is interrupted before the supervisor has it begins anew: some must get through.
                thread::sleep(Duration::from_micros(50));
            }
            let _ = bye.send(());
        });
    })
    .unwrap();
    until_empty(&room);
}
