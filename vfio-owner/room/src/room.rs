//! Room: what tasks enter.

use std::convert::Infallible;
use std::error::Error;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fs, io};

use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use vfio_owner::iommu_core::device_model::sync::Mutex;
use vfio_owner::testbed::Machine;
use vfio_owner::testbed::vfs::Vfs;

use crate::command::Command;
use crate::error::RoomError;
use crate::eventfd::signal;
use crate::filter::{Architecture, Eventfds, program};
use crate::leftovers::Leftovers;
use crate::log::{Log, Refusal};
use crate::notify::{self, Listener};
use crate::service::{self, Request};
use crate::supervisor::Supervisor;
use crate::territory::Bounds;

/// A room: whoever enters it, and all whom they start, find a simulated machine where Linux would have its own.
///
/// Dropping it lets those who are inside stay: they are served until the last of them has gone.
#[derive(Debug)]
pub struct Room {
    log: Log,
    eventfds: Eventfds,
    requests: Option<Sender<Request>>,
    wake: Arc<OwnedFd>,
    service: Option<JoinHandle<()>>,
    /// Ends with the service. Locked by `drop` alone.
    ended: Mutex<Receiver<Infallible>>,
}

/// How long a room waits, when it is dropped, for its last tasks, which may just be ending.
const ENDING: Duration = Duration::from_millis(200);

impl Room {
    /// Makes a room with `machine` in it.
    ///
    /// # Errors
    /// Fails if the kernel has no seccomp user notification as of Linux 5.19, or what the room needs cannot be made.
    pub fn new(machine: &Arc<Machine>) -> Result<Self, RoomError> {
        Self::with_bounds(machine, Bounds::default())
    }

    /// Makes a room as [`new`](Self::new) does, whose tasks cannot change what lies in `directory` either.
    ///
    /// # Errors
    /// Fails as [`new`](Self::new) does, or if there is no such directory.
    pub fn keeping_out(machine: &Arc<Machine>, directory: impl Into<PathBuf>) -> Result<Self, RoomError> {
        let mut bounds = Bounds::default();
        // Paths are compared without links.
        bounds.guard(fs::canonicalize(directory.into()).map_err(RoomError::Setup)?);
        Self::with_bounds(machine, bounds)
    }

    fn with_bounds(machine: &Arc<Machine>, bounds: Bounds) -> Result<Self, RoomError> {
        if !notify::sizes_agree().map_err(RoomError::of_filter)? {
            return Err(RoomError::NoNotification);
        }
        let setup = |errno: rustix::io::Errno| RoomError::Setup(errno.into());
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(setup)?;
        let wake = Arc::new(wake);
        let (requests, received) = channel();
        let log = Log::default();
        let vfs = Vfs::new(machine.clone());
        let supervisor = Supervisor::new(vfs, bounds, log.clone(), wake.clone()).map_err(RoomError::Setup)?;
        let thread = thread::Builder::new().name("room".into());
        let (running, ended) = channel::<Infallible>();
        let served = wake.clone();
        let serve = move || {
            let _running = running;
            service::serve(supervisor, &received, served);
        };
        let service = thread.spawn(serve).map_err(RoomError::Setup)?;
        let eventfds = if can_fetch(&wake) { Eventfds::Fetched } else { Eventfds::Kept };
        let (requests, service) = (Some(requests), Some(service));
        Ok(Self { log, eventfds, requests, wake, service, ended: Mutex::new(ended) })
    }

    /// Runs `act` in the room, on a thread of its own, and returns what it returns. What it starts, threads and
    /// processes, is in the room as well. Panics if it panics, with its payload.
    ///
    /// # Errors
    /// Fails if the thread cannot be put under the filter. `act` was not called.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T, RoomError> {
        let program = program(Architecture::NATIVE, self.eventfds);
        let (outside, listener) = sync_channel(1);
        thread::scope(|scope| {
            let inside = thread::Builder::new().name(thread::current().name().unwrap_or("inside").into());
            let inside = inside.spawn_scoped(scope, move || go_through(&program, &outside).then(act));
            let inside = inside.map_err(RoomError::Setup)?;
            // The thread sends before it ends.
            let listener = listener.recv().map_err(|error| RoomError::Setup(io::Error::other(error)))??;
            self.ask(Request::Serve(listener));
            match inside.join() {
                Ok(result) => result.ok_or(RoomError::NoNotification),
                Err(payload) => resume_unwind(payload),
            }
        })
    }

    /// Returns the calls that the machine has refused since the room was made, in their order.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.log.refusals()
    }

    /// Has `observer` be called with the typed error of each call that is refused from now on. It is called by a thread that
    /// serves the room: it must not print, wait, or take a lock that somebody inside can hold.
    pub fn observe_refusals(&self, observer: impl Fn(&(dyn Error + 'static)) + Send + Sync + 'static) {
        self.log.observe(Arc::new(observer));
    }

    fn ask(&self, request: Request) {
        if let Some(requests) = &self.requests {
            // It hears until we have gone.
            let _ = requests.send(request);
            signal(&self.wake);
        }
    }

    /// Returns a command that runs `program` in the room.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command<'_> {
        Command::new(self, program.as_ref())
    }

    /// Checks that nothing of the room is held any more.
    ///
    /// # Errors
    /// Says which files are open, and who has them.
    pub fn check_empty(&self) -> Result<(), Leftovers> {
        let (reply, answer) = sync_channel(1);
        self.ask(Request::Held(reply));
        match answer.recv() {
            Ok(left) if !left.is_empty() => Err(left),
            // A service that has ended serves nobody.
            _ => Ok(()),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.requests = None;
        signal(&self.wake);
        // Joined, it leaves nothing. With tasks inside, it goes on alone.
        let ended = self.ended.lock().recv_timeout(ENDING) == Err(RecvTimeoutError::Disconnected);
        if let Some(service) = self.service.take().filter(|_| ended) {
            let _ = service.join();
        }
    }
}

/// Whether descriptors of other processes can be fetched: containers forbid it.
fn can_fetch(own: &OwnedFd) -> bool {
    let process = pidfd_open(getpid(), PidfdFlags::empty());
    process.and_then(|process| pidfd_getfd(process, own.as_raw_fd(), PidfdGetfdFlags::empty())).is_ok()
}

/// Puts the calling thread under the filter and hands out the listener. Returns whether it is.
///
/// Between the two it makes no call that is trapped: nobody would answer.
fn go_through(program: &[libc::sock_filter], outside: &SyncSender<Result<Listener, RoomError>>) -> bool {
    let installed = notify::install(program).or_else(|error| {
        // Without `CAP_SYS_ADMIN`, whoever is filtered must gain no rights.
        if error.raw_os_error() != Some(libc::EACCES) || rustix::thread::set_no_new_privs(true).is_err() {
            return Err(error);
        }
        notify::install(program)
    });
    let is_in = installed.is_ok();
    outside.send(installed.map_err(RoomError::of_filter)).is_ok() && is_in
}
