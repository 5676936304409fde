//! Open files of a process.

use std::sync::Arc;

use scenario_player::Errno;
use vfio_owner::device_ops::Event as _;
use vfio_owner::iommu_core::device_model::Errno as ModelErrno;
use vfio_owner::testbed::vfs::{OpenAttribute, Written};
use vfio_owner::uapi;

use super::memory::Memory;
use super::{Caller, errno};
use event::Event;

mod event;

/// An open file; a clone is the same.
#[derive(Debug, Clone)]
pub(super) enum OpenFile {
    Uapi(uapi::File),
    Attribute(OpenAttribute),
    Event(Arc<Event>),
    /// A number whose file is just being made.
    Reserved,
}

impl OpenFile {
    pub(super) fn new_event() -> Self {
        Self::Event(Arc::default())
    }

    /// The file as VFIO and iommufd see it.
    pub(super) fn as_uapi(&self) -> uapi::File {
        match self {
            Self::Uapi(file) => file.clone(),
            Self::Attribute(_) | Self::Event(_) | Self::Reserved => uapi::File::Other,
        }
    }

    pub(super) fn ioctl(&self, request: u32, argument: u64, caller: &Caller<'_>) -> Result<uapi::Reply, ModelErrno> {
        self.as_uapi().ioctl(request, argument, caller)
    }

    pub(super) fn read(&self, into: &mut [u8], memory: &Memory, caller: &Caller<'_>) -> Result<usize, Errno> {
        match self {
            // Each is opened anew to be read.
            Self::Attribute(attribute) => attribute.read(0, into).map_err(|error| errno(error.errno())),
            Self::Event(event) => event.read(into),
            Self::Uapi(file) => {
                let bytes = memory.bounce(&[]);
                let read = file.read(0, bytes, into.len() as u64, caller).map_err(errno)?;
                memory.copy_out(bytes, into);
                usize::try_from(read).map_err(|_| Errno::EIO)
            }
            Self::Reserved => Err(Errno::EBADF),
        }
    }

    pub(super) fn write(&self, from: &[u8], memory: &Memory, caller: &Caller<'_>) -> Result<Written, Errno> {
        match self {
            Self::Attribute(attribute) => attribute.write(0, from).map_err(|error| errno(error.errno())),
            Self::Event(event) => {
                event.signal();
                Ok(Written::Bytes(from.len()))
            }
            Self::Uapi(file) => {
                let bytes = memory.bounce(from);
                let written = file.write(0, bytes, from.len() as u64, caller).map_err(errno)?;
                Ok(Written::Bytes(usize::try_from(written).map_err(|_| Errno::EIO)?))
            }
            Self::Reserved => Err(Errno::EBADF),
        }
    }
}
