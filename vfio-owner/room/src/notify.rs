//! Seccomp's user notification: the one module with unsafe code.
//!
//! It passes structures of the C library to the kernel, which reads and writes them within the sizes that it has said
//! to use, and takes over descriptors that the kernel has just made.
// UNSAFETY: neither std nor rustix nor nix has these calls.
#![expect(unsafe_code, reason = "system calls that no safe crate has")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use libc::{c_long, seccomp_notif, seccomp_notif_addfd, seccomp_notif_resp, seccomp_notif_sizes, sock_filter};

/// The end of the supervisor: what filtered tasks call arrives here.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Puts the calling thread, and all that it will start, under a filter, for good.
pub(crate) fn install(program: &[sock_filter]) -> io::Result<Listener> {
    let filter = program.as_ptr().cast_mut();
    let program = libc::sock_fprog { len: u16::try_from(program.len()).map_err(io::Error::other)?, filter };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel copies the program, and checks it.
    let fd = check(unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    let listener = Listener(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) });
    // Caller and supervisor take turns: without `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` (Linux 6.6) each wakes another processor.
    let _ = listener.control(libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, ptr::without_provenance_mut::<u64>(1));
    Ok(listener)
}

/// Whether the kernel's structures are as large as ours.
pub(crate) fn sizes_agree() -> io::Result<bool> {
    let mut sizes = seccomp_notif_sizes { seccomp_notif: 0, seccomp_notif_resp: 0, seccomp_data: 0 };
    let operation = libc::SECCOMP_GET_NOTIF_SIZES;
    // SAFETY: the kernel fills the structure, whose size is fixed.
    check(unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, &raw mut sizes) })?;
    Ok(usize::from(sizes.seccomp_notif) == size_of::<seccomp_notif>()
        && usize::from(sizes.seccomp_notif_resp) == size_of::<seccomp_notif_resp>())
}

impl Listener {
    /// Receives the next call. Waits for one, unless the listener was found readable.
    pub(crate) fn receive(&self) -> io::Result<seccomp_notif> {
        let data = libc::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] };
        let mut call = seccomp_notif { id: 0, pid: 0, flags: 0, data };
        self.control(libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call)?;
        Ok(call)
    }

    /// Answers a call.
    pub(crate) fn send(&self, mut answer: seccomp_notif_resp) -> io::Result<()> {
        self.control(libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer).map(drop)
    }

    /// Gives the caller a descriptor of `file`, which is the answer to its call.
    pub(crate) fn send_file(&self, id: u64, file: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
        // `SECCOMP_ADDFD_FLAG_SEND`.
        self.add(id, file, flags, 1 << 1).map(drop)
    }

    /// Gives the caller a descriptor of `file`, and returns its number. The caller waits on.
    pub(crate) fn give_file(&self, id: u64, file: BorrowedFd<'_>, flags: u32) -> io::Result<i32> {
        i32::try_from(self.add(id, file, flags, 0)?).map_err(io::Error::other)
    }

    fn add(&self, id: u64, file: BorrowedFd<'_>, newfd_flags: u32, flags: u32) -> io::Result<c_long> {
        let mut request =
            seccomp_notif_addfd { id, flags, srcfd: file.as_raw_fd().cast_unsigned(), newfd: 0, newfd_flags };
        self.control(libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw mut request)
    }

    /// Whether the caller still waits: what was read of its process by number is then its own.
    pub(crate) fn waits(&self, mut id: u64) -> bool {
        self.control(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw mut id).is_ok()
    }

    fn control<T>(&self, request: libc::Ioctl, argument: *mut T) -> io::Result<c_long> {
        // SAFETY: each request is paired above with the structure that it takes, whose size is a part of its number, or with a number.
        check(c_long::from(unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) }))
    }
}

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
