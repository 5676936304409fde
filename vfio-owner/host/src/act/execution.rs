//! A plan carried out, with a journal from which an interrupted run is undone whole.
//!
//! Before a device is touched for the first time, the journal has what it was bound to, on disk. Undoing brings each of
//! these devices back to that, the last one first, however far the run had come; so it can be interrupted itself, and be
//! begun again.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::Serialize;
use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::binding::{Binding, BindingError, Bindings};
use super::journal::{Before, Journal, JournalError, read};
use super::plan::{Plan, Step};

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
        let recorded = step.device().map_or(Ok(()), |device| record(&mut journal, device, bindings));
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

/// What the device is bound to goes into the journal, unless it is there already.
fn record(journal: &mut Journal, device: PciAddress, bindings: &dyn Bindings) -> Result<(), ExecutionError> {
    if journal.has(device) {
        return Ok(());
    }
    let binding = bindings.binding(device).map_err(ExecutionError::Unreadable)?;
    Ok(journal.record(device, binding)?)
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
    Err(BindingError::new(device, format!("it was written, but the device is on {driver}")))
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
    Err(BindingError::new(device, format!("it was written, but the device is on {driver}")))
}
