//! The program killed as it is about to change something.
//!
//! It runs under a filter of system calls that stops it at those that change something, and at no other: an emulated
//! processor is slow.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::program::PROGRAM;

/// The first argument of a process of ours that is to be traced and to become the program.
const TRACED: &str = "traced";

/// System calls that change something whatever their arguments.
const CHANGES: &[(libc::c_long, &str)] = &[
    (libc::SYS_pwrite64, "pwrite"),
    (libc::SYS_fsync, "sync"),
    (libc::SYS_fdatasync, "sync"),
    (libc::SYS_truncate, "truncate"),
    (libc::SYS_ftruncate, "truncate"),
    (libc::SYS_unlink, "unlink"),
    (libc::SYS_unlinkat, "unlink"),
    (libc::SYS_rename, "rename"),
    (libc::SYS_renameat, "rename"),
    (libc::SYS_renameat2, "rename"),
    (libc::SYS_mkdir, "mkdir"),
    (libc::SYS_mkdirat, "mkdir"),
];

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
        seccompiler::apply_filter(&filter()?)?;
        Err(Command::new(PROGRAM).args(self.0).exec()).context(PROGRAM)
    }
}

/// What stops a process at each change.
fn filter() -> Result<BpfProgram> {
    let when = |argument, operator, value: i32| -> Result<SeccompRule> {
        let value = value.try_into()?;
        Ok(SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])?)
    };
    let has = |flag: i32| Ok(SeccompCmpOp::MaskedEq(u64::try_from(flag)?)).and_then(|masked| when(2, masked, flag));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CHANGES.iter().map(|(call, _)| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_write, Vec::new());
    rules.insert(libc::SYS_openat, vec![has(libc::O_WRONLY)?, has(libc::O_RDWR)?, has(libc::O_CREAT)?]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Trace(0), TargetArch::x86_64)?;
    Ok(filter.try_into()?)
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
    let first = Pid::from_raw(child.spawn()?.id().try_into()?);
    waitpid(first, None)?;
    ptrace::setoptions(
        first,
        Options::PTRACE_O_TRACESECCOMP
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_EXITKILL,
    )?;
    go_on(first, None)?;
    let mut alive = BTreeSet::from([first]);
    let mut changes = 0;
    while !alive.is_empty() {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL))? {
            WaitStatus::Exited(process, _) | WaitStatus::Signaled(process, ..) => {
                alive.remove(&process);
            }
            WaitStatus::PtraceEvent(process, _, libc::PTRACE_EVENT_SECCOMP) => {
                let told = told(process)?;
                changes += usize::from(told.is_some());
                if let Some(before) = told.filter(|_| changes == change) {
                    kill_all(alive);
                    return Ok(Ended::Killed { before });
                }
                go_on(process, None)?;
            }
            WaitStatus::PtraceEvent(process, ..) => go_on(process, None)?,
            WaitStatus::Stopped(process, signal) => {
                // These two are of the tracing: a new child begins with the one.
                let own = [Signal::SIGSTOP, Signal::SIGTRAP].contains(&signal);
                alive.insert(process);
                go_on(process, (!own).then_some(signal))?;
            }
            _ => {}
        }
    }
    Ok(Ended::Whole)
}

/// A process may be killed while it is stopped.
fn go_on(process: Pid, signal: Option<Signal>) -> Result<()> {
    match ptrace::cont(process, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => bail!("ptrace: {error}"),
    }
}

/// All at once: a process with threads ends when its threads have.
fn kill_all(mut processes: BTreeSet<Pid>) {
    for process in &processes {
        // It may have ended.
        let _ = kill(*process, Signal::SIGKILL);
    }
    while !processes.is_empty() {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Exited(process, _) | WaitStatus::Signaled(process, ..)) => {
                processes.remove(&process);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
}

/// The change that a process is about to make, if what it is stopped at makes one.
fn told(process: Pid) -> Result<Option<String>> {
    let registers = ptrace::getregs(process)?;
    let call = registers.orig_rax.cast_signed();
    if call == libc::SYS_openat {
        let path = text(process, registers.rsi)?;
        // What a child is given as its output changes nothing.
        return Ok((path != "/dev/null").then(|| format!("open {path}")));
    }
    if call != libc::SYS_write {
        return Ok(CHANGES.iter().find(|(number, _)| *number == call).map(|(_, name)| (*name).to_owned()));
    }
    // What is printed, or told to another process, changes nothing.
    let file = std::fs::read_link(format!("/proc/{process}/fd/{}", registers.rdi))?;
    let changes = file.is_absolute() && !file.starts_with("/dev");
    Ok(changes.then(|| format!("write {}", file.display())))
}

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
