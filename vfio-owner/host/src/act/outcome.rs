//! What applying and undoing came to.

use std::fmt;

use serde::Serialize;
use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::binding::{Binding, BindingError};
use super::journal::JournalError;
use super::plan::Step;

/// What applying or undoing did: a step, or what became of a device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "done", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Done {
    /// A step of a plan.
    Step(Step),
    /// A device was restored to its previous binding.
    Restored {
        /// The device.
        device: PciAddress,
        /// The binding that it has again.
        #[serde(flatten)]
        binding: Binding,
    },
    /// A device was kept as it is, since other devices of its group are still assigned.
    Kept {
        /// The device.
        device: PciAddress,
        /// The devices that are still assigned.
        needed_by: Vec<PciAddress>,
    },
    /// Someone else changed the device after the plan was applied, so it was left alone.
    LeftAlone {
        /// The device.
        device: PciAddress,
        /// Its present binding.
        #[serde(flatten)]
        binding: Binding,
    },
    /// The device no longer exists, or another one is at its address.
    Gone {
        /// The device.
        device: PciAddress,
    },
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step) => step.fmt(f),
            Self::Restored { device, binding } => write!(f, "{device} is on {binding} again"),
            Self::Kept { device, needed_by } => {
                let needed_by: Vec<String> = needed_by.iter().map(ToString::to_string).collect();
                write!(f, "{device} stays as it is while {} is out", needed_by.join(", "))
            }
            Self::LeftAlone { device, binding } => {
                write!(f, "{device} is on {binding}, as the plan did not leave it, and was left alone")
            }
            Self::Gone { device } => write!(f, "{device} is not there any more, so there is nothing to restore"),
        }
    }
}

/// Why a plan was not applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutionError {
    /// Nothing was changed: the journal cannot be written.
    #[error("{0}; nothing was changed")]
    NotBegun(JournalError),
    /// Applying failed, and all changes were undone.
    #[error("{cause}; everything is as it was before")]
    Undone {
        /// Why applying failed.
        cause: Box<ExecutionFailure>,
    },
    /// Applying failed, and some changes could not be undone.
    #[error("{cause}; {}", left(failures))]
    HalfDone {
        /// Why applying failed.
        cause: Box<ExecutionFailure>,
        /// What was not undone, and why.
        failures: Vec<UndoFailure>,
    },
}

/// Why applying a plan stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutionFailure {
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A step failed.
    #[error("{step}: {error}")]
    Step {
        /// The step.
        step: Step,
        /// Why.
        error: BindingError,
    },
}

/// Why a plan was not undone, or only in part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UndoError {
    /// The journal cannot be opened, or does not have the device.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The machine cannot be read.
    #[error(transparent)]
    Unreadable(BindingError),
    /// Some devices were not restored. All others were; the journal keeps these.
    #[error("{}", left(failures))]
    Devices {
        /// The devices, and why.
        failures: Vec<UndoFailure>,
    },
}

/// Why a device was not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UndoFailure {
    /// Its binding could not be changed.
    #[error("{device} was not restored: {error}")]
    Device {
        /// The device.
        device: PciAddress,
        /// Why.
        error: BindingError,
    },
    /// Its entry in the journal could not be read, written or removed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

fn left(failures: &[UndoFailure]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
