//! Service: the threads of a room. Each listener has one, which receives calls and answers them; one more looks after all else.
//!
//! They print nothing, wait for nothing but calls and each other, and take no lock that a trapped task can hold: such a task waits
//! for them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::thread::{Builder, Scope, ScopedJoinHandle, scope};

use nix::sys::inotify::Inotify;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vfio_owner::iommu_core::device_model::sync::{LockClass, Mutex};

use crate::eventfd::{Ear, signal};
use crate::leftovers::Leftovers;
use crate::notify::Listener;
use crate::supervisor::Supervisor;

/// Outside all locks of the machine.
const SUPERVISOR: LockClass = LockClass::new("supervisor of a room", 10);

/// How often fault queues are looked after, and whether whoever waits for an answer is still there: nobody says so.
const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// What the room asks of its service.
#[derive(Debug)]
pub(crate) enum Request {
    /// Serve one more filter.
    Serve(Listener),
    /// Say what is still open.
    Held(SyncSender<Leftovers>),
}

/// What the threads of a room share.
#[derive(Debug)]
struct Service {
    supervisor: Mutex<Supervisor>,
    /// Readable when a file was closed.
    closed: Arc<Inotify>,
    wake: Arc<OwnedFd>,
    /// How many listeners have tasks.
    listeners: AtomicUsize,
}

/// Serves until the room has gone, which ends `requests`, and the last of its tasks.
pub(crate) fn serve(supervisor: Supervisor, requests: &Receiver<Request>, wake: Arc<OwnedFd>) {
    // Its own umask, which is a process's otherwise. Where that is forbidden, files are made with both.
    if nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).is_ok() {
        rustix::process::umask(rustix::fs::Mode::empty());
    }
    let (closed, listeners) = (supervisor.files.closed(), AtomicUsize::new(0));
    let service = Service { supervisor: Mutex::of(SUPERVISOR, supervisor), closed, wake, listeners };
    scope(|threads| {
        let (mut room, mut attending) = (true, Vec::new());
        while room || service.listeners.load(Ordering::Acquire) > 0 {
            let (heard, wake) = service.wait();
            service.supervisor.lock().look_after();
            heard.iter().for_each(Ear::hear);
            if wake {
                let _ = rustix::io::read(&service.wake, &mut [0; 8]);
                room = room && service.hear(requests, threads, &mut attending);
                join(attending.extract_if(.., |thread| thread.is_finished()));
            }
        }
        join(attending);
    });
}

impl Service {
    /// Waits until something is to be looked after. Returns the eventfds that tasks have signalled, and whether there may be
    /// requests.
    fn wait(&self) -> (Vec<Ear>, bool) {
        let (ears, timeout) = {
            let supervisor = self.supervisor.lock();
            (supervisor.ears(), supervisor.is_tending().then_some(&AGAIN))
        };
        let mut polled = vec![PollFd::new(&self.closed, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
        polled.extend(ears.iter().map(|ear| PollFd::new(&*ear.eventfd, PollFlags::IN)));
        if poll(&mut polled, timeout).is_err() {
            return (Vec::new(), false);
        }
        let mut found = polled.iter().map(|polled| polled.revents().contains(PollFlags::IN)).skip(1);
        let wake = found.next() == Some(true);
        let heard = found.zip(&ears).filter(|(readable, _)| *readable).map(|(_, ear)| ear.clone()).collect();
        (heard, wake)
    }

    /// Does what the room asks. Returns whether it is still there.
    fn hear<'scope>(
        &'scope self,
        requests: &Receiver<Request>,
        threads: &'scope Scope<'scope, '_>,
        attending: &mut Vec<ScopedJoinHandle<'scope, ()>>,
    ) -> bool {
        loop {
            match requests.try_recv() {
                Ok(Request::Serve(listener)) => {
                    // If there is no thread, its tasks' calls fail: without a listener, the kernel says ENOSYS.
                    attending.extend(self.attend(listener, threads));
                }
                Ok(Request::Held(reply)) => {
                    // Whoever asked may have gone.
                    let _ = reply.send(self.supervisor.lock().held());
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Has a thread answer the calls of a listener's tasks.
    fn attend<'scope>(
        &'scope self,
        listener: Listener,
        threads: &'scope Scope<'scope, '_>,
    ) -> io::Result<ScopedJoinHandle<'scope, ()>> {
        let attending = Attending::new(self);
        let attend = move || {
            let listener = Arc::new(listener);
            let receiving_ends = receiving_ends();
            while let Some(call) = next_call(&listener, receiving_ends) {
                attending.0.supervisor.lock().serve(&listener, &call);
            }
        };
        Builder::new().name("room".into()).spawn_scoped(threads, attend)
    }
}

/// Waits until threads have gone for good, with all that they have.
fn join<'scope>(threads: impl IntoIterator<Item = ScopedJoinHandle<'scope, ()>>) {
    for thread in threads {
        // Its panic has been printed. Its listener has gone: nobody waits for it.
        let _ = thread.join();
    }
}

/// A listener that has tasks. Dropping it says that they have gone.
struct Attending<'a>(&'a Service);

impl<'a> Attending<'a> {
    fn new(service: &'a Service) -> Self {
        service.listeners.fetch_add(1, Ordering::Relaxed);
        Self(service)
    }
}

impl Drop for Attending<'_> {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::Release);
        signal(&self.0.wake);
    }
}

/// Waits for the next call. Returns `None` once the last task has gone.
fn next_call(listener: &Listener, receiving_ends: ReceivingEnds) -> Option<libc::seccomp_notif> {
    loop {
        if receiving_ends == ReceivingEnds::Never && !has_tasks(listener, None) {
            return None;
        }
        match listener.receive() {
            Ok(call) => return Some(call),
            // The caller was killed before, or that was the last.
            Err(_) if has_tasks(listener, Some(&Timespec::default())) => {}
            Err(_) => return None,
        }
    }
}

/// Whether tasks are left, or a call of theirs; waits so long for a call, or for the last to go.
fn has_tasks(listener: &Listener, timeout: Option<&Timespec>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
    let _ = poll(&mut polled, timeout);
    let [polled] = polled;
    polled.revents().contains(PollFlags::IN) || !polled.revents().contains(PollFlags::HUP)
}

/// Whether whoever waits to receive a call is told when the last task goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ReceivingEnds {
    WithTheLastTask,
    Never,
}

/// What this kernel does: Linux tells since 6.11.
fn receiving_ends() -> ReceivingEnds {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (6, 11) { ReceivingEnds::WithTheLastTask } else { ReceivingEnds::Never }
}

#[cfg(test)]
mod tests {
    use std::env::current_dir;
    use std::sync::mpsc::channel;
    use std::thread::spawn;

    use super::*;
    use crate::filter::{Architecture, Eventfds, program};
    use crate::notify::install;

    #[test]
    fn calls_are_received_until_the_last_task_has_gone() {
        for ends in [ReceivingEnds::Never, receiving_ends()] {
            let (outside, listener) = channel();
            let inside = spawn(move || {
                rustix::thread::set_no_new_privs(true).unwrap();
                outside.send(install(&program(Architecture::NATIVE, Eventfds::Fetched)).unwrap()).unwrap();
                current_dir().unwrap_err()
            });
            let listener = listener.recv().unwrap();
            let call = next_call(&listener, ends).unwrap();
            let answer = libc::seccomp_notif_resp { id: call.id, val: 0, error: -libc::ENOENT, flags: 0 };
            listener.send(answer).unwrap();
            assert!(next_call(&listener, ends).is_none(), "{ends:?}");
            assert_eq!(inside.join().unwrap().raw_os_error(), Some(libc::ENOENT));
        }
    }
}
