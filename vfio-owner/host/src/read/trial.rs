//! Files opened for a moment to see whether they are in use, by a child process with a deadline.
//!
//! A device that does not answer keeps its opener waiting, and nothing ends a process that waits so: not even its own
//! exit. The child may stay behind; this process goes on.

use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::deadline::within;

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// In the environment of a child: how it is to open a file, and which.
const TRIAL: &str = "VFIO_HOST_TRIAL";

const FREE: u8 = 0;
const BUSY: u8 = 16;
const UNKNOWN: u8 = 17;

/// Shows that this program, started again, opens files for a moment on behalf of [`HostTree`](super::HostTree).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trials(());

/// Whether a file is opened with nobody else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exclusive {
    /// It always is: a group.
    Always,
    /// Only where it is asked for: a disk.
    OnRequest,
}

impl Trials {
    /// Makes the program fit for trials. Call it first in `main`: where the process was started for one, that is made,
    /// and `Err` has the exit code for it.
    ///
    /// # Errors
    /// Returns the exit code of a process that was started for a trial, which has nothing else to do.
    pub fn begin() -> Result<Self, ExitCode> {
        match std::env::var(TRIAL) {
            Ok(asked) => Err(ExitCode::from(made(&asked))),
            Err(_) => Ok(Self(())),
        }
    }

    /// Returns what opening a file comes to; `None` if it cannot be tried.
    #[expect(clippy::unused_self, reason = "it shows that this program, started again, makes the trial")]
    pub(super) fn open(self, path: &str, exclusive: Exclusive) -> Option<String> {
        let kind = match exclusive {
            Exclusive::Always => "group",
            Exclusive::OnRequest => "disk",
        };
        let mut command = Command::new(std::env::current_exe().ok()?);
        command.env(TRIAL, format!("{kind} {path}"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        match code(child, DEADLINE) {
            Some(FREE) => Some("free".to_owned()),
            // Who has it may keep the child waiting.
            Some(BUSY) | None => Some("busy".to_owned()),
            Some(_) => None,
        }
    }
}

/// The exit code of a child, if it ends in time.
fn code(mut child: Child, deadline: Duration) -> Option<u8> {
    let code = within(deadline, move || child.wait().ok()?.code())?;
    // One that was killed has told nothing.
    Some(code.and_then(|code| code.try_into().ok()).unwrap_or(UNKNOWN))
}

/// Makes a trial, in the child.
fn made(asked: &str) -> u8 {
    let (flags, path) = match asked.split_once(' ') {
        Some(("group", path)) => (OFlags::RDWR, path),
        // Neither does this wait for a medium, nor does anyone lose data by it.
        Some(("disk", path)) => (OFlags::EXCL | OFlags::NONBLOCK, path),
        _ => return UNKNOWN,
    };
    match open(path, flags | OFlags::CLOEXEC, Mode::empty()) {
        // Nobody uses a drive that has nothing in it.
        Ok(_) | Err(Errno::NOMEDIUM | Errno::NXIO) => FREE,
        Err(Errno::BUSY) => BUSY,
        Err(_) => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_does_not_answer_is_given_up() {
        let child = |program: &str| Command::new(program).stdin(Stdio::piped()).spawn().unwrap();
        let mut stuck = child("cat");
        let input = stuck.stdin.take();
        assert_eq!(code(stuck, Duration::from_millis(20)), None);
        // It ends with its input.
        drop(input);
        assert_eq!(code(child("true"), Duration::from_secs(600)), Some(0));
    }

    #[test]
    fn what_cannot_be_opened_for_another_reason_is_not_known() {
        assert_eq!(made("disk /dev/null"), FREE);
        assert_eq!(made("group /dev/vfio/not a group"), UNKNOWN);
        assert_eq!(made("nonsense"), UNKNOWN);
    }
}
