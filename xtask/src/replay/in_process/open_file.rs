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
            Self::Uapi(_) => self.read_at(0, into, memory, caller),
            Self::Reserved => Err(Errno::EBADF),
        }
    }

    /// Reads from a place of the file, through the scratch area.
    pub(super) fn read_at(
        &self,
        offset: u64,
        into: &mut [u8],
        memory: &Memory,
        caller: &Caller<'_>,
    ) -> Result<usize, Errno> {
        let bytes = memory.bounce(&[]);
        let read = self.as_uapi().read(offset, bytes, into.len() as u64, caller).map_err(errno)?;
        memory.copy_out(bytes, into);
        usize::try_from(read).map_err(|_| Errno::EIO)
    }

    pub(super) fn write(&self, from: &[u8], memory: &Memory, caller: &Caller<'_>) -> Result<Written, Errno> {
        match self {
            Self::Attribute(attribute) => attribute.write(0, from).map_err(|error| errno(error.errno())),
            Self::Event(event) => {
                event.signal();
                Ok(Written::Bytes(from.len()))
            }
            Self::Uapi(_) => self.write_at(0, from, memory, caller).map(Written::Bytes),
            Self::Reserved => Err(Errno::EBADF),
        }
    }

    /// Writes to a place of the file, through the scratch area.
    pub(super) fn write_at(
        &self,
        offset: u64,
        from: &[u8],
        memory: &Memory,
        caller: &Caller<'_>,
    ) -> Result<usize, Errno> {
        let bytes = memory.bounce(from);
        let written = self.as_uapi().write(offset, bytes, from.len() as u64, caller).map_err(errno)?;
        usize::try_from(written).map_err(|_| Errno::EIO)
    }
}
