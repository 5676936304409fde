//! Calls of device files.

use std::path::PathBuf;

use rustix::fs::OFlags;
use rustix::io::Errno;
use vfio_owner::iommu_core::UserAddr;
use vfio_owner::iommu_core::device_model::Errno as MachineErrno;
use vfio_owner::iommufd_owner::uapi::NewFaultQueue;
use vfio_owner::uapi::{File, NewFile, Reply};

use super::{Answer, Trapped};
use crate::calls::Call;
use crate::files::{Files, Kind, OpenFile};
use crate::supervisor::Supervisor;

impl Supervisor {
    pub(super) fn ioctl(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let Some(open) = self.files.of(trapped.task, trapped.fd(0))? else {
            // The host's VFIO has the same numbers. All others do not know them.
            Files::identify(trapped.task, trapped.fd(0))?;
            return Err(Errno::NOTTY);
        };
        let Kind::Device { file, .. } = &open.kind else { return Err(Errno::NOTTY) };
        trapped.check()?;
        self.log.begin();
        let number = trapped.bits(1);
        let reply = file.ioctl(number, trapped.arg(2), &self.caller(trapped.task));
        match reply.map_err(|errno| self.refused(trapped, format!("ioctl {number:#x}"), open, errno))? {
            Reply::Value(value) => Ok(Answer::Value(value.into())),
            // The number of the descriptor is what the call returns.
            Reply::File(NewFile::Device(device)) => {
                let name = PathBuf::from("anon_inode:[vfio-device]");
                let file = self.files.open_device(name, File::Device(device), None, OFlags::empty())?;
                Ok(Answer::File(file, OFlags::CLOEXEC.bits()))
            }
            Reply::File(NewFile::FaultQueue(queue)) => self.open_fault_queue(trapped, queue),
        }
    }

    fn open_fault_queue(&mut self, trapped: &Trapped<'_>, queue: NewFaultQueue) -> Result<Answer, Errno> {
        let _ = (trapped, queue);
        Err(Errno::OPNOTSUPP)
    }

    /// Notes that a call failed. Why, the machine has said already.
    fn refused(&self, trapped: &Trapped<'_>, call: String, open: &OpenFile, errno: MachineErrno) -> Errno {
        self.log.refuse(trapped.task.number(), call, open.name.clone(), errno);
        Errno::from_raw_os_error(errno.number())
    }

    /// Maps a file, shared.
    pub(super) fn map(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        // A bad descriptor is for the kernel to tell.
        if let Ok(Some(open)) = self.files.of(trapped.task, trapped.fd(4)) {
            let Kind::Device { file, .. } = &open.kind else { return Err(Errno::NODEV) };
            self.log.begin();
            let mapped = file.mappable(trapped.arg(5), trapped.arg(1), &self.caller(trapped.task));
            mapped.map_err(|errno| self.refused(trapped, "mmap".into(), open, errno))?;
        }
        Ok(Answer::Continue)
    }

    /// Reads from a region.
    pub(super) fn read_at(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        match self.files.of(trapped.task, trapped.fd(0))? {
            Some(open) if matches!(open.kind, Kind::Device { .. }) => self.transfer(trapped, open),
            _ => Ok(Answer::Continue),
        }
    }

    /// Writes to a region.
    pub(super) fn write_at(&self, trapped: &Trapped<'_>, open: &OpenFile) -> Result<Answer, Errno> {
        // Without a position, nobody writes to a device.
        if trapped.call == Call::Pwrite64 { self.transfer(trapped, open) } else { Err(Errno::INVAL) }
    }

    fn transfer(&self, trapped: &Trapped<'_>, open: &OpenFile) -> Result<Answer, Errno> {
        let Kind::Device { file, .. } = &open.kind else { return Ok(Answer::Continue) };
        let (at, bytes, offset) = (UserAddr::new(trapped.arg(1)), trapped.arg(2), trapped.arg(3));
        let caller = self.caller(trapped.task);
        // The kernel does it: it is the memory that is mapped.
        if file.mappable(offset, bytes, &caller).is_ok() {
            return Ok(Answer::Continue);
        }
        trapped.check()?;
        self.log.begin();
        let done = match trapped.call {
            Call::Pread64 => file.read(offset, at, bytes, &caller),
            _ => file.write(offset, at, bytes, &caller),
        };
        let call = format!("{:?}", trapped.call).to_lowercase();
        let done = done.map_err(|errno| self.refused(trapped, call, open, errno))?;
        Ok(Answer::Value(i64::try_from(done).unwrap_or(i64::MAX)))
    }
}
