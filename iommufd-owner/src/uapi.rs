//! The kernel's uAPI: `ioctl`, `read`, `write` and `poll` of `/dev/iommu` and of fault queues, by number and bytes.
//!
//! [`ioctl`] serves every call of `include/uapi/linux/iommufd.h` (Linux 6.12), and the calls of a VFIO container that an
//! iommufd serves as well. It decodes the caller's structures, checks sizes, flags and reserved fields in the kernel's order,
//! calls the operation of [`Context`] that does the work, and writes back what the kernel writes back, partial results of
//! refused calls included. It holds no state. Descriptors, and so `dup`, `fork` and the last close, belong to whoever serves
//! it; dropping the last clone of a [`Context`] or a [`FaultQueue`] is the close of that file.
//!
//! ```
//! use std::sync::Arc;
//!
//! use iommufd_owner::iommu_core::software::{LockedPages, Memory, Process};
//! use iommufd_owner::iommu_core::{Access, UserMemory};
//! use iommufd_owner::uapi::{Caller, Capability, Reply, ioctl};
//! # use iommufd_owner::{Context, iommu_core::{IommuSubsystem, hardware::Endpoint}};
//!
//! struct Task(Arc<dyn UserMemory>);
//!
//! impl Caller for Task {
//!     fn memory(&self) -> &Arc<dyn UserMemory> {
//!         &self.0
//!     }
//!
//!     fn has(&self, _: Capability) -> bool {
//!         false
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let memory = Memory::new();
//! # let (_, right) = IommuSubsystem::builder(|_: &Endpoint| None).build();
//! # let context = Context::new("vmm", &right);
//! let process = Process::new(&memory, LockedPages::unlimited());
//! let structure = process.allocate(4096, Access::ReadWrite).ok_or("no memory")?;
//! let vmm = Task(process.clone());
//! // struct iommu_ioas_alloc { size = 12, flags, out_ioas_id }
//! process.write(structure, &12_u32.to_ne_bytes())?;
//! let done = ioctl(&context, 0x3b81, structure.get(), &vmm);
//! assert!(matches!(done, Ok(Reply::Value(0))));
//! let mut id = [0; 4];
//! process.read(structure.checked_add(8).ok_or("no memory")?, &mut id)?;
//! assert_eq!(u32::from_ne_bytes(id), 1);
//! # Ok(())
//! # }
//! ```

mod call_error;
mod container;
pub mod fault_queue;
mod frame;
mod hwpt;
mod ioas;
mod option;
mod structures;
mod table;

use alloc::sync::Arc;
use core::error::Error;

use iommu_core::device_model::Errno;
use iommu_core::user_memory::BadAddress;
use iommu_core::{UserAddr, UserMemory};

pub use self::call_error::CallError;
pub use self::fault_queue::NewFaultQueue;
pub use self::table::{CallInfo, calls};
use crate::context::Context;
#[cfg(doc)]
use crate::fault_queue::FaultQueue;

/// The process on whose behalf a call is made.
pub trait Caller {
    /// Returns its memory: what pointers mean, and what a map pins. It also says whether limits bind the caller.
    fn memory(&self) -> &Arc<dyn UserMemory>;

    /// Returns whether it has a capability.
    fn has(&self, capability: Capability) -> bool;

    /// Takes note of why a call is refused: the typed error behind the number that the caller gets, which says who is in the
    /// way. For the calls of this module it is a [`CallError`]. Called without locks.
    fn refused(&self, error: &(dyn Error + 'static)) {
        let _ = error;
    }

    /// Copies from its memory.
    ///
    /// # Errors
    /// Some of it cannot be read.
    fn read(&self, at: UserAddr, into: &mut [u8]) -> Result<(), BadAddress> {
        self.memory().read(at, into)
    }

    /// Copies to its memory.
    ///
    /// # Errors
    /// Some of it cannot be written. A part may have been.
    fn write(&self, at: UserAddr, from: &[u8]) -> Result<(), BadAddress> {
        self.memory().write(at, from)
    }
}

/// Capabilities that calls ask for. That of locking memory without a limit is told by [`UserMemory::limit`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Capability {
    /// `CAP_SYS_RESOURCE`: to choose whose limit locked memory counts against.
    SysResource,
    /// `CAP_SYS_RAWIO`: to use devices without an IOMMU.
    SysRawio,
}

/// What a call gives back.
#[derive(Debug)]
pub enum Reply<F> {
    /// What it returns.
    Value(u32),
    /// A file, for which the caller gets a descriptor.
    File(F),
}

/// What `poll` reports of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Readiness {
    /// `POLLIN` and `POLLRDNORM`.
    pub readable: bool,
    /// `POLLOUT` and `POLLWRNORM`.
    pub writable: bool,
}

/// Serves a call on an open `/dev/iommu`. `request` is the whole number, type byte and all.
///
/// # Errors
/// Returns what Linux answers; the caller is [told](Caller::refused) why.
pub fn ioctl(
    context: &Context,
    request: u32,
    argument: u64,
    caller: &dyn Caller,
) -> Result<Reply<NewFaultQueue>, Errno> {
    table::dispatch(context, request, argument, caller).map_err(|error| error.told_to(caller))
}
