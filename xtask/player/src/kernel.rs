//! The kernel that this program runs on: a room's, a guest's, or a machine's.

mod calls;

use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::ProtFlags;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::uio::{RemoteIoVec, pread, process_vm_readv, process_vm_writev, pwrite};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, close, dup, ftruncate, getpid, gettid, read, write};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::language::MemoryKind;
use crate::system::{Access, BUFFER_BYTES, Fd, NOTHING_BYTES, SCRATCH_BYTES, System};

/// Real system calls, of this process.
#[derive(Debug)]
pub struct Kernel {
    buffer: u64,
    scratch: u64,
    /// Keeps numbers below [`FIRST`] from being given out.
    _below: Vec<OwnedFd>,
}

/// The first number that a scenario's files get.
const FIRST: Fd = 4;

/// A child that keeps files open; dropping it kills it.
#[derive(Debug)]
pub struct Child(Pid);

impl Child {
    fn end(&self) -> Result<(), Errno> {
        kill(self.0, Signal::SIGKILL)?;
        waitpid(self.0, None).map(drop)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Unless it has ended before.
        let _ = self.end();
    }
}

/// A write of another thread.
#[derive(Debug)]
pub struct Write {
    result: Receiver<Result<usize, Errno>>,
    /// The thread, as `/proc` names it.
    thread: String,
}

/// How long a thread sleeps in its call before it counts as waiting for a user.
const ASLEEP: Duration = Duration::from_millis(100);

/// How often it is looked at.
const GLANCE: Duration = Duration::from_millis(5);

impl Kernel {
    /// Prepares the memory of this process.
    ///
    /// # Errors
    /// Fails if there is not so much.
    pub fn new() -> Result<Self, Errno> {
        let around = calls::map_anywhere(BUFFER_BYTES + 2 * NOTHING_BYTES)?;
        let buffer = around + NOTHING_BYTES;
        calls::unmap(around, NOTHING_BYTES)?;
        calls::unmap(buffer + BUFFER_BYTES, NOTHING_BYTES)?;
        let mut below = Vec::new();
        loop {
            let next = memfd_create("below", MFdFlags::MFD_CLOEXEC)?;
            let number = std::os::fd::AsRawFd::as_raw_fd(&next);
            if number >= FIRST {
                break;
            }
            below.push(next);
        }
        Ok(Self { buffer, scratch: calls::map_anywhere(SCRATCH_BYTES)?, _below: below })
    }
}

impl System for Kernel {
    type Child = Child;
    type Write = Write;

    fn open(&mut self, path: &str, access: Access) -> Result<Fd, Errno> {
        let access = match access {
            Access::Read => OFlag::O_RDONLY,
            Access::Write => OFlag::O_WRONLY,
            Access::ReadWrite => OFlag::O_RDWR,
        };
        Ok(nix::fcntl::open(path, access | OFlag::O_CLOEXEC, Mode::empty())?.into_raw_fd())
    }

    fn close(&mut self, fd: Fd) -> Result<(), Errno> {
        close(fd)
    }

    fn dup(&mut self, fd: Fd) -> Result<Fd, Errno> {
        Ok(dup(calls::file(fd)?)?.into_raw_fd())
    }

    fn eventfd(&mut self) -> Result<Fd, Errno> {
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(OwnedFd::from(event).into_raw_fd())
    }

    fn ioctl(&mut self, fd: Fd, request: u32, argument: u64) -> Result<u32, Errno> {
        calls::ioctl(fd, request, argument)
    }

    fn read(&mut self, fd: Fd, into: &mut [u8]) -> Result<usize, Errno> {
        read(calls::file(fd)?, into)
    }

    fn write(&mut self, fd: Fd, from: &[u8]) -> Result<usize, Errno> {
        write(calls::file(fd)?, from)
    }

    fn pread(&mut self, fd: Fd, into: &mut [u8], offset: u64) -> Result<usize, Errno> {
        pread(calls::file(fd)?, into, offset.cast_signed())
    }

    fn pwrite(&mut self, fd: Fd, from: &[u8], offset: u64) -> Result<usize, Errno> {
        pwrite(calls::file(fd)?, from, offset.cast_signed())
    }

    fn map_and_unmap(&mut self, fd: Fd, offset: u64, bytes: u64) -> Result<(), Errno> {
        let at = calls::map_file(fd, offset, bytes)?;
        calls::unmap(at, bytes)
    }

    fn begin_write(&mut self, fd: Fd, from: &[u8]) -> Write {
        let (tell, result) = channel();
        let (say, who) = channel();
        let from = from.to_vec();
        thread::spawn(move || {
            let _ = say.send(format!("/proc/self/task/{}/stat", gettid()));
            let written = calls::file(fd).and_then(|file| write(file, &from));
            let _ = close(fd);
            let _ = tell.send(written);
        });
        Write { result, thread: who.recv().unwrap_or_default() }
    }

    fn ended(&mut self, write: &mut Write, patience: Duration) -> Option<Result<usize, Errno>> {
        let (mut waited, mut asleep) = (Duration::ZERO, Duration::ZERO);
        while waited < patience && asleep < ASLEEP {
            match write.result.recv_timeout(GLANCE) {
                Ok(result) => return Some(result),
                // It has been told before.
                Err(RecvTimeoutError::Disconnected) => return Some(Err(Errno::ESRCH)),
                Err(RecvTimeoutError::Timeout) => {}
            }
            waited += GLANCE;
            asleep = if sleeps(&write.thread) { asleep + GLANCE } else { Duration::ZERO };
        }
        None
    }

    fn read_link(&mut self, path: &str) -> Result<String, Errno> {
        nix::fcntl::readlink(path).map(|target| target.to_string_lossy().into_owned())
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>, Errno> {
        let of = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
        let names = fs::read_dir(path).map_err(of)?;
        names.map(|entry| Ok(entry.map_err(of)?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn fork(&mut self) -> Result<Child, Errno> {
        calls::fork_a_child_that_waits().map(Child)
    }

    fn kill(&mut self, child: Child) -> Result<(), Errno> {
        let ended = child.end();
        std::mem::forget(child);
        ended
    }

    fn buffer(&self) -> u64 {
        self.buffer
    }

    fn scratch(&self) -> u64 {
        self.scratch
    }

    fn peek(&self, at: u64, into: &mut [u8]) {
        if let (Ok(base), len) = (usize::try_from(at), into.len()) {
            // The scratch area is always there.
            let _ = process_vm_readv(getpid(), &mut [IoSliceMut::new(into)], &[RemoteIoVec { base, len }]);
        }
    }

    fn poke(&mut self, at: u64, from: &[u8]) {
        if let (Ok(base), len) = (usize::try_from(at), from.len()) {
            let _ = process_vm_writev(getpid(), &[IoSlice::new(from)], &[RemoteIoVec { base, len }]);
        }
    }

    fn change_memory(&mut self, kind: MemoryKind, at: u64, bytes: u64) -> Result<(), Errno> {
        match kind {
            MemoryKind::ReadOnly => calls::protect(at, bytes, ProtFlags::PROT_READ),
            MemoryKind::NoAccess => calls::protect(at, bytes, ProtFlags::PROT_NONE),
            MemoryKind::ReadWrite => calls::protect(at, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE),
            MemoryKind::Hole => calls::unmap(at, bytes),
            MemoryKind::Fresh => calls::map_private(at, bytes),
            MemoryKind::Shared => calls::map_shared(at, bytes),
            MemoryKind::FileReadOnly => {
                let file = memfd_create("file", MFdFlags::MFD_CLOEXEC)?;
                ftruncate(&file, bytes.cast_signed())?;
                calls::map_file_read_only(&file, at, bytes)
            }
        }
    }

    fn set_ipc_lock(&mut self, held: bool) -> Result<(), Errno> {
        let of = |errno: rustix::io::Errno| Errno::from_raw(errno.raw_os_error());
        let mut sets = capabilities(None).map_err(of)?;
        sets.effective.set(CapabilitySet::IPC_LOCK, held);
        set_capabilities(None, sets).map_err(of)
    }

    fn set_memlock(&mut self, bytes: Option<u64>) -> Result<(), Errno> {
        let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
        let soft = bytes.unwrap_or(RLIM_INFINITY);
        setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard.max(soft))
    }

    fn locked(&mut self) -> Result<(u64, u64), Errno> {
        let status = fs::read_to_string("/proc/self/status").map_err(|_| Errno::EIO)?;
        let pages = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib / 4)
        };
        Ok((pages("VmLck:"), pages("VmPin:")))
    }
}

/// Closes what is open: a thread that waits in an unbind for a file of this process would keep it open for ever, and so keep
/// the process from ending.
impl Drop for Kernel {
    fn drop(&mut self) {
        let open: Vec<Fd> =
            self.list("/proc/self/fd").unwrap_or_default().iter().filter_map(|fd| fd.parse().ok()).collect();
        for fd in open.into_iter().filter(|fd| *fd >= FIRST) {
            let _ = close(fd);
        }
    }
}

/// Whether a thread sleeps, as `/proc` says.
fn sleeps(thread: &str) -> bool {
    let stat = fs::read_to_string(thread).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['S', 'D']))
}

/// Returns whether this program may play here: in a room, or in a guest that was made for it.
///
/// Elsewhere the steps would take the devices of whatever machine it runs on from their drivers.
pub fn is_a_playground() -> bool {
    PLAYGROUNDS.iter().any(|file| Path::new(file).exists())
}

/// Files that only rooms have, and only guests that are made to play in.
const PLAYGROUNDS: [&str; 2] = ["/sys/kernel/vfio_room", "/playground"];
