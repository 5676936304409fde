//! Small writes: attributes and registers, if that is what they reach.

use std::num::IntErrorKind;

use rustix::fs::{FileType, SeekFrom, fstat, seek};
use rustix::io::Errno;
use vfio_owner::testbed::vfs::{AttributeError, OpenAttribute, Written};

use super::open::content;
use super::{Answer, Delayed, Trapped};
use crate::calls::Call;
use crate::files::{Kind, OpenFile};
use crate::supervisor::Supervisor;
use crate::task::Task;

/// As much as an attribute takes at once.
const MOST: u64 = 4096;

impl Supervisor {
    pub(super) fn write(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let fd = trapped.fd(0);
        let Some(file) = self.files.of(trapped, fd)? else { return self.write_elsewhere(trapped, fd) };
        match &file.kind {
            Kind::Attribute(attribute) => {
                let bytes = gather(trapped)?;
                trapped.check()?;
                self.write_attribute(trapped, file, attribute, &bytes)
            }
            Kind::Device { .. } => self.write_at(trapped, file),
            Kind::FailNth { task, .. } => {
                let bytes = gather(trapped)?;
                self.files.set_fail_nth(Task::new(*task), fail_nth(&bytes)?);
                Ok(Answer::Value(i64::try_from(bytes.len()).unwrap_or(i64::MAX)))
            }
        }
    }

    /// A write to what is not ours: it must not reach the host's attributes.
    fn write_elsewhere(&self, trapped: &Trapped<'_>, fd: i32) -> Result<Answer, Errno> {
        if self.bounds.exclude_file(&trapped.task.descriptor(fd)) { Err(Errno::PERM) } else { Ok(Answer::Continue) }
    }

    fn write_attribute(
        &self,
        trapped: &Trapped<'_>,
        file: &OpenFile,
        attribute: &OpenAttribute,
        bytes: &[u8],
    ) -> Result<Answer, Errno> {
        let has_position = match trapped.call {
            Call::Pwrite64 | Call::Pwritev => true,
            Call::Pwritev2 => trapped.arg(3) != u64::MAX,
            _ => false,
        };
        // Where a text is written makes no difference.
        let moves = !has_position && attribute.attribute().is_binary();
        let user = moves.then(|| trapped.task.get(trapped.fd(0))).transpose()?;
        let position = match &user {
            Some(user) => seek(user, SeekFrom::Current(0))?,
            None if has_position => trapped.arg(3),
            None => 0,
        };
        let refuse = |error: &AttributeError| self.refuse(trapped, &file.name, error, error.errno());
        let written = attribute.write(position, bytes).map_err(|error| refuse(&error))?;
        if let (Some(user), Written::Bytes(count)) = (&user, &written) {
            seek(user, SeekFrom::Start(position.saturating_add(*count as u64)))?;
        }
        // Whoever reads what it wrote finds what the machine made of it.
        if let Ok(content) = content(attribute) {
            file.refresh(&content);
        }
        Ok(match written {
            Written::Bytes(bytes) => Answer::Value(i64::try_from(bytes).unwrap_or(i64::MAX)),
            Written::Later(later) => Answer::Later(Delayed { later, task: trapped.task, file: file.name.clone() }),
        })
    }

    /// Copies between descriptors in the kernel.
    pub(super) fn copy(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let output = if trapped.call == Call::Sendfile { 0 } else { 2 };
        let fd = trapped.fd(output);
        let Some(file) = self.files.of(trapped, fd)? else { return self.write_elsewhere(trapped, fd) };
        match (&file.kind, trapped.call) {
            (Kind::Attribute(attribute), Call::Sendfile) => {
                let bytes = Self::take(trapped)?;
                self.write_attribute(trapped, file, attribute, &bytes)
            }
            // The caller copies by itself.
            _ => Err(Errno::INVAL),
        }
    }

    /// Reads what `sendfile` is to send.
    fn take(trapped: &Trapped<'_>) -> Result<Vec<u8>, Errno> {
        let input = trapped.task.get(trapped.fd(1))?;
        // As in Linux, nothing of a pipe: it may be filled by a task that waits for us.
        let kind = FileType::from_raw_mode(fstat(&input)?.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::BlockDevice) {
            return Err(Errno::INVAL);
        }
        let mut bytes = vec![0; usize::try_from(trapped.arg(3).min(MOST)).unwrap_or(0)];
        let offset = trapped.arg(2);
        trapped.check()?;
        let count = if offset == 0 {
            rustix::io::read(&input, &mut bytes)?
        } else {
            let [position] = trapped.task.numbers(offset)?;
            let count = rustix::io::pread(&input, &mut bytes, position)?;
            trapped.task.write(offset, &position.saturating_add(count as u64).to_le_bytes())?;
            count
        };
        bytes.truncate(count);
        Ok(bytes)
    }
}

/// Reads the number that is written to `fail-nth`.
// F113.
fn fail_nth(bytes: &[u8]) -> Result<u32, Errno> {
    let text = std::str::from_utf8(bytes).map_err(|_| Errno::INVAL)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_prefix('+').unwrap_or(text);
    let number = match (text.strip_prefix("0x"), text.strip_prefix('0')) {
        (Some(digits), _) => u32::from_str_radix(digits, 16),
        (_, Some(digits)) if !digits.is_empty() => u32::from_str_radix(digits, 8),
        _ => text.parse(),
    };
    number.map_err(|error| match error.kind() {
        IntErrorKind::PosOverflow => Errno::RANGE,
        _ => Errno::INVAL,
    })
}

/// Reads what is to be written from the caller's memory.
fn gather(trapped: &Trapped<'_>) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    for [base, len] in trapped.pieces()? {
        let left = MOST - bytes.len() as u64;
        bytes.extend(trapped.task.bytes(base, len.min(left))?);
    }
    Ok(bytes)
}
