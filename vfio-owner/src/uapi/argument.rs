//! The argument of a call, and the caller's memory that it points to.

use core::error::Error;

use iommu_core::UserAddr;
use iommu_core::device_model::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::caller::Caller;
use crate::device_ops::Eventfd;

/// The argument of a call, and who makes it.
#[derive(Clone, Copy)]
pub(super) struct Argument<'a> {
    value: u64,
    pub(super) caller: &'a dyn Caller,
}

impl<'a> Argument<'a> {
    pub(super) fn new(value: u64, caller: &'a dyn Caller) -> Self {
        Self { value, caller }
    }

    /// The argument itself, where it is no address.
    pub(super) fn value(self) -> u64 {
        self.value
    }

    /// What lies `offset` bytes behind.
    pub(super) fn behind(self, offset: usize) -> Result<Self, Errno> {
        let value = self.value.checked_add(offset as u64).ok_or(Errno::EFAULT)?;
        Ok(Self { value, ..self })
    }

    /// Copies a structure from where the argument points to.
    pub(super) fn read<T: FromBytes + IntoBytes>(self) -> Result<T, Errno> {
        self.read_at(0)
    }

    /// Copies a structure from `offset` bytes behind it.
    pub(super) fn read_at<T: FromBytes + IntoBytes>(self, offset: u64) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.fill(offset, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies the first `bytes` bytes of a structure; the rest is zero.
    pub(super) fn read_first<T: FromBytes + IntoBytes>(self, bytes: usize) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.fill(0, value.as_mut_bytes().get_mut(..bytes).unwrap_or_default())?;
        Ok(value)
    }

    /// Copies bytes from `offset` bytes behind where the argument points to.
    pub(super) fn fill(self, offset: u64, into: &mut [u8]) -> Result<(), Errno> {
        let at = self.value.checked_add(offset).ok_or(Errno::EFAULT)?;
        self.caller.read(UserAddr::new(at), into).map_err(|_| Errno::EFAULT)
    }

    /// Copies a structure to where the argument points to.
    pub(super) fn write<T: IntoBytes + Immutable>(self, value: &T) -> Result<(), Errno> {
        self.put(0, value.as_bytes())
    }

    /// Copies the first `bytes` bytes of a structure to where the argument points to.
    pub(super) fn write_first<T: IntoBytes + Immutable>(self, value: &T, bytes: u32) -> Result<(), Errno> {
        let all = value.as_bytes();
        let some = usize::try_from(bytes).ok().and_then(|bytes| all.get(..bytes));
        self.put(0, some.unwrap_or(all))
    }

    /// Copies bytes to `offset` bytes behind where the argument points to.
    pub(super) fn put(self, offset: u64, from: &[u8]) -> Result<(), Errno> {
        let at = self.value.checked_add(offset).ok_or(Errno::EFAULT)?;
        self.caller.write(UserAddr::new(at), from).map_err(|_| Errno::EFAULT)
    }

    /// What a descriptor stands for, as an eventfd.
    pub(super) fn eventfd(self, descriptor: i32) -> Eventfd {
        self.caller.trigger(descriptor).map_or_else(Eventfd::Invalid, Eventfd::Set)
    }

    /// Tells the caller's observer why the call is refused.
    pub(super) fn refuse(self, errno: Errno, error: &(dyn Error + 'static)) -> Errno {
        self.caller.refused(error);
        errno
    }
}

/// Checks `argsz`, the size that the caller gives in the first word, against the least that a call needs.
pub(super) fn check_size(argsz: u32, least: usize) -> Result<(), Errno> {
    if usize::try_from(argsz).is_ok_and(|argsz| argsz < least) { Err(Errno::EINVAL) } else { Ok(()) }
}
