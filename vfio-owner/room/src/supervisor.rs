//! Supervisor: what a room knows, and how it answers the trapped calls of its tasks.

use std::cell::OnceCell;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use libc::seccomp_notif;
use rustix::io::Errno;
use vfio_owner::testbed::vfs::{Vfs, Written};

use crate::answer::{Answer, Delayed, Trapped};
use crate::caller::Caller;
use crate::calls::Call;
use crate::eventfd::{Ear, Ears, KeptEventfds, signal};
use crate::files::Files;
use crate::filter::Architecture;
use crate::inherited::Inherited;
use crate::leftovers::Leftovers;
use crate::log::Log;
use crate::memory::Processes;
use crate::notify::Listener;
use crate::task::Task;
use crate::territory::Bounds;
use crate::tree::Tree;

/// The state that the threads of a room share.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) vfs: Vfs,
    pub(crate) tree: Tree,
    pub(crate) files: Files,
    /// Working directories among the room's files, which the kernel does not know; `None` after the kernel's own.
    pub(crate) working: Inherited<Option<PathBuf>>,
    pub(crate) processes: Processes,
    ears: Ears,
    pub(crate) eventfds: KeptEventfds,
    pub(crate) bounds: Bounds,
    pub(crate) log: Log,
    waiting: Vec<Waiting>,
    /// Readable when there is a request, the room has gone, an answer is due, or there is something to look after.
    wake: Arc<OwnedFd>,
}

/// A call whose answer comes later.
#[derive(Debug)]
struct Waiting {
    listener: Arc<Listener>,
    id: u64,
    answer: Delayed,
}

impl Supervisor {
    pub(crate) fn new(vfs: Vfs, bounds: Bounds, log: Log, wake: Arc<OwnedFd>) -> std::io::Result<Self> {
        let (tree, files) = (Tree::new()?, Files::new()?);
        let processes = Processes::new(vfs.machine().memory().clone());
        let ears = Ears::new(wake.clone());
        let (working, eventfds, waiting) = (Inherited::default(), KeptEventfds::default(), Vec::new());
        Ok(Self { vfs, tree, files, working, processes, ears, eventfds, bounds, log, waiting, wake })
    }

    /// Whether something must be looked after of which nobody says when it happens: a fault, or the end of whoever waits for an
    /// answer.
    pub(crate) fn is_tending(&self) -> bool {
        !self.waiting.is_empty() || self.files.has_fault_queues()
    }

    /// Returns the eventfds that are listened to.
    pub(crate) fn ears(&self) -> Vec<Ear> {
        self.ears.all()
    }

    /// Closes the files that nobody has any more, and answers whoever has waited for that.
    pub(crate) fn look_after(&mut self) {
        self.files.drain();
        if !self.waiting.is_empty() {
            self.answer_waiting();
        }
    }

    /// Returns what is still held.
    pub(crate) fn held(&mut self) -> Leftovers {
        self.look_after();
        Leftovers { files: self.files.held(), waiting: self.waiting.len() }
    }

    /// Has the thread that looks after everything begin anew.
    pub(crate) fn wake(&self) {
        signal(&self.wake);
    }

    /// Returns the caller of a call, as the machine asks for it.
    pub(crate) fn caller<'a>(&'a self, trapped: &'a Trapped<'a>) -> Caller<'a> {
        let Self { files, processes, ears, eventfds, log, .. } = self;
        Caller { trapped, files, processes, ears, eventfds, log, memory: OnceCell::new() }
    }

    /// Answers a call that has been received.
    pub(crate) fn serve(&mut self, listener: &Arc<Listener>, call: &seccomp_notif) {
        // After receiving: what the caller closed before is closed.
        self.look_after();
        let number = call.data.nr.cast_unsigned();
        let answer = match Call::of(Architecture::NATIVE, number) {
            Some(kind) => {
                let trapped =
                    Trapped { id: call.id, listener, task: Task::new(call.pid), call: kind, args: call.data.args };
                self.answer(&trapped)
            }
            None => Err(Errno::NOSYS),
        };
        match answer {
            Ok(Answer::Value(value)) => reply(listener, call.id, Ok(value)),
            Ok(Answer::Continue) => pass_on(listener, call.id),
            Ok(Answer::File(file, flags)) => {
                if let Err(error) = listener.send_file(call.id, file.as_fd(), flags) {
                    reply(listener, call.id, Err(crate::task::errno(&error)));
                }
            }
            Ok(Answer::Later(answer)) => {
                self.wait_for(Waiting { listener: listener.clone(), id: call.id, answer });
            }
            Err(error) => reply(listener, call.id, Err(error)),
        }
    }

    /// Has an answer wait until it is due.
    fn wait_for(&mut self, waiting: Waiting) {
        let wake = self.wake.clone();
        waiting.answer.later.when_due(move || {
            signal(&wake);
        });
        self.waiting.push(waiting);
        self.wake();
    }

    /// Tries the answers that wait again, in the order in which they were asked for.
    fn answer_waiting(&mut self) {
        for Waiting { listener, id, answer } in mem::take(&mut self.waiting) {
            if !listener.waits(id) {
                continue;
            }
            let Delayed { later, task, file } = answer;
            let before = later.device().clone();
            match later.try_finish() {
                Ok(Written::Bytes(bytes)) => reply(&listener, id, Ok(i64::try_from(bytes).unwrap_or(i64::MAX))),
                Ok(Written::Later(later)) => {
                    let is_next = *later.device() != before;
                    let waiting = Waiting { listener, id, answer: Delayed { later, task, file } };
                    // When the next is due, nobody has asked yet.
                    if is_next { self.wait_for(waiting) } else { self.waiting.push(waiting) }
                }
                Err(error) => {
                    self.log.reason(&error);
                    let errno = self.refused(task, Call::Write.name(), &file, error.errno());
                    reply(&listener, id, Err(errno));
                }
            }
        }
    }
}

fn reply(listener: &Listener, id: u64, answer: Result<i64, Errno>) {
    let (val, error) = match answer {
        Ok(value) => (value, 0),
        Err(error) => (0, -error.raw_os_error()),
    };
    // The caller may have been killed meanwhile.
    let _ = listener.send(libc::seccomp_notif_resp { id, val, error, flags: 0 });
}

/// Lets the kernel do the call.
fn pass_on(listener: &Listener, id: u64) {
    // `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
    let _ = listener.send(libc::seccomp_notif_resp { id, val: 0, error: 0, flags: 1 });
}
