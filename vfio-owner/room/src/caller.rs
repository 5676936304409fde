//! The caller of a call: its memory and its files, as the uAPI asks for them.

use std::cell::OnceCell;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use vfio_owner::device_ops::Trigger;
use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::user_memory::BadAddress;
use vfio_owner::iommu_core::{UserAddr, UserMemory};
use vfio_owner::iommufd_owner;
use vfio_owner::uapi::{self, Capability, File};

use crate::answer::Trapped;
use crate::eventfd::{Ears, KeptEventfds};
use crate::files::Files;
use crate::log::Log;
use crate::memory::Processes;
use crate::task::Task;

/// The task that called, in its room.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) trapped: &'a Trapped<'a>,
    pub(crate) files: &'a Files,
    pub(crate) processes: &'a Processes,
    pub(crate) ears: &'a Ears,
    pub(crate) eventfds: &'a KeptEventfds,
    pub(crate) log: &'a Log,
    /// Looked up when it is asked for.
    pub(crate) memory: OnceCell<Arc<dyn UserMemory>>,
}

impl iommufd_owner::uapi::Caller for Caller<'_> {
    fn memory(&self) -> &Arc<dyn UserMemory> {
        self.memory.get_or_init(|| self.processes.memory(self.trapped.task))
    }

    fn has(&self, capability: Capability) -> bool {
        let bit = match capability {
            Capability::SysRawio => 17,
            Capability::SysResource => 24,
            _ => return false,
        };
        self.trapped.task.status().is_ok_and(|status| status.has(bit))
    }

    fn refused(&self, error: &(dyn Error + 'static)) {
        self.log.reason(error);
    }

    // The task's own memory, whatever its process has mapped for devices.
    fn read(&self, at: UserAddr, into: &mut [u8]) -> Result<(), BadAddress> {
        self.trapped.task.read(at.get(), into).map_err(|_| BadAddress { at })
    }

    fn write(&self, at: UserAddr, from: &[u8]) -> Result<(), BadAddress> {
        let written = self.trapped.check().and_then(|()| self.trapped.task.write(at.get(), from));
        written.map_err(|_| BadAddress { at })
    }
}

impl uapi::Caller for Caller<'_> {
    fn file(&self, descriptor: i32) -> Option<File> {
        self.files.file(self.trapped, descriptor)
    }

    fn fail_nth(&self) -> u32 {
        self.files.fail_nth(self.trapped.task)
    }

    fn failed_nth(&self, left: u32) {
        if self.fail_nth() > 0 {
            self.files.set_fail_nth(self.trapped.task, left);
        }
    }

    fn trigger(&self, descriptor: i32) -> Result<Trigger, Errno> {
        let task = self.trapped.task;
        let link = Task::link(&task.descriptor(descriptor)).map_err(|_| Errno::EBADF)?;
        if link != Path::new("anon_inode:[eventfd]") {
            return Err(Errno::EINVAL);
        }
        let fetched = task.get(descriptor);
        let eventfd = fetched.or_else(|error| self.eventfds.get(task, descriptor).ok_or(error));
        let eventfd = eventfd.map_err(|error| Errno::new(error.raw_os_error()))?;
        Ok(Trigger::of(Arc::new(self.ears.event(eventfd))))
    }
}
