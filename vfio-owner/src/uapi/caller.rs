//! Who calls.

use alloc::sync::Arc;
use core::error::Error;

use iommu_core::device_model::Errno;
use iommu_core::{UserAddr, UserMemory};

use super::File;
use crate::device_ops::Trigger;

/// The caller's memory is not there, or not for this access (`EFAULT`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault;

/// What a call gives back.
#[derive(Clone, Debug)]
pub enum Reply {
    /// The value that `ioctl` returns.
    Value(u32),
    /// A new file, for which the caller is given a descriptor.
    File(File),
}

/// The process that makes a call.
pub trait Caller {
    /// Reads the caller's memory.
    ///
    /// # Errors
    /// Fails if some of it is not there.
    fn read(&self, at: UserAddr, into: &mut [u8]) -> Result<(), Fault>;

    /// Writes to the caller's memory.
    ///
    /// # Errors
    /// Fails if some of it is not there, or is read-only.
    fn write(&self, at: UserAddr, from: &[u8]) -> Result<(), Fault>;

    /// Returns the caller's memory, as what is mapped for devices pins it.
    fn memory(&self) -> Arc<dyn UserMemory>;

    /// Returns what the caller's descriptor stands for; `None` if it is not open.
    fn file(&self, descriptor: i32) -> Option<File>;

    /// Returns the eventfd that the caller's descriptor stands for.
    ///
    /// # Errors
    /// `EBADF` if it is not open, `EINVAL` if it is no eventfd.
    fn trigger(&self, descriptor: i32) -> Result<Trigger, Errno>;

    /// Hears of a refused call, with the typed error, which says who is in the way.
    fn refused(&self, error: &(dyn Error + 'static)) {
        let _ = error;
    }
}
