//! Directories that do not outlive their rooms, even if the process is killed.
//!
//! A room locks its directory, and the lock goes with the process. So whoever makes a directory removes first what others have
//! left: those that can be locked.

use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, fstat, openat, stat};
use rustix::io::Errno;
use rustix::process::geteuid;
use tempfile::TempDir;

const PREFIX: &str = "vfio-room-";

/// A directory among the temporary files. Dropping removes it.
#[derive(Debug)]
pub(crate) struct Scratch {
    directory: TempDir,
    _lock: File,
}

impl Scratch {
    pub(crate) fn new() -> io::Result<Self> {
        let parent = tempfile::env::temp_dir();
        remove_left(&parent);
        loop {
            let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&parent)?;
            // Until it is locked, somebody else may take it for one that was left.
            if let Some(lock) = lock(directory.path())? {
                return Ok(Self { directory, _lock: lock.into() });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Locks a directory, if it is still there and nobody else has.
fn lock(path: &Path) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        locked => locked?,
    }
    let (locked, there) = (fstat(&directory)?, stat(path));
    let same = there.is_ok_and(|there| (there.st_dev, there.st_ino) == (locked.st_dev, locked.st_ino));
    Ok(same.then_some(directory))
}

/// Removes the directories of this user's rooms whose process has gone. What cannot be removed stays.
fn remove_left(parent: &Path) {
    for path in left(parent) {
        let Ok(Some(lock)) = lock(&path) else { continue };
        if fstat(&lock).is_ok_and(|found| found.st_uid == geteuid().as_raw()) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn left(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)));
    ours.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let [left, held, other] = ["vfio-room-left", "vfio-room-held", "other"].map(|name| parent.path().join(name));
        for directory in [&left, &held, &other] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("file"), "").unwrap();
        }
        let _held = lock(&held).unwrap().unwrap();
        assert!(lock(&held).unwrap().is_none());
        remove_left(parent.path());
        assert_eq!([left.exists(), held.exists(), other.exists()], [false, true, true]);
        assert!(lock(&left).unwrap().is_none());
    }
}
