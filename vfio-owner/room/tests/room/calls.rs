//! System calls that no safe crate has.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Calls `ioctl`.
pub(crate) fn ioctl(file: &impl AsFd, number: u32, argument: usize) -> Result<i32, i32> {
    // SAFETY: the tests pass numbers, or addresses of what lives through the call and is large enough.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::Ioctl::from(number), argument) };
    if result < 0 { Err(last()) } else { Ok(result) }
}

/// Calls an `ioctl` that returns a descriptor.
pub(crate) fn ioctl_file(file: &impl AsFd, number: u32, argument: usize) -> Result<OwnedFd, i32> {
    // SAFETY: the kernel, or the room, has just made the descriptor.
    ioctl(file, number, argument).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An argument that is a descriptor or a set of flags.
pub(crate) fn arg(value: i32) -> usize {
    isize::try_from(value).unwrap().cast_unsigned()
}

/// Makes a call by number. Returns its error, if it fails.
pub(crate) fn call(number: libc::c_long, args: &[usize]) -> Result<i64, i32> {
    let argument = |index: usize| args.get(index).copied().unwrap_or(0);
    // SAFETY: the tests pass addresses of what lives through the call.
    let result =
        unsafe { libc::syscall(number, argument(0), argument(1), argument(2), argument(3), argument(4), argument(5)) };
    if result < 0 { Err(last()) } else { Ok(result) }
}

/// Makes a call that returns a descriptor.
pub(crate) fn call_file(number: libc::c_long, args: &[usize]) -> Result<OwnedFd, i32> {
    let fd = call(number, args)?.try_into().unwrap();
    // SAFETY: the kernel has just made the descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn last() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap()
}

/// A shared mapping of a file. Dropping it unmaps it.
pub(crate) struct Mapping {
    at: *mut libc::c_void,
    bytes: usize,
}

// SAFETY: the memory belongs to the process; whoever has the value may use it.
unsafe impl Send for Mapping {}

impl Mapping {
    pub(crate) fn of(file: &impl AsFd, bytes: usize, offset: u64) -> Result<Self, i32> {
        let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_fd().as_raw_fd());
        let offset = offset.try_into().unwrap();
        // SAFETY: a new mapping, where the kernel likes.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, fd, offset) };
        if at == libc::MAP_FAILED { Err(last()) } else { Ok(Self { at, bytes }) }
    }

    /// New memory.
    pub(crate) fn anonymous(bytes: usize, protection: i32) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, where the kernel likes.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        Self { at, bytes }
    }

    pub(crate) fn addr(&self) -> usize {
        self.at.addr()
    }

    /// Changes what may be done with a part.
    pub(crate) fn protect(&self, at: usize, bytes: usize, protection: i32) {
        assert!(at + bytes <= self.bytes);
        // SAFETY: within the mapping, which is accessed through `read` and `write` only.
        assert_eq!(unsafe { libc::mprotect(self.at.byte_add(at), bytes, protection) }, 0);
    }

    pub(crate) fn read(&self, at: usize) -> u8 {
        assert!(at < self.bytes);
        // SAFETY: within the mapping.
        unsafe { self.at.cast::<u8>().add(at).read_volatile() }
    }

    pub(crate) fn write(&self, at: usize, byte: u8) {
        assert!(at < self.bytes);
        // SAFETY: within the mapping.
        unsafe { self.at.cast::<u8>().add(at).write_volatile(byte) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        unsafe { libc::munmap(self.at, self.bytes) };
    }
}

/// Puts the calling thread under a filter without a listener, which answers `number` with `errno`, and allows all else.
pub(crate) fn filter(number: libc::c_long, errno: i32) {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    let instruction = |code: u32, k, jf| libc::sock_filter { code: code.try_into().unwrap(), jt: 0, jf, k };
    let mut program = [
        instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, number.try_into().unwrap(), 1),
        instruction(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned(), 0),
        instruction(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}
