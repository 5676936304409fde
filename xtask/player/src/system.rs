//! System calls, as far as scenarios make them.

use std::time::Duration;

use nix::errno::Errno;

use crate::language::MemoryKind;

/// The number of an open file.
pub type Fd = i32;

/// Whatever answers system calls: a machine in this process, or a kernel.
///
/// Calls are those of one process. It has a *buffer* of [`BUFFER_BYTES`] zeros, with nothing mapped within
/// [`NOTHING_BYTES`] before and behind it, and a *scratch* area of [`SCRATCH_BYTES`], in which the player puts the
/// structures of its calls; what it may map and change is the buffer alone.
pub trait System {
    /// A child that keeps files open.
    type Child;

    /// A write that was begun by another thread of the process.
    type Write;

    /// Opens the file at an absolute path.
    ///
    /// # Errors
    /// Fails with the errno of `open`.
    fn open(&mut self, path: &str, access: Access) -> Result<Fd, Errno>;

    /// Closes a file.
    ///
    /// # Errors
    /// Fails with the errno of `close`.
    fn close(&mut self, fd: Fd) -> Result<(), Errno>;

    /// Gives an open file a second number, the lowest that is free.
    ///
    /// # Errors
    /// Fails with the errno of `dup`.
    fn dup(&mut self, fd: Fd) -> Result<Fd, Errno>;

    /// Makes an eventfd that does not block.
    ///
    /// # Errors
    /// Fails with the errno of `eventfd`.
    fn eventfd(&mut self) -> Result<Fd, Errno>;

    /// Makes the call `request`; `argument` is what it takes, for the most part the address of a structure.
    ///
    /// # Errors
    /// Fails with the errno of `ioctl`.
    fn ioctl(&mut self, fd: Fd, request: u32, argument: u64) -> Result<u32, Errno>;

    /// Reads from where the file stands. Returns how many bytes were read.
    ///
    /// # Errors
    /// Fails with the errno of `read`.
    fn read(&mut self, fd: Fd, into: &mut [u8]) -> Result<usize, Errno>;

    /// Writes to where the file stands. Returns how many bytes were written.
    ///
    /// # Errors
    /// Fails with the errno of `write`.
    fn write(&mut self, fd: Fd, from: &[u8]) -> Result<usize, Errno>;

    /// Reads from a place of the file. Returns how many bytes were read.
    ///
    /// # Errors
    /// Fails with the errno of `pread`.
    fn pread(&mut self, fd: Fd, into: &mut [u8], offset: u64) -> Result<usize, Errno>;

    /// Writes to a place of the file. Returns how many bytes were written.
    ///
    /// # Errors
    /// Fails with the errno of `pwrite`.
    fn pwrite(&mut self, fd: Fd, from: &[u8], offset: u64) -> Result<usize, Errno>;

    /// Maps a part of the file, shared, for reading and writing, and unmaps it again.
    ///
    /// # Errors
    /// Fails with the errno of `mmap`.
    fn map_and_unmap(&mut self, fd: Fd, offset: u64, bytes: u64) -> Result<(), Errno>;

    /// Begins a write that may wait for a user. The file is closed once it has ended.
    fn begin_write(&mut self, fd: Fd, from: &[u8]) -> Self::Write;

    /// Returns how a write ended; `None` if it has not within `patience`.
    fn ended(&mut self, write: &mut Self::Write, patience: Duration) -> Option<Result<usize, Errno>>;

    /// Reads where a link leads.
    ///
    /// # Errors
    /// Fails with the errno of `readlink`.
    fn read_link(&mut self, path: &str) -> Result<String, Errno>;

    /// Lists the names in a directory.
    ///
    /// # Errors
    /// Fails with the errno of `open` or `getdents`.
    fn list(&mut self, path: &str) -> Result<Vec<String>, Errno>;

    /// Makes a child, which keeps open what is open now.
    ///
    /// # Errors
    /// Fails with the errno of `fork`.
    fn fork(&mut self) -> Result<Self::Child, Errno>;

    /// Kills a child, and waits until it has gone.
    ///
    /// # Errors
    /// Fails with the errno of `kill`.
    fn kill(&mut self, child: Self::Child) -> Result<(), Errno>;

    /// Returns the address of the buffer.
    fn buffer(&self) -> u64;

    /// Returns the address of the scratch area.
    fn scratch(&self) -> u64;

    /// Reads from the scratch area.
    fn peek(&self, at: u64, into: &mut [u8]);

    /// Writes to the scratch area.
    fn poke(&mut self, at: u64, from: &[u8]);

    /// Changes what stands at a place of the buffer.
    ///
    /// # Errors
    /// Fails with the errno of `mprotect`, `munmap` or `mmap`.
    fn change_memory(&mut self, kind: MemoryKind, at: u64, bytes: u64) -> Result<(), Errno>;

    /// Takes or gives back `CAP_IPC_LOCK`.
    ///
    /// # Errors
    /// Fails with the errno of `capset`.
    fn set_ipc_lock(&mut self, held: bool) -> Result<(), Errno>;

    /// Sets `RLIMIT_MEMLOCK`, in bytes; `None` for no limit.
    ///
    /// # Errors
    /// Fails with the errno of `setrlimit`.
    fn set_memlock(&mut self, bytes: Option<u64>) -> Result<(), Errno>;

    /// Returns how many pages of 4 KiB are locked, and how many pinned: `VmLck` and `VmPin`.
    ///
    /// # Errors
    /// Fails with the errno of reading them.
    fn locked(&mut self) -> Result<(u64, u64), Errno>;
}

/// Length of the buffer.
pub const BUFFER_BYTES: u64 = 64 << 20;

/// How far nothing is mapped around the buffer.
pub const NOTHING_BYTES: u64 = 1 << 30;

/// Length of the scratch area.
pub const SCRATCH_BYTES: u64 = 4 << 20;

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Both.
    ReadWrite,
}
