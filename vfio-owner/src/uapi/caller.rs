//! Who calls, and what a call gives back.

use alloc::boxed::Box;
use alloc::sync::Arc;

use iommu_core::device_model::Errno;
use iommufd_owner::uapi::NewFaultQueue;

use super::{File, NewServedFile};
use crate::OpenDevice;
use crate::device_ops::Trigger;

/// The process on whose behalf a call is made, with its descriptors.
pub trait Caller: iommufd_owner::uapi::Caller {
    /// Returns what a descriptor of the process stands for; `None` if it is not open.
    fn file(&self, descriptor: i32) -> Option<File>;

    /// Returns the eventfd that a descriptor of the process stands for.
    ///
    /// # Errors
    /// `EBADF` if the descriptor is not open, `EINVAL` if it is no eventfd.
    fn trigger(&self, descriptor: i32) -> Result<Trigger, Errno>;

    /// Returns which of the things that can fail in this call is to fail, as `/proc/PID/fail-nth` says: the first is 1. None
    /// by default, which is 0. Only files that inject faults ask for it.
    fn fail_nth(&self) -> u32 {
        0
    }

    /// Takes note of what is left of [`fail_nth`](Self::fail_nth) when the call ends: 0 once something failed.
    fn failed_nth(&self, left: u32) {
        let _ = left;
    }
}

/// What a call gives back.
pub type Reply = iommufd_owner::uapi::Reply<NewFile>;

/// A file that a call has made, for which the caller gets a descriptor. Dropping it undoes the call.
#[derive(Debug)]
#[must_use = "dropping it undoes the call"]
pub enum NewFile {
    /// A device that was opened through its group.
    Device(OpenDevice),
    /// A fault queue.
    FaultQueue(NewFaultQueue),
    /// A file of another kind.
    Served(Box<dyn NewServedFile>),
}

impl NewFile {
    /// Completes the call with the descriptor that the file will have. Returns the file, and what the call returns.
    ///
    /// # Errors
    /// The caller's memory, where the descriptor belongs, is not there (`EFAULT`): the file is gone, and the descriptor
    /// free.
    pub fn install(self, descriptor: i32, caller: &dyn Caller) -> Result<(File, u32), Errno> {
        match self {
            Self::Device(device) => Ok((File::Device(device), u32::try_from(descriptor).map_err(|_| Errno::EBADF)?)),
            Self::Served(file) => Ok((File::Served(file.install(descriptor, caller)?), 0)),
            Self::FaultQueue(queue) => Ok((File::FaultQueue(Arc::new(queue.install(descriptor, caller)?)), 0)),
        }
    }
}
