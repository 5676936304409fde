//! Calls of device files.

use std::path::PathBuf;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Answer, Trapped};
use crate::caller::Caller;
use crate::files::Kind;
use crate::filter::REGION_SHIFT;
use crate::supervisor::Supervisor;
use crate::world::{DeviceFile, Reply};

/// As much of a region as is read or written at once.
const MOST: u64 = 1 << 20;

impl Supervisor {
    pub(super) fn ioctl(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let Some(open) = self.files.of(trapped.task, trapped.fd(0))? else {
            // The host's VFIO has the same numbers. All others do not know them.
            crate::files::Files::identify(trapped.task, trapped.fd(0))?;
            return Err(Errno::NOTTY);
        };
        let Kind::Device { file, .. } = &open.kind else { return Err(Errno::NOTTY) };
        trapped.check()?;
        let caller = Caller { task: trapped.task, files: &self.files };
        match file.ioctl(trapped.bits(1), trapped.arg(2), &caller)? {
            Reply::Value(value) => Ok(Answer::Value(value)),
            Reply::Later(answer) => Ok(Answer::Later(answer)),
            Reply::File(file) => {
                let name = PathBuf::from("anon_inode:[vfio-device]");
                let file = self.files.open_device(name, file, None, OFlags::empty())?;
                Ok(Answer::File(file, OFlags::CLOEXEC.bits()))
            }
        }
    }

    /// Maps a file, shared.
    pub(super) fn map(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        // A bad descriptor is for the kernel to tell.
        if let Ok(Some(open)) = self.files.of(trapped.task, trapped.fd(4)) {
            match &open.kind {
                Kind::Device { file, .. } if file.mappable(trapped.arg(5), trapped.arg(1)) => {}
                Kind::Device { .. } => return Err(Errno::INVAL),
                Kind::Attribute { .. } => return Err(Errno::NODEV),
            }
        }
        Ok(Answer::Continue)
    }

    /// Reads from a region.
    pub(super) fn read_at(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let (at, count, offset) = (trapped.arg(1), trapped.arg(2), trapped.arg(3));
        match self.files.of(trapped.task, trapped.fd(0))?.map(|open| &open.kind) {
            Some(Kind::Device { file, .. }) if !is_memory(&**file, offset, count) => {
                trapped.check()?;
                let mut bytes = vec![0; usize::try_from(count.min(MOST)).unwrap_or(0)];
                let count = file.read(offset, &mut bytes)?;
                trapped.task.write(at, bytes.get(..count).unwrap_or(&bytes))?;
                Ok(Answer::Value(i64::try_from(count).unwrap_or(i64::MAX)))
            }
            _ => Ok(Answer::Continue),
        }
    }

    /// Writes to a region.
    pub(super) fn write_at(trapped: &Trapped<'_>, file: &dyn DeviceFile) -> Result<Answer, Errno> {
        let (at, count, offset) = (trapped.arg(1), trapped.arg(2), trapped.arg(3));
        if trapped.call != crate::calls::Call::Pwrite64 || is_memory(file, offset, count) {
            return Ok(Answer::Continue);
        }
        let bytes = trapped.task.bytes(at, count.min(MOST))?;
        trapped.check()?;
        Ok(Answer::Value(i64::try_from(file.write(offset, &bytes)?).unwrap_or(i64::MAX)))
    }
}

/// Whether the kernel can read or write this part of a device file: it is the memory that the model has, too.
fn is_memory(file: &dyn DeviceFile, offset: u64, count: u64) -> bool {
    offset >> REGION_SHIFT < 9 && file.mappable(offset, count)
}
