//! System calls that change this process's memory, take any number for a file, or an address for an argument.
#![expect(unsafe_code, reason = "scenarios name files by numbers and memory by addresses, as they are")]

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, fork, pause};

use crate::system::Fd;

/// The file of this number, if any: the kernel says.
pub(super) fn file(fd: Fd) -> Result<BorrowedFd<'static>, Errno> {
    if fd < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: used for one call each, which answers EBADF if it is not open. Nobody else relies on these numbers: the
    // program has no files but those of its scenario.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

pub(super) fn ioctl(fd: Fd, request: u32, argument: u64) -> Result<u32, Errno> {
    // SAFETY: what the kernel writes lies in the scratch area or in the buffer, which no reference of Rust reaches.
    let result = unsafe { libc::ioctl(fd, request.into(), argument) };
    Errno::result(result).map(i32::cast_unsigned)
}

pub(super) fn map_anywhere(bytes: u64) -> Result<u64, Errno> {
    // SAFETY: new memory, in no place that is used.
    address(unsafe { mmap_anonymous(None, length(bytes)?, rw(), MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE) })
}

pub(super) fn map_private(at: u64, bytes: u64) -> Result<(), Errno> {
    // SAFETY: in the buffer, which no reference of Rust reaches.
    let fixed = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED;
    unsafe { mmap_anonymous(Some(place(at)?), length(bytes)?, rw(), fixed) }.map(drop)
}

pub(super) fn map_shared(at: u64, bytes: u64) -> Result<(), Errno> {
    // SAFETY: as above.
    let fixed = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
    unsafe { mmap_anonymous(Some(place(at)?), length(bytes)?, rw(), fixed) }.map(drop)
}

pub(super) fn map_file_read_only(file: impl AsFd, at: u64, bytes: u64) -> Result<(), Errno> {
    let fixed = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED;
    // SAFETY: as above.
    unsafe { mmap(Some(place(at)?), length(bytes)?, ProtFlags::PROT_READ, fixed, file, 0) }.map(drop)
}

pub(super) fn map_file(fd: Fd, offset: u64, bytes: u64) -> Result<u64, Errno> {
    // SAFETY: new memory, in no place that is used.
    address(unsafe { mmap(None, length(bytes)?, rw(), MapFlags::MAP_SHARED, file(fd)?, offset.cast_signed()) })
}

pub(super) fn unmap(at: u64, bytes: u64) -> Result<(), Errno> {
    // SAFETY: of what was mapped here, or in the buffer; no reference of Rust reaches it.
    unsafe { munmap(pointer(at)?, length(bytes)?.get()) }
}

pub(super) fn protect(at: u64, bytes: u64, to: ProtFlags) -> Result<(), Errno> {
    // SAFETY: in the buffer, which no reference of Rust reaches.
    unsafe { mprotect(pointer(at)?, length(bytes)?.get(), to) }
}

/// Makes a child that keeps what is open, and does nothing until it is killed.
pub(super) fn fork_a_child_that_waits() -> Result<Pid, Errno> {
    // SAFETY: the child makes nothing but system calls.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let _ = set_pdeathsig(Signal::SIGKILL);
            loop {
                pause();
            }
        }
    }
}

fn rw() -> ProtFlags {
    ProtFlags::PROT_READ | ProtFlags::PROT_WRITE
}

fn length(bytes: u64) -> Result<NonZeroUsize, Errno> {
    usize::try_from(bytes).ok().and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)
}

fn place(at: u64) -> Result<NonZeroUsize, Errno> {
    length(at)
}

fn pointer(at: u64) -> Result<NonNull<c_void>, Errno> {
    NonNull::new(std::ptr::without_provenance_mut(place(at)?.get())).ok_or(Errno::EINVAL)
}

fn address(mapped: Result<NonNull<c_void>, Errno>) -> Result<u64, Errno> {
    mapped.map(|at| at.addr().get() as u64)
}
