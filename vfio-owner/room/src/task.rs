//! A filtered task, as the supervisor sees it while the task waits for an answer.

use std::ffi::{OsStr, OsString};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::inherited::Inherited;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, getegid, geteuid, getgroups, pidfd_getfd, pidfd_open};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

const PATH_MAX: usize = 4096;
const PAGE: u64 = 4096;

/// A task of a room, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Task(u32);

impl Task {
    pub(crate) const fn new(number: u32) -> Self {
        Self(number)
    }

    pub(crate) fn number(self) -> u32 {
        self.0
    }

    fn pid(self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.0.cast_signed())
    }

    /// Reads the memory of its process.
    pub(crate) fn read(self, at: u64, into: &mut [u8]) -> Result<(), Errno> {
        let len = into.len();
        let remote = remote(at, len)?;
        let done = process_vm_readv(self.pid(), &mut [IoSliceMut::new(into)], &[remote]);
        if len == 0 || done == Ok(len) { Ok(()) } else { Err(Errno::FAULT) }
    }

    /// Writes to the memory of its process.
    pub(crate) fn write(self, at: u64, from: &[u8]) -> Result<(), Errno> {
        let remote = remote(at, from.len())?;
        let done = process_vm_writev(self.pid(), &[IoSlice::new(from)], &[remote]);
        if from.is_empty() || done == Ok(from.len()) { Ok(()) } else { Err(Errno::FAULT) }
    }

    /// Reads adjacent numbers from the memory of its process.
    pub(crate) fn numbers<const COUNT: usize>(self, at: u64) -> Result<[u64; COUNT], Errno> {
        let mut bytes = [[0; 8]; COUNT];
        self.read(at, bytes.as_flattened_mut())?;
        Ok(bytes.map(u64::from_le_bytes))
    }

    /// Reads the bytes of a small write.
    pub(crate) fn bytes(self, at: u64, count: u64) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; usize::try_from(count).map_err(|_| Errno::INVAL)?];
        self.read(at, &mut bytes).map(|()| bytes)
    }

    /// Reads a string that ends with a zero byte, a path or a name.
    pub(crate) fn string(self, at: u64) -> Result<OsString, Errno> {
        let mut bytes = Vec::new();
        while bytes.len() < PATH_MAX {
            let next = at.checked_add(bytes.len() as u64).ok_or(Errno::FAULT)?;
            // Up to the end of the page: the next may not be there.
            let piece = self.bytes(next, PAGE - next % PAGE)?;
            if let Some(end) = piece.iter().position(|byte| *byte == 0) {
                bytes.extend(piece.into_iter().take(end));
                return Ok(OsString::from_vec(bytes));
            }
            bytes.extend(piece);
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Returns the path of a file below its directory in `/proc`.
    pub(crate) fn proc(self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.0))
    }

    /// Returns the path that leads to one of its descriptors.
    pub(crate) fn descriptor(self, fd: i32) -> PathBuf {
        self.proc(&format!("fd/{fd}"))
    }

    /// Returns the path that leads to a descriptor, for calls to which `AT_FDCWD` is the working directory.
    pub(crate) fn directory(self, fd: i32) -> PathBuf {
        if fd == libc::AT_FDCWD { self.proc("cwd") } else { self.descriptor(fd) }
    }

    /// Returns what its `/proc/…/fd/N`, `cwd` or `root` link says.
    pub(crate) fn link(path: &Path) -> Result<PathBuf, Errno> {
        let text = rustix::fs::readlink(path, Vec::new())?;
        Ok(PathBuf::from(OsStr::from_bytes(text.as_bytes())))
    }

    /// Returns a descriptor of an open file of its process.
    pub(crate) fn get(self, fd: i32) -> Result<OwnedFd, Errno> {
        let process = Pid::from_raw(self.process()?.cast_signed()).ok_or(Errno::SRCH)?;
        let process = pidfd_open(process, PidfdFlags::empty())?;
        pidfd_getfd(process, fd, PidfdGetfdFlags::empty())
    }

    /// Returns the number of its process.
    pub(crate) fn process(self) -> Result<u32, Errno> {
        self.status()?.number("Tgid:", 0).ok_or(Errno::SRCH)
    }

    /// Returns its working directory, if that is one of the room's.
    pub(crate) fn working_directory(self, all: &Inherited<Option<PathBuf>>) -> Result<Option<PathBuf>, Errno> {
        if all.is_empty() { Ok(None) } else { Ok(all.get(self.process()?).flatten()) }
    }

    /// Returns its name in the directory of `/proc`, by its process.
    pub(crate) fn in_process(self) -> Result<PathBuf, Errno> {
        Ok(PathBuf::from(format!("{}/task/{}", self.process()?, self.0)))
    }

    /// Returns the name of its program.
    pub(crate) fn name(self) -> String {
        fs::read_to_string(self.proc("comm")).map_or_else(|_| self.0.to_string(), |name| name.trim().to_owned())
    }

    /// Returns what `/proc` says of it.
    pub(crate) fn status(self) -> Result<Status, Errno> {
        fs::read_to_string(self.proc("status")).map(Status).map_err(|_| Errno::SRCH)
    }

    /// Calls `act` with the rights of the task. `act` is given its `umask`.
    pub(crate) fn with_rights<T>(self, act: impl FnOnce(u32) -> Result<T, Errno>) -> Result<T, Errno> {
        let status = self.status()?;
        let umask = status.field("Umask:").and_then(|text| u32::from_str_radix(text, 8).ok()).unwrap_or(0);
        // Real, effective, saved, file system's.
        let number = |name| status.number(name, 3).ok_or(Errno::SRCH);
        let (user, group) = (number("Uid:")?, number("Gid:")?);
        if (user, group) == (geteuid().as_raw(), getegid().as_raw()) {
            return act(umask);
        }
        let _rights = Rights::take(Uid::from_raw(user), Gid::from_raw(group), &status.groups())?;
        act(umask)
    }
}

/// What `/proc/…/status` says.
pub(crate) struct Status(String);

impl Status {
    fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
    }

    /// Returns one of the numbers of a field.
    pub(crate) fn number(&self, name: &str, index: usize) -> Option<u32> {
        self.field(name)?.split_whitespace().nth(index)?.parse().ok()
    }

    /// Whether the task has a capability: as the host says, or as root of the machine, if the host's root cannot have it.
    pub(crate) fn has(&self, capability: u32) -> bool {
        let in_set = |name| {
            let set = self.field(name).and_then(|text| u64::from_str_radix(text, 16).ok());
            set.unwrap_or(0) >> capability & 1 == 1
        };
        in_set("CapEff:") || self.number("Uid:", 1) == Some(0) && !in_set("CapBnd:")
    }

    fn groups(&self) -> Vec<Gid> {
        let numbers = self.field("Groups:").unwrap_or_default().split_whitespace();
        numbers.filter_map(|text| text.parse().ok()).map(Gid::from_raw).collect()
    }
}

/// The supervisor's thread has the rights of a task. Dropping gives it its own back.
struct Rights {
    groups: Vec<Gid>,
}

impl Rights {
    fn take(user: Uid, group: Gid, groups: &[Gid]) -> Result<Self, Errno> {
        let own = Self { groups: getgroups()? };
        set_thread_groups(groups)?;
        set_thread_res_gid(None, group, None)?;
        set_thread_res_uid(None, user, None)?;
        Ok(own)
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        // The real and saved ones stayed as they were, so this is always allowed.
        let _ = set_thread_res_uid(None, rustix::process::getuid(), None);
        let _ = set_thread_res_gid(None, rustix::process::getgid(), None);
        let _ = set_thread_groups(&self.groups);
    }
}

/// Returns the files in this directory of `/proc` of all processes, which has one for each descriptor.
pub(crate) fn descriptors(directory: &str) -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten();
    let processes = entries("/proc".into()).filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    processes
        .flat_map(move |process| entries(Task::new(process).proc(directory)).map(move |entry| (process, entry.path())))
}

fn remote(at: u64, len: usize) -> Result<RemoteIoVec, Errno> {
    Ok(RemoteIoVec { base: usize::try_from(at).map_err(|_| Errno::FAULT)?, len })
}

/// Turns an error of std into its number.
pub(crate) fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
