//! Answers to trapped calls.

mod change;
mod device;
mod directory;
mod limits;
mod look;
mod open;
mod write;

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use vfio_owner::iommu_core::device_model::Errno as MachineErrno;
use vfio_owner::testbed::vfs::Later;

use crate::calls::Call;
use crate::notify::Listener;
use crate::supervisor::Supervisor;
use crate::task::Task;
use crate::walk::{Last, Place, Walker};

/// A call that waits for its answer.
#[derive(Debug)]
pub(crate) struct Trapped<'a> {
    pub(crate) id: u64,
    pub(crate) listener: &'a Listener,
    pub(crate) task: Task,
    pub(crate) call: Call,
    pub(crate) args: [u64; 6],
}

/// What becomes of a call that does not fail.
pub(crate) enum Answer {
    /// It returns this.
    Value(i64),
    /// The kernel does it.
    Continue,
    /// It returns a new descriptor of this file, with these flags.
    File(OwnedFd, u32),
    /// It returns when this is done.
    Later(Delayed),
}

/// A write to an attribute that waits for a user.
#[derive(Debug)]
pub(crate) struct Delayed {
    pub(crate) later: Later,
    pub(crate) task: Task,
    pub(crate) file: PathBuf,
}

impl Trapped<'_> {
    pub(crate) fn arg(&self, index: usize) -> u64 {
        self.args.get(index).copied().unwrap_or(0)
    }

    /// Returns an argument that is a descriptor.
    #[expect(clippy::cast_possible_truncation, reason = "the kernel looks at 32 bits")]
    pub(crate) fn fd(&self, index: usize) -> i32 {
        self.arg(index) as i32
    }

    /// Returns an argument that is a set of flags.
    #[expect(clippy::cast_possible_truncation, reason = "the kernel looks at 32 bits")]
    pub(crate) fn bits(&self, index: usize) -> u32 {
        self.arg(index) as u32
    }

    /// Returns the pieces of memory, each an address and a length, that the call names, or lists.
    pub(crate) fn pieces(&self) -> Result<Vec<[u64; 2]>, Errno> {
        /// `UIO_MAXIOV`.
        const MOST: u64 = 1024;
        let (at, count) = (self.arg(1), self.arg(2));
        match self.call {
            Call::Writev | Call::Preadv | Call::Preadv2 | Call::Pwritev | Call::Pwritev2 if count > MOST => {
                Err(Errno::INVAL)
            }
            Call::Writev | Call::Preadv | Call::Preadv2 | Call::Pwritev | Call::Pwritev2 => {
                (0..count).map(|piece| self.task.numbers(at.wrapping_add(16 * piece))).collect()
            }
            _ => Ok(vec![[at, count]]),
        }
    }

    pub(crate) fn string(&self, index: usize) -> Result<OsString, Errno> {
        self.task.string(self.arg(index))
    }

    /// Checks, before something is done for good, that what was read was read of the caller.
    pub(crate) fn check(&self) -> Result<(), Errno> {
        if self.listener.waits(self.id) { Ok(()) } else { Err(Errno::SRCH) }
    }
}

impl Supervisor {
    /// Finds the answer to a call.
    pub(crate) fn answer(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        match trapped.call {
            Call::Ioctl => self.ioctl(trapped),
            Call::Read => self.read(trapped),
            Call::Pread64 | Call::Preadv | Call::Preadv2 => self.read_at(trapped),
            Call::Mmap => self.map(trapped),
            Call::Pwrite64 | Call::Write | Call::Writev | Call::Pwritev | Call::Pwritev2 => self.write(trapped),
            Call::Sendfile | Call::Splice | Call::CopyFileRange => self.copy(trapped),
            Call::Open | Call::Openat | Call::Openat2 | Call::Creat => self.open(trapped),
            Call::Stat | Call::Lstat | Call::Fstat | Call::Newfstatat | Call::Statx => self.stat(trapped),
            Call::Access | Call::Faccessat | Call::Faccessat2 => self.access(trapped),
            Call::Readlink | Call::Readlinkat => self.read_link(trapped),
            Call::Chdir | Call::Fchdir | Call::Getcwd => self.directory(trapped),
            Call::Statfs | Call::Fstatfs => self.file_system(trapped),
            Call::Getxattr | Call::Lgetxattr | Call::Listxattr | Call::Llistxattr => self.extended(trapped),
            Call::Eventfd | Call::Eventfd2 => self.make_eventfd(trapped),
            Call::Prlimit64 | Call::Getrlimit | Call::Setrlimit => self.limit(trapped),
            _ => self.change(trapped),
        }
    }

    /// Notes that the machine refused a call, and why.
    fn refuse(&self, trapped: &Trapped<'_>, file: &Path, error: &(dyn Error + 'static), errno: MachineErrno) -> Errno {
        self.log.reason(error);
        self.refused(trapped.task, trapped.call.name(), file, errno)
    }

    /// Notes that a call failed. Why, the machine has said already.
    pub(crate) fn refused(&self, task: Task, call: String, file: &Path, errno: MachineErrno) -> Errno {
        self.log.refuse(task.number(), call, file.into(), errno);
        Errno::from_raw_os_error(errno.number())
    }

    fn walk(&self, task: Task, dir: i32, path: &OsStr, last: Last) -> Result<Place, Errno> {
        self.walker(task).walk(dir, path, last)
    }

    fn walker(&self, task: Task) -> Walker<'_> {
        Walker::new(&self.vfs, &self.tree, &self.working, task)
    }

    /// Returns the path in the room of a descriptor of a directory or a file that is read.
    fn in_tree(&self, task: Task, fd: i32) -> Option<PathBuf> {
        if fd == libc::AT_FDCWD
            && let Ok(Some(path)) = task.working_directory(&self.working)
        {
            return Some(path);
        }
        self.tree.in_room(&Task::link(&task.directory(fd)).ok()?)
    }
}
