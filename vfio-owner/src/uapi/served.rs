//! Files of other kinds, served by whoever made them.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt;

use iommu_core::device_model::Errno;

use super::{Caller, Reply};

/// A file of another kind. Dropping it closes it.
///
/// It can be downcast: `(&*file as &dyn Any).downcast_ref::<MyFile>()`.
pub trait ServedFile: Any + Send + Sync + fmt::Debug {
    /// Makes the call of this number, as [`File::ioctl`](super::File::ioctl) does. By default there is none.
    ///
    /// # Errors
    /// Fails with the kernel's error number.
    fn ioctl(&self, number: u32, argument: u64, caller: &dyn Caller) -> Result<Reply, Errno> {
        let _ = (number, argument, caller);
        Err(Errno::ENOTTY)
    }

    /// Returns the iommufd that it is; by default it is none.
    fn iommufd(&self) -> Option<&iommufd_owner::Context> {
        None
    }
}

/// A file of another kind that a call has made, for which the caller gets a descriptor. Dropping it undoes the call.
pub trait NewServedFile: Send + fmt::Debug {
    /// Tells the caller the descriptor that the file will have; the call returns 0 then.
    ///
    /// # Errors
    /// Fails if the caller's memory is not there (`EFAULT`): the file is gone, and the descriptor free.
    fn install(self: Box<Self>, descriptor: i32, caller: &dyn Caller) -> Result<Arc<dyn ServedFile>, Errno>;
}
