//! Small writes: attributes and registers, if that is what they reach.

use rustix::io::Errno;

use super::{Answer, Trapped};
use crate::caller::Caller;
use crate::calls::Call;
use crate::files::{Kind, OpenFile};
use crate::supervisor::Supervisor;
use crate::task::Task;
use crate::world::Reply;

/// As much as an attribute takes at once.
const MOST: u64 = 4096;

impl Supervisor {
    pub(super) fn write(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let fd = trapped.fd(0);
        let Some(file) = self.files.of(trapped.task, fd)? else { return self.write_elsewhere(trapped, fd) };
        match &file.kind {
            Kind::Attribute { .. } => {
                let bytes = gather(trapped)?;
                trapped.check()?;
                self.write_attribute(file, trapped.task, &bytes)
            }
            Kind::Device { file, .. } => Self::write_at(trapped, &**file),
        }
    }

    /// A write to what is not ours: it must not reach the host's attributes.
    fn write_elsewhere(&self, trapped: &Trapped<'_>, fd: i32) -> Result<Answer, Errno> {
        if self.bounds.exclude_file(&trapped.task.descriptor(fd)) { Err(Errno::PERM) } else { Ok(Answer::Continue) }
    }

    fn write_attribute(&self, file: &OpenFile, task: Task, bytes: &[u8]) -> Result<Answer, Errno> {
        let caller = Caller { task, files: &self.files };
        let reply = self.world.write(&file.name, bytes, &caller)?;
        if let Ok(content) = self.world.read(&file.name) {
            file.refresh(&content);
        }
        match reply {
            Reply::Value(value) => Ok(Answer::Value(value)),
            Reply::Later(answer) => Ok(Answer::Later(answer)),
            Reply::File(_) => Err(Errno::IO),
        }
    }

    /// Copies between descriptors in the kernel.
    pub(super) fn copy(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let output = if trapped.call == Call::Sendfile { 0 } else { 2 };
        let fd = trapped.fd(output);
        let Some(file) = self.files.of(trapped.task, fd)? else { return self.write_elsewhere(trapped, fd) };
        match (&file.kind, trapped.call) {
            (Kind::Attribute { .. }, Call::Sendfile) => {
                let bytes = Self::take(trapped)?;
                self.write_attribute(file, trapped.task, &bytes)
            }
            // The caller copies by itself.
            _ => Err(Errno::INVAL),
        }
    }

    /// Reads what `sendfile` is to send.
    fn take(trapped: &Trapped<'_>) -> Result<Vec<u8>, Errno> {
        let input = trapped.task.get(trapped.fd(1))?;
        let mut bytes = vec![0; usize::try_from(trapped.arg(3).min(MOST)).unwrap_or(0)];
        let offset = trapped.arg(2);
        trapped.check()?;
        let count = if offset == 0 {
            rustix::io::read(&input, &mut bytes)?
        } else {
            let position = trapped.task.read_u64(offset)?;
            let count = rustix::io::pread(&input, &mut bytes, position)?;
            trapped.task.write(offset, &position.saturating_add(count as u64).to_le_bytes())?;
            count
        };
        bytes.truncate(count);
        Ok(bytes)
    }
}

/// Reads what is to be written from the caller's memory.
fn gather(trapped: &Trapped<'_>) -> Result<Vec<u8>, Errno> {
    let (at, count) = (trapped.arg(1), trapped.arg(2));
    if matches!(trapped.call, Call::Write | Call::Pwrite64) {
        return trapped.task.bytes(at, count.min(MOST));
    }
    let mut bytes = Vec::new();
    for piece in 0..count.min(1024) {
        let vector = at.wrapping_add(16 * piece);
        let (base, len) = (trapped.task.read_u64(vector)?, trapped.task.read_u64(vector.wrapping_add(8))?);
        let left = MOST - bytes.len() as u64;
        bytes.extend(trapped.task.bytes(base, len.min(left))?);
    }
    Ok(bytes)
}
