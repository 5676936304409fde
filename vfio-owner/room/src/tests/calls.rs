//! Calls that std does not have.
#![expect(unsafe_code, reason = "ioctl takes anything")]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

/// Calls `ioctl`.
pub(super) fn ioctl(file: &impl AsFd, number: u32, argument: usize) -> Result<i32, Errno> {
    // SAFETY: the fake reads at most, and fails where nothing is mapped.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::Ioctl::from(number), argument) };
    if result < 0 { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()) } else { Ok(result) }
}

/// Calls an `ioctl` that returns a new descriptor.
pub(super) fn new_file(file: &impl AsFd, number: u32) -> OwnedFd {
    let fd = ioctl(file, number, 0).unwrap();
    // SAFETY: the descriptor is new.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Makes a call by number.
pub(super) fn call(number: libc::c_long, args: [usize; 6]) -> Result<i64, Errno> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the tests pass addresses of what lives through the call.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()) } else { Ok(result) }
}
