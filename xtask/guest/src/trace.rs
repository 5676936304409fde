//! The program killed as it is about to change something, by tracing its system calls.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::program::PROGRAM;

/// The first argument of a process of ours that is to be traced and to become the program.
const TRACED: &str = "traced";

/// A process that becomes the program under its parent's eyes.
pub(crate) struct Traced(Vec<String>);

impl Traced {
    /// Whether this process is to be one.
    pub(crate) fn asked_for() -> Option<Self> {
        let mut arguments = std::env::args().skip(1);
        (arguments.next()? == TRACED).then(|| Self(arguments.collect()))
    }

    /// Lets the parent trace this process, waits for it, and becomes the program.
    pub(crate) fn become_program(self) -> Result<()> {
        ptrace::traceme()?;
        raise(Signal::SIGSTOP)?;
        Err(Command::new(PROGRAM).args(self.0).exec()).context(PROGRAM)
    }
}

/// How a traced run ended.
pub(crate) enum Ended {
    /// It was killed before this change.
    Killed {
        /// What it was about to do.
        before: String,
    },
    /// It made fewer changes than that, and ended by itself.
    Whole,
}

/// Runs the program, and kills it and its children as they are about to make their `change`-th change.
pub(crate) fn kill_before(change: usize, arguments: &[&str]) -> Result<Ended> {
    let mut child = Command::new("/proc/self/exe");
    child.arg(TRACED).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = child.spawn()?;
    let first = Pid::from_raw(child.id().try_into()?);
    waitpid(first, None)?;
    ptrace::setoptions(
        first,
        Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_EXITKILL,
    )?;
    let mut traced = Tracees { alive: BTreeSet::from([first]), entered: BTreeSet::new(), changes: 0 };
    let mut next = Some((first, None));
    while !traced.alive.is_empty() {
        if let Some((process, signal)) = next.take() {
            go_on(process, signal)?;
        }
        let stop = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL))?;
        if let Some(before) = traced.seen(&stop)?
            && traced.changes == change
        {
            traced.kill_all();
            return Ok(Ended::Killed { before });
        }
        next = match stop {
            // These two are of the tracing.
            WaitStatus::Stopped(process, signal) if ![Signal::SIGSTOP, Signal::SIGTRAP].contains(&signal) => {
                Some((process, Some(signal)))
            }
            WaitStatus::Stopped(process, _)
            | WaitStatus::PtraceEvent(process, ..)
            | WaitStatus::PtraceSyscall(process) => Some((process, None)),
            _ => None,
        };
    }
    Ok(Ended::Whole)
}

/// A process may be killed while it is stopped.
fn go_on(process: Pid, signal: Option<Signal>) -> Result<()> {
    match ptrace::syscall(process, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => bail!("ptrace: {error}"),
    }
}

/// The program and its children.
struct Tracees {
    alive: BTreeSet<Pid>,
    /// Those that are inside a system call.
    entered: BTreeSet<Pid>,
    changes: usize,
}

impl Tracees {
    /// Takes note of a stop; what is about to be changed, if anything.
    fn seen(&mut self, stop: &WaitStatus) -> Result<Option<String>> {
        match stop {
            WaitStatus::Exited(process, _) | WaitStatus::Signaled(process, ..) => {
                self.alive.remove(process);
                self.entered.remove(process);
            }
            WaitStatus::Stopped(process, _) | WaitStatus::PtraceEvent(process, ..) => {
                self.alive.insert(*process);
            }
            WaitStatus::PtraceSyscall(process) => {
                if self.entered.remove(process) {
                    return Ok(None);
                }
                self.entered.insert(*process);
                let change = change(*process)?;
                self.changes += usize::from(change.is_some());
                return Ok(change);
            }
            _ => {}
        }
        Ok(None)
    }

    fn kill_all(&self) {
        for process in &self.alive {
            let _ = kill(*process, Signal::SIGKILL);
        }
        for process in &self.alive {
            while !matches!(
                waitpid(*process, Some(WaitPidFlag::__WALL)),
                Ok(WaitStatus::Signaled(..) | WaitStatus::Exited(..)) | Err(_)
            ) {}
        }
    }
}

/// The change that a process is about to make, if the system call that it enters makes one.
fn change(process: Pid) -> Result<Option<String>> {
    let registers = ptrace::getregs(process)?;
    let call = i64::try_from(registers.orig_rax).unwrap_or(-1);
    let name = match call {
        // What it prints changes nothing.
        libc::SYS_write if registers.rdi > 2 => "write",
        libc::SYS_pwrite64 => "pwrite",
        libc::SYS_fsync | libc::SYS_fdatasync => "sync",
        libc::SYS_ftruncate | libc::SYS_truncate => "truncate",
        libc::SYS_unlink | libc::SYS_unlinkat => "unlink",
        libc::SYS_rename | libc::SYS_renameat | libc::SYS_renameat2 => "rename",
        libc::SYS_mkdir | libc::SYS_mkdirat => "mkdir",
        libc::SYS_openat if registers.rdx & WRITING != 0 => {
            return Ok(Some(format!("open {}", text(process, registers.rsi)?)));
        }
        _ => return Ok(None),
    };
    Ok(Some(name.to_owned()))
}

const WRITING: u64 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT) as u64;

/// The longest path.
const LONGEST_TEXT: u64 = 4096;

/// A text in the memory of a process.
fn text(process: Pid, at: u64) -> Result<String> {
    let mut bytes = Vec::new();
    for place in (at..at + LONGEST_TEXT).step_by(size_of::<libc::c_long>()) {
        let word = ptrace::read(process, place as ptrace::AddressType)?.to_ne_bytes();
        let end = word.iter().position(|byte| *byte == 0);
        bytes.extend(word.iter().take(end.unwrap_or(word.len())));
        if end.is_some() {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
