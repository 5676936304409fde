//! The journal: the bindings of devices before a plan changed them, as a folder with a file for each device.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, open, openat, renameat, stat, unlinkat};
use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::binding::Binding;
use super::identity::Identity;
use crate::driver_name::is_driver_name;

const VERSION: u32 = 2;
const SUFFIX: &str = ".json";
/// How often and how long another process may have the journal before that is an error.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Longest entry that is read.
const LONGEST: u64 = 1 << 20;

/// What is known of a device that was touched, or that is out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) journal: u32,
    pub(super) device: PciAddress,
    pub(super) identity: Identity,
    /// Entries are undone in descending order.
    pub(super) order: u64,
    /// The devices in user space's hands for which this one has to stay as it is, itself perhaps among them.
    pub(super) needed_by: BTreeSet<PciAddress>,
    /// Devices that may be touched although the machine lives on them.
    pub(super) allowed: BTreeSet<PciAddress>,
    pub(super) progress: Progress,
    pub(super) before: Binding,
    pub(super) after: Binding,
}

/// How far a change has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Progress {
    /// Applying has begun; the device may be in any intermediate state.
    Applying,
    /// Applying is complete; later differences were made by others.
    Applied,
    /// Undoing has begun; the device may be in any intermediate state.
    Undoing,
}

impl Entry {
    pub(super) fn new(device: PciAddress, identity: Identity, order: u64, before: Binding) -> Self {
        Self {
            journal: VERSION,
            device,
            identity,
            order,
            needed_by: BTreeSet::new(),
            allowed: BTreeSet::new(),
            progress: Progress::Applying,
            after: before.clone(),
            before,
        }
    }

    /// Why this cannot have been written by [`Journal::write`] for the device.
    fn fault(&self, device: PciAddress) -> Option<String> {
        if self.journal != VERSION {
            return Some("it is of another version".to_owned());
        }
        if self.device != device {
            return Some(format!("it is about {}", self.device));
        }
        let bindings = [&self.before, &self.after];
        let mut names = bindings.into_iter().flat_map(|binding| binding.driver.iter().chain(&binding.driver_override));
        let name = names.find(|name| !is_driver_name(name))?;
        Some(format!("no driver can have the name {name:?}"))
    }
}

/// The journal of what was applied and not undone: a folder, locked against other processes until this is dropped.
///
/// Each device has its own file, which is replaced atomically, so an interruption never leaves a partial one.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    folder: File,
}

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Another process has locked the journal.
    #[error("{}: another process is carrying out or undoing a plan", path.display())]
    InUse {
        /// Path of the journal.
        path: PathBuf,
    },
    /// There is no journal, so there is nothing to undo.
    #[error("{}: there is no journal, so nothing to undo", path.display())]
    Missing {
        /// Path of the journal.
        path: PathBuf,
    },
    /// The journal does not contain the device.
    #[error("{}: {device} is not out, so there is nothing to undo for it", path.display())]
    NotOut {
        /// Path of the journal.
        path: PathBuf,
        /// The device.
        device: PciAddress,
    },
    /// A plan that changes the device was interrupted before.
    #[error("{}: a plan was interrupted at {device}; undo that first", path.display())]
    Interrupted {
        /// Path of the journal.
        path: PathBuf,
        /// The device.
        device: PciAddress,
    },
    /// The journal cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file in the folder is not a journal entry.
    #[error("{}: line {line} is not one of a journal: {reason}", path.display())]
    Malformed {
        /// Path of the file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// Why.
        reason: String,
    },
}

impl Journal {
    /// Opens and locks the journal in the folder `path`, and creates the folder if needed.
    ///
    /// # Errors
    /// Fails if another process has locked it, or the folder cannot be created or opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        let path = path.as_ref();
        loop {
            match fs::create_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(JournalError::Io { path: path.into(), error });
                }
                _ => {}
            }
            // It may be removed again before it is locked.
            if let Some(journal) = Self::lock(path)? {
                return Ok(journal);
            }
        }
    }

    /// Opens and locks an existing journal in the folder `path`.
    ///
    /// # Errors
    /// Fails if there is none, or another process has locked it.
    pub fn open_existing(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        let path = path.as_ref();
        Self::lock(path)?.ok_or_else(|| JournalError::Missing { path: path.into() })
    }

    /// Returns `None` if the folder is not there, or not any more.
    fn lock(path: &Path) -> Result<Option<Self>, JournalError> {
        let failed = |errno: rustix::io::Errno| match errno {
            rustix::io::Errno::WOULDBLOCK => JournalError::InUse { path: path.into() },
            errno => JournalError::Io { path: path.into(), error: errno.into() },
        };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = match open(path, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            folder => folder.map_err(failed)?,
        };
        let mut tries = 0;
        while let Err(errno) = flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            // A child that was forked and has not become a program yet has every lock of its parent.
            if errno != rustix::io::Errno::WOULDBLOCK || tries == LOCK_TRIES {
                return Err(failed(errno));
            }
            tries += 1;
            thread::sleep(LOCK_PAUSE);
        }
        let (ours, there) = (fstat(&folder).map_err(failed)?, stat(path));
        let same = there.is_ok_and(|there| (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino));
        Ok(same.then(|| Self { path: path.to_path_buf(), folder: folder.into() }))
    }

    fn io(&self, name: &str, error: impl Into<io::Error>) -> JournalError {
        JournalError::Io { path: self.path.join(name), error: error.into() }
    }

    /// Returns the path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns every entry in the order in which the devices were touched, and why others cannot be read.
    pub(super) fn entries(&self) -> Result<(Vec<Entry>, Vec<JournalError>), JournalError> {
        let (mut entries, mut failures) = (Vec::new(), Vec::new());
        for file in fs::read_dir(&self.path).map_err(|error| self.io("", error))? {
            let name = file.map_err(|error| self.io("", error))?.file_name();
            let device = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).and_then(|name| name.parse().ok());
            // What was being written when a run was interrupted has another name.
            let Some(device) = device else { continue };
            match self.read(device) {
                Ok(entry) => entries.push(entry),
                Err(error) => failures.push(error),
            }
        }
        entries.sort_by_key(|entry| (entry.order, entry.device));
        Ok((entries, failures))
    }

    /// Returns the entry of a device.
    pub(super) fn read(&self, device: PciAddress) -> Result<Entry, JournalError> {
        let name = format!("{device}{SUFFIX}");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&self.folder, &*name, flags, Mode::empty()).map_err(|errno| self.io(&name, errno))?;
        let mut text = String::new();
        File::from(file).take(LONGEST).read_to_string(&mut text).map_err(|error| self.io(&name, error))?;
        let path = self.path.join(&name);
        let entry: Entry = serde_json::from_str(&text).map_err(|error| JournalError::Malformed {
            path: path.clone(),
            line: error.line(),
            reason: error.to_string(),
        })?;
        match entry.fault(device) {
            Some(reason) => Err(JournalError::Malformed { path, line: 1, reason }),
            None => Ok(entry),
        }
    }

    /// Writes the entry of a device in place of the one that is there, whole or not at all.
    pub(super) fn write(&self, entry: &Entry) -> Result<(), JournalError> {
        let name = format!("{}{SUFFIX}", entry.device);
        let failed = |error: io::Error| self.io(&name, error);
        let text = serde_json::to_string_pretty(entry).map_err(|error| failed(error.into()))?;
        let scratch = format!("{name}.new");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.folder, &*scratch, flags, Mode::from_raw_mode(0o600));
        let mut file = File::from(file.map_err(|errno| failed(errno.into()))?);
        file.write_all(text.as_bytes()).map_err(failed)?;
        // It need not be on disk: what devices are bound to does not outlive the running kernel either.
        renameat(&self.folder, &*scratch, &self.folder, &*name).map_err(|errno| failed(errno.into()))
    }

    /// Removes the entry of a device, if there is one.
    pub(super) fn remove(&self, device: PciAddress) -> Result<(), JournalError> {
        let name = format!("{device}{SUFFIX}");
        match unlinkat(&self.folder, &*name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.io(&name, errno)),
        }
    }

    /// Removes the folder if it contains no device.
    ///
    /// # Errors
    /// Fails if the folder cannot be read.
    pub fn remove_if_empty(self) -> Result<(), JournalError> {
        let (entries, failures) = self.entries()?;
        if entries.is_empty() && failures.is_empty() {
            // Only our own files: the folder stays if something else is in it.
            for file in fs::read_dir(&self.path).map_err(|error| self.io("", error))?.flatten() {
                if file.file_name().to_str().is_some_and(|name| name.ends_with(".json.new")) {
                    let _ = fs::remove_file(file.path());
                }
            }
            let _ = fs::remove_dir(&self.path);
        }
        Ok(())
    }
}
