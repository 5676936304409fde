//! The kernel's uAPI: `/dev/vfio` by number and bytes, as `linux/vfio.h` of Linux 6.12 has it.
//!
//! A [`File`] is what a descriptor stands for. Whoever serves a process (a kernel, a supervisor, a player of recordings)
//! keeps the table of descriptors and calls [`File::ioctl`], [`File::read`], [`File::write`], [`File::poll`] and
//! [`File::mappable`]; `dup` and `fork` clone the [`File`], and dropping the last clone closes it. The calls decode and
//! check their argument in the kernel's order, and call the typed operation; they hold no state.
//!
//! Structures have the byte order of the machine, as in the kernel.

mod argument;
mod caller;
mod capabilities;
mod container;
mod device;
mod device_file;
mod feature;
mod group;
mod hot_reset;
mod interrupts;
mod numbers;
mod regions;
mod served;
mod wire;

use alloc::sync::Arc;

use iommu_core::UserAddr;
use iommu_core::device_model::Errno;

use self::argument::Argument;
pub use self::caller::{Caller, NewFile, Reply};
pub use self::numbers::{Call, Kind, calls};
pub use self::regions::Mappable;
pub use self::served::{NewServedFile, ServedFile};
use crate::{Container, DeviceFile, GroupFile, OpenDevice};
pub use iommufd_owner::uapi::{Capability, Readiness};

/// An open file of `/dev/vfio` or `/dev/iommu`.
///
/// A clone is the same open file. Dropping the last clone closes it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum File {
    /// `/dev/vfio/vfio`.
    Container(Container),
    /// `/dev/vfio/N`.
    Group(GroupFile),
    /// A device that was opened through its group.
    Device(OpenDevice),
    /// `/dev/vfio/devices/vfioN`, bound to an iommufd or not yet.
    DeviceFile(DeviceFile),
    /// `/dev/iommu`.
    Iommufd(iommufd_owner::Context),
    /// Page faults of an iommufd.
    FaultQueue(Arc<iommufd_owner::FaultQueue>),
    /// A file of another kind, served by whoever made it.
    Served(Arc<dyn ServedFile>),
    /// Any other file, which serves no call.
    Other,
}

impl File {
    /// Makes the call of this number: what `ioctl` with `argument` does. Returns its value, or a new file, for which the
    /// caller's table must have a descriptor.
    ///
    /// # Errors
    /// Fails with the kernel's error number. The caller [is told](iommufd_owner::uapi::Caller::refused) why.
    pub fn ioctl(&self, number: u32, argument: u64, caller: &dyn Caller) -> Result<Reply, Errno> {
        if let Self::Iommufd(context) = self {
            use iommufd_owner::uapi::{Reply as Answer, ioctl};
            return Ok(match ioctl(context, number, argument, caller)? {
                Answer::Value(value) => Reply::Value(value),
                Answer::File(queue) => Reply::File(NewFile::FaultQueue(queue)),
            });
        }
        let argument = Argument::new(argument, caller);
        match self {
            Self::Container(container) => container::ioctl(container, number, argument),
            Self::Group(group) => group::ioctl(group, number, argument),
            Self::Device(device) => device::ioctl(device, number, argument),
            Self::DeviceFile(file) => device_file::ioctl(file, number, argument),
            Self::Served(file) => file.ioctl(number, argument.value(), argument.caller),
            Self::Iommufd(_) | Self::FaultQueue(_) | Self::Other => Err(Errno::ENOTTY),
        }
    }

    /// Reads `bytes` bytes at `offset` of the file into the caller's memory at `into`: what `pread` does. Returns how
    /// many bytes were read. The region of a device file is `offset >> 40`.
    ///
    /// # Errors
    /// Fails with the kernel's error number.
    // V71.
    pub fn read(&self, offset: u64, into: UserAddr, bytes: u64, caller: &dyn Caller) -> Result<u64, Errno> {
        if let Self::FaultQueue(queue) = self {
            return iommufd_owner::uapi::fault_queue::read(queue, into, bytes, caller);
        }
        regions::read(&self.access(caller)?, offset, Argument::new(into.get(), caller), bytes)
    }

    /// Writes `bytes` bytes of the caller's memory at `from` to `offset` of the file: what `pwrite` does. Returns how
    /// many bytes were written.
    ///
    /// # Errors
    /// Fails with the kernel's error number.
    pub fn write(&self, offset: u64, from: UserAddr, bytes: u64, caller: &dyn Caller) -> Result<u64, Errno> {
        if let Self::FaultQueue(queue) = self {
            return iommufd_owner::uapi::fault_queue::write(queue, from, bytes, caller);
        }
        regions::write(&self.access(caller)?, offset, Argument::new(from.get(), caller), bytes)
    }

    /// Returns the iommufd that it is.
    pub fn iommufd(&self) -> Option<&iommufd_owner::Context> {
        match self {
            Self::Iommufd(context) => Some(context),
            Self::Served(file) => file.iommufd(),
            _ => None,
        }
    }

    /// Returns what `poll` reports. Files that have nothing to report are always ready.
    pub fn poll(&self) -> Readiness {
        match self {
            Self::FaultQueue(queue) => iommufd_owner::uapi::fault_queue::poll(queue),
            _ => Readiness { readable: true, writable: true },
        }
    }

    /// Returns what `mmap` of `bytes` bytes at `offset`, shared between processes, makes visible.
    ///
    /// # Errors
    /// Fails with the kernel's error number: the file or the region cannot be mapped, or not so much of it.
    // Table Vt32.
    pub fn mappable(&self, offset: u64, bytes: u64, caller: &dyn Caller) -> Result<Mappable, Errno> {
        match self {
            Self::Device(_) | Self::DeviceFile(_) => regions::mappable(&self.access(caller)?, offset, bytes),
            _ => Err(Errno::ENODEV),
        }
    }

    /// The device that a file gives access to.
    fn access(&self, caller: &dyn Caller) -> Result<OpenDevice, Errno> {
        match self {
            Self::Device(device) => Ok(device.clone()),
            Self::DeviceFile(file) => match file.bound() {
                Ok(bound) => Ok((*bound).clone()),
                Err(error) => {
                    caller.refused(&error);
                    Err(error.errno())
                }
            },
            // Files without these calls.
            Self::Container(_)
            | Self::Group(_)
            | Self::Iommufd(_)
            | Self::FaultQueue(_)
            | Self::Served(_)
            | Self::Other => Err(Errno::EINVAL),
        }
    }
}
