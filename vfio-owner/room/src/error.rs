//! Errors of setting up a room.

use std::io;

/// Why no room could be set up. Nothing was run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoomError {
    /// The caller is in a room, or under another program's seccomp listener (`EBUSY`): there can be one only.
    #[error("this process is under a seccomp listener already: a room, or a sandbox's")]
    SecondListener,
    /// The kernel lacks `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (Linux 5.19).
    #[error("the kernel has no seccomp user notification as of Linux 5.19")]
    NoNotification,
    /// A sandbox forbids seccomp filters.
    #[error("a sandbox forbids seccomp filters")]
    Forbidden(#[source] io::Error),
    /// The program could not be started.
    #[error("cannot run {program}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A file, a descriptor or a thread could not be made.
    #[error("cannot set up the room")]
    Setup(#[source] io::Error),
}

impl RoomError {
    /// What the kernel means by refusing a filter.
    pub(crate) fn of_filter(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EBUSY) => Self::SecondListener,
            Some(libc::EINVAL | libc::ENOSYS) => Self::NoNotification,
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden(error),
            _ => Self::Setup(error),
        }
    }
}
