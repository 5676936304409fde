//! A plan carried out, with a journal from which an interrupted run is undone whole.
//!
//! Before a device is touched for the first time, the journal has what it was bound to, on disk. Undoing brings each of
//! these devices back to that, the last one first, however far the run had come; so it can be interrupted itself, and be
//! begun again.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use iommu_core::device_model::pci::PciAddress;
use serde::{Deserialize, Serialize};

use super::binding::{Binding, BindingError, Bindings};
use super::plan::{Plan, Step, is_driver_name};

/// What has been done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "done", rename_all = "kebab-case")]
pub enum Done {
    /// A step of a plan.
    Step(Step),
    /// A device is as it was before.
    Restored {
        /// The device.
        device: PciAddress,
        /// What it is bound to again.
        #[serde(flatten)]
        binding: Binding,
    },
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step) => step.fmt(f),
            Self::Restored { device, binding } => {
                write!(f, "{device} is on {} again", binding.driver.as_deref().unwrap_or("no driver"))
            }
        }
    }
}

/// The first line of a journal.
#[derive(Serialize, Deserialize)]
struct Header {
    journal: u32,
    devices: Vec<PciAddress>,
}

const VERSION: u32 = 1;

/// What a device was bound to before it was touched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Before {
    device: PciAddress,
    #[serde(flatten)]
    binding: Binding,
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

    /// What the device is bound to, unless it is in the journal already.
    fn record(&mut self, device: PciAddress, bindings: &dyn Bindings) -> Result<(), ExecutionError> {
        if !self.recorded.contains(&device) {
            let binding = bindings.binding(device).map_err(ExecutionError::Unreadable)?;
            self.write(&Before { device, binding })?;
            self.recorded.push(device);
        }
        Ok(())
    }
}

/// The devices of a journal in the order in which they were touched. A last line without its end was being written when
/// the run was interrupted: nothing had been done by then.
fn read(path: &Path) -> Result<Vec<Before>, JournalError> {
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
            return Err(malformed(line, &alloc::format!("no driver can have the name {name:?}")));
        }
        befores.push(before);
    }
    Ok(befores)
}

/// A plan was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutionError {
    /// The journal failed. No step was taken after that.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What a device is bound to cannot be read, so it was not touched.
    #[error(transparent)]
    Unreadable(BindingError),
    /// A step failed; everything that had been done is undone.
    #[error("{step}: {error}; everything is as it was before")]
    Step {
        /// The step.
        step: Step,
        /// Why.
        error: BindingError,
    },
    /// A step failed, and so did undoing what had been done; the journal is still there.
    #[error("{step}: {error}; undoing that failed as well: {undo}")]
    HalfDone {
        /// The step.
        step: Step,
        /// Why.
        error: BindingError,
        /// Why it was not undone.
        undo: Box<UndoError>,
    },
}

/// What was done has not been undone, or not all of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UndoError {
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A device was not brought back. The others were tried; the journal is still there.
    #[error("{device} was not brought back: {error}")]
    Device {
        /// The first of them.
        device: PciAddress,
        /// Why.
        error: BindingError,
    },
}

/// Carries out a plan, telling of each step that is done. The journal at `journal` stays, for [`undo`]. When a step fails,
/// what was done is undone at once.
///
/// # Errors
/// Nothing has changed, unless the error says so.
pub fn carry_out(
    plan: &Plan,
    bindings: &dyn Bindings,
    journal: impl AsRef<Path>,
    tell: &mut dyn FnMut(Done),
) -> Result<(), ExecutionError> {
    let path = journal.as_ref();
    let mut journal = Journal::begin(path, plan)?;
    for step in &plan.steps {
        let recorded = step.device().map_or(Ok(()), |device| journal.record(device, bindings));
        let taken = match recorded {
            Ok(()) => step.take(bindings).and_then(|()| check(step, bindings)),
            Err(ExecutionError::Unreadable(error)) => Err(error),
            Err(error) => return Err(error),
        };
        if let Err(error) = taken {
            let step = step.clone();
            return Err(match undo(bindings, path, tell) {
                Ok(()) => ExecutionError::Step { step, error },
                Err(undo) => ExecutionError::HalfDone { step, error, undo: Box::new(undo) },
            });
        }
        tell(Done::Step(step.clone()));
    }
    Ok(())
}

/// A write to sysfs can succeed and leave the device with no driver, or with another.
fn check(step: &Step, bindings: &dyn Bindings) -> Result<(), BindingError> {
    let Some(device) = step.device() else { return Ok(()) };
    let now = bindings.binding(device)?;
    let as_meant = match step {
        Step::Load { .. } => true,
        Step::Override { driver, .. } => now.driver_override.as_ref() == Some(driver),
        Step::Unbind { .. } => now.driver.is_none(),
        Step::Bind { driver, .. } => now.driver.as_ref() == Some(driver),
    };
    if as_meant {
        return Ok(());
    }
    let driver = now.driver.unwrap_or_else(|| "no driver".to_string());
    Err(BindingError::new(device, alloc::format!("it was written, but the device is on {driver}")))
}

/// Brings every device of a journal back to what it was before, the last one first, and takes the journal away.
///
/// # Errors
/// A device could not be brought back; the others were. The journal stays.
pub fn undo(bindings: &dyn Bindings, journal: impl AsRef<Path>, tell: &mut dyn FnMut(Done)) -> Result<(), UndoError> {
    let path = journal.as_ref();
    let mut failure = None;
    for before in read(path)?.into_iter().rev() {
        match restore(&before, bindings) {
            Ok(()) => tell(Done::Restored { device: before.device, binding: before.binding }),
            Err(error) => failure = failure.or(Some((before.device, error))),
        }
    }
    if let Some((device, error)) = failure {
        return Err(UndoError::Device { device, error });
    }
    Ok(fs::remove_file(path).map_err(|error| JournalError::Io { path: path.to_path_buf(), error })?)
}

fn restore(before: &Before, bindings: &dyn Bindings) -> Result<(), BindingError> {
    let Before { device, binding: wanted } = before;
    let now = bindings.binding(*device)?;
    if let Some(driver) = now.driver.as_deref().filter(|_| now.driver != wanted.driver) {
        bindings.unbind(*device, driver)?;
    }
    if now.driver_override != wanted.driver_override {
        bindings.set_override(*device, wanted.driver_override.as_deref())?;
    }
    if let Some(driver) = wanted.driver.as_deref().filter(|_| now.driver != wanted.driver) {
        bindings.bind(*device, driver)?;
    }
    let now = bindings.binding(*device)?;
    if now == *wanted {
        return Ok(());
    }
    let driver = now.driver.unwrap_or_else(|| "no driver".to_string());
    Err(BindingError::new(device, alloc::format!("it was written, but the device is on {driver}")))
}
