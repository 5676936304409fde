//! What devices were bound to before a plan touched them, on disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::binding::Binding;
use super::plan::{Plan, is_driver_name};

/// The first line of a journal.
#[derive(Serialize, Deserialize)]
struct Header {
    journal: u32,
    devices: Vec<PciAddress>,
}

const VERSION: u32 = 1;

/// What a device was bound to before it was touched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Before {
    pub(super) device: PciAddress,
    #[serde(flatten)]
    pub(super) binding: Binding,
}

/// The journal of a plan that is carried out: a file that is there from the first step on until everything is undone.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    recorded: Vec<PciAddress>,
}

/// A journal could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// There is one already: of a plan that was carried out, or interrupted.
    #[error("{}: a plan was carried out or interrupted before; undo that first", path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// There is none, so nothing is to be undone.
    #[error("{}: there is no journal, so nothing to undo", path.display())]
    Missing {
        /// Where.
        path: PathBuf,
    },
    /// It cannot be written or read.
    #[error("{}: {error}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A line is not one of a journal.
    #[error("{}: line {line} is not one of a journal: {reason}", path.display())]
    Malformed {
        /// Where.
        path: PathBuf,
        /// Which line, counted from 1.
        line: usize,
        /// Why.
        reason: String,
    },
}

impl Journal {
    /// Begins the journal of `plan` at `path`.
    ///
    /// # Errors
    /// There is one already, or it cannot be written.
    pub fn begin(path: impl AsRef<Path>, plan: &Plan) -> Result<Self, JournalError> {
        let path = path.as_ref().to_path_buf();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => JournalError::Exists { path: path.clone() },
            _ => JournalError::Io { path: path.clone(), error },
        };
        let file = OpenOptions::new().append(true).create_new(true).open(&path).map_err(failed)?;
        // The name of the file must be on disk as well.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        let mut journal = Self { path: path.clone(), file, recorded: Vec::new() };
        journal.write(&Header { journal: VERSION, devices: plan.devices.clone() })?;
        Ok(journal)
    }

    fn write(&mut self, line: &impl Serialize) -> Result<(), JournalError> {
        let io = |error| JournalError::Io { path: self.path.clone(), error };
        let mut text = serde_json::to_string(line).map_err(|error| io(error.into()))?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data()).map_err(io)
    }

    /// Whether it is written already what the device was bound to.
    pub(super) fn has(&self, device: PciAddress) -> bool {
        self.recorded.contains(&device)
    }

    /// Writes what the device is bound to.
    pub(super) fn record(&mut self, device: PciAddress, binding: Binding) -> Result<(), JournalError> {
        self.write(&Before { device, binding })?;
        self.recorded.push(device);
        Ok(())
    }
}

/// The devices of a journal in the order in which they were touched. A last line without its end was being written when
/// the run was interrupted: nothing had been done by then.
pub(super) fn read(path: &Path) -> Result<Vec<Before>, JournalError> {
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => JournalError::Missing { path: path.to_path_buf() },
        _ => JournalError::Io { path: path.to_path_buf(), error },
    })?;
    let whole = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or_default();
    let malformed =
        |line, reason: &dyn ToString| JournalError::Malformed { path: path.into(), line, reason: reason.to_string() };
    let mut befores = Vec::new();
    for (line, text) in (1..).zip(whole.lines()) {
        if line == 1 {
            let header: Header = serde_json::from_str(text).map_err(|error| malformed(line, &error))?;
            if header.journal != VERSION {
                return Err(malformed(line, &"it is of another version"));
            }
            continue;
        }
        let before: Before = serde_json::from_str(text).map_err(|error| malformed(line, &error))?;
        let mut named = before.binding.driver.iter().chain(&before.binding.driver_override);
        if let Some(name) = named.find(|name| !is_driver_name(name)) {
            return Err(malformed(line, &format!("no driver can have the name {name:?}")));
        }
        befores.push(before);
    }
    Ok(befores)
}
