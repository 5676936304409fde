//! Supervisor: the thread that answers the trapped calls of a room's tasks.
//!
//! It prints nothing, waits for nothing but calls, and takes no lock that a trapped task can hold: such a task waits for it.

use std::cell::OnceCell;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vfio_owner::testbed::vfs::{Vfs, Written};

use crate::answer::{Answer, Delayed, Trapped};
use crate::caller::Caller;
use crate::calls::Call;
use crate::eventfd::{Ear, Ears, KeptEventfds};
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

/// How often fault queues are looked after, and whether whoever waits for an answer is still there: nobody says so.
const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// What the room asks of its supervisor.
#[derive(Debug)]
pub(crate) enum Request {
    /// Serve one more filter.
    Serve(Listener),
    /// Say what is still open.
    Held(SyncSender<Leftovers>),
}

/// The state of the thread.
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
    listeners: Vec<Arc<Listener>>,
    waiting: Vec<Waiting>,
    /// Ends when the room has gone.
    requests: Receiver<Request>,
    /// Readable when there is a request, the room has gone, or an answer is due.
    wake: Arc<OwnedFd>,
}

/// A call whose answer comes later.
#[derive(Debug)]
struct Waiting {
    listener: Arc<Listener>,
    id: u64,
    answer: Delayed,
}

/// What is to be done.
#[derive(Default)]
struct Ready {
    /// A file was closed, or a fault queue is to be looked at.
    files: bool,
    wake: bool,
    /// Tasks have signalled eventfds.
    heard: Vec<Ear>,
    listeners: Vec<Arc<Listener>>,
}

impl Supervisor {
    pub(crate) fn new(
        vfs: Vfs,
        bounds: Bounds,
        log: Log,
        requests: Receiver<Request>,
        wake: Arc<OwnedFd>,
    ) -> std::io::Result<Self> {
        let (tree, files) = (Tree::new()?, Files::new()?);
        let processes = Processes::new(vfs.machine().memory().clone());
        let ears = Ears::new(wake.clone());
        let (working, eventfds) = (Inherited::default(), KeptEventfds::default());
        let (listeners, waiting) = (Vec::new(), Vec::new());
        Ok(Self {
            vfs,
            tree,
            files,
            working,
            processes,
            ears,
            eventfds,
            bounds,
            log,
            listeners,
            waiting,
            requests,
            wake,
        })
    }

    /// Answers calls until the room and the last of its tasks have gone.
    pub(crate) fn run(mut self) {
        // Its own umask, which is a process's otherwise. Where that is forbidden, files are made with both.
        if nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).is_ok() {
            rustix::process::umask(rustix::fs::Mode::empty());
        }
        let mut room = true;
        while room || !self.listeners.is_empty() {
            let ready = self.wait();
            if ready.files {
                self.files.drain();
            }
            if !self.waiting.is_empty() {
                self.answer_waiting();
            }
            ready.heard.iter().for_each(Ear::hear);
            for listener in ready.listeners {
                self.serve(&listener);
            }
            if ready.wake {
                let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
                room = room && self.hear();
            }
        }
    }

    /// Waits until something is to be done. Listeners without tasks go.
    fn wait(&mut self) -> Ready {
        let tended = self.files.has_fault_queues();
        let timeout = (!self.waiting.is_empty() || tended).then_some(&AGAIN);
        let ears = self.ears.all();
        let mut polled = vec![PollFd::new(&self.files, PollFlags::IN), PollFd::new(&*self.wake, PollFlags::IN)];
        polled.extend(ears.iter().map(|ear| PollFd::new(&*ear.eventfd, PollFlags::IN)));
        polled.extend(self.listeners.iter().map(|listener| PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)));
        if poll(&mut polled, timeout).is_err() {
            return Ready::default();
        }
        let mut found = polled.iter().map(PollFd::revents);
        let mut is_readable = || found.next().is_some_and(|found| found.contains(PollFlags::IN));
        let (files, wake) = (is_readable() || tended, is_readable());
        let heard = ears.iter().filter(|_| is_readable()).cloned().collect();
        let found: Vec<PollFlags> = found.collect();
        let mut listeners = Vec::new();
        let mut all = self.listeners.iter().zip(found);
        let is_left = |(listener, found): (&Arc<Listener>, PollFlags)| {
            if found.contains(PollFlags::IN) {
                listeners.push(listener.clone());
            }
            (found.contains(PollFlags::IN) || !found.contains(PollFlags::HUP)).then(|| listener.clone())
        };
        self.listeners = all.by_ref().filter_map(is_left).collect();
        Ready { files, wake, heard, listeners }
    }

    /// Does what the room asks. Returns whether it is still there.
    fn hear(&mut self) -> bool {
        loop {
            match self.requests.try_recv() {
                Ok(Request::Serve(listener)) => self.listeners.push(Arc::new(listener)),
                Ok(Request::Held(reply)) => {
                    self.files.drain();
                    self.answer_waiting();
                    let left = Leftovers { files: self.files.held(), waiting: self.waiting.len() };
                    // Whoever asked may have gone.
                    let _ = reply.send(left);
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Returns the caller of a call, as the machine asks for it.
    pub(crate) fn caller(&self, task: Task) -> Caller<'_> {
        let Self { files, processes, ears, eventfds, log, .. } = self;
        Caller { task, files, processes, ears, eventfds, log, memory: OnceCell::new() }
    }

    /// Answers the next call.
    fn serve(&mut self, listener: &Arc<Listener>) {
        // The caller may have been killed.
        let Ok(call) = listener.receive() else { return };
        // After receiving: what the caller closed before is closed.
        self.files.drain();
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
            let _ = rustix::io::write(&wake, &1_u64.to_ne_bytes());
        });
        self.waiting.push(waiting);
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
