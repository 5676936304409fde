//! The working directory.
//!
//! The kernel has no directory of the room for another process's working directory. So the room keeps it, resolves paths from it,
//! and the kernel has the one from before; what is not trapped, such as a program that is executed by a relative path, begins
//! there.

use std::path::PathBuf;

use rustix::io::Errno;
use vfio_owner::testbed::vfs::Node;

use super::{Answer, Trapped};
use crate::calls::Call;
use crate::supervisor::Supervisor;
use crate::walk::{Last, Place};

impl Supervisor {
    pub(super) fn directory(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        match trapped.call {
            Call::Getcwd => self.working_directory(trapped),
            Call::Chdir => self.change_directory(trapped),
            _ => match self.in_tree(trapped.task, trapped.fd(0)) {
                Some(path) => self.enter(trapped, Some(path)),
                None => self.leave(trapped),
            },
        }
    }

    fn working_directory(&self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let Some(path) = self.in_tree(trapped.task, libc::AT_FDCWD) else { return Ok(Answer::Continue) };
        let mut text = path.into_os_string().into_encoded_bytes();
        text.push(0);
        if text.len() as u64 > trapped.arg(1) {
            return Err(Errno::RANGE);
        }
        trapped.task.write(trapped.arg(0), &text)?;
        Ok(Answer::Value(i64::try_from(text.len()).unwrap_or(0)))
    }

    fn change_directory(&self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        match self.walk(trapped.task, libc::AT_FDCWD, &trapped.string(0)?, Last::Follow)? {
            Place::Machine(path, Node::Directory(_)) => self.enter(trapped, Some(path)),
            Place::Machine(..) | Place::Mark => Err(Errno::NOTDIR),
            Place::Host(place) if place.native => self.leave(trapped),
            // From a directory of the room, the kernel does not find it.
            Place::Host(place) if place.path.metadata().is_ok_and(|found| found.is_dir()) => {
                self.enter(trapped, Some(place.path))
            }
            Place::Missing | Place::Host(_) => Err(Errno::NOENT),
        }
    }

    fn enter(&self, trapped: &Trapped<'_>, path: Option<PathBuf>) -> Result<Answer, Errno> {
        trapped.check()?;
        self.working.set(trapped.task.process()?, path);
        Ok(Answer::Value(0))
    }

    /// The kernel changes to a directory that it knows.
    fn leave(&self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        if !self.working.is_empty() {
            self.working.set(trapped.task.process()?, None);
        }
        Ok(Answer::Continue)
    }
}
