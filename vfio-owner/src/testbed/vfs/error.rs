//! Why a file was not opened, read or written.

use alloc::string::String;
use alloc::sync::Arc;

use iommu_core::device_model::pci::DynamicIdError;
use iommu_core::device_model::{Errno, OverrideTooLong};

use super::super::machine::MachineError;
use super::tree::WalkError;
use crate::error::{OpenDeviceError, OpenGroupError};

/// Why a file was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The path leads to no file of the machine.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// It would have to be created, and nothing can be created here.
    #[error("no file can be created at {path}")]
    NotCreated {
        /// The path.
        path: String,
    },
    /// It is a directory, which cannot be opened for writing.
    #[error("{path} is a directory")]
    Directory {
        /// The path.
        path: String,
    },
    /// It is a link, and links were not to be followed.
    #[error("{path} is a link")]
    Link {
        /// The path.
        path: String,
    },
    /// Its permissions do not allow it. Root, too, cannot read what nobody may read, nor write what nobody may write.
    #[error("the permissions of {path} ({mode:03o}) do not allow it")]
    Permissions {
        /// The path.
        path: String,
        /// The permissions.
        mode: u16,
    },
    /// The group cannot be opened.
    #[error(transparent)]
    Group(#[from] OpenGroupError),
    /// The device cannot be opened.
    #[error(transparent)]
    Device(#[from] OpenDeviceError),
}

impl OpenError {
    /// Returns the error number of the call.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Walk(error) => error.errno(),
            Self::NotCreated { .. } | Self::Permissions { .. } => Errno::EACCES,
            Self::Directory { .. } => Errno::EISDIR,
            Self::Link { .. } => Errno::ELOOP,
            Self::Group(error) => error.errno(),
            Self::Device(error) => error.errno(),
        }
    }
}

/// Why an attribute was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttributeError {
    /// What it belonged to is gone.
    #[error("{owner} is gone")]
    Gone {
        /// What it belonged to.
        owner: String,
    },
    /// The machine refused.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The dynamic ids of a driver were not changed.
    #[error(transparent)]
    DynamicId(#[from] DynamicIdError),
    /// The text for `driver_override` is too long.
    #[error(transparent)]
    OverrideTooLong(#[from] OverrideTooLong),
    /// The text is not what the file takes.
    #[error("{text:?} is not {expected}")]
    Malformed {
        /// The text.
        text: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The caller lacks a capability.
    #[error("only root may do this")]
    NotRoot,
    /// A driver is bound, which decides.
    #[error("{device} is bound to {driver}")]
    HasDriver {
        /// The device.
        device: Arc<str>,
        /// Its driver.
        driver: Arc<str>,
    },
    /// The device is not enabled.
    #[error("{device} is not enabled")]
    NotEnabled {
        /// The device.
        device: Arc<str>,
    },
    /// The device cannot be reset alone.
    #[error("{device} cannot be reset alone")]
    NotResettable {
        /// The device.
        device: Arc<str>,
    },
    /// It cannot be read in this way.
    #[error("this file cannot be read")]
    NotReadable,
    /// It cannot be written in this way.
    #[error("this file cannot be written")]
    NotWritable,
    /// It was not opened for this.
    #[error("the file was not opened for this")]
    NotOpenFor,
}

impl AttributeError {
    /// Returns the error number of the call.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Gone { .. } => Errno::ENODEV,
            Self::Machine(error) => error.errno(),
            Self::DynamicId(error) => error.errno(),
            Self::OverrideTooLong(error) => error.errno(),
            Self::Malformed { .. } => Errno::EINVAL,
            Self::NotRoot => Errno::EACCES,
            Self::HasDriver { .. } => Errno::EBUSY,
            Self::NotResettable { .. } => Errno::ENOTTY,
            Self::NotEnabled { .. } | Self::NotReadable | Self::NotWritable => Errno::EIO,
            Self::NotOpenFor => Errno::EBADF,
        }
    }
}
