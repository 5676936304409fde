//! What a call of a filtered task means: its memory and its files.

use rustix::io::Errno;

use crate::files::Files;
use crate::task::Task;

/// The task that called, and the files of its room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) task: Task,
    pub(crate) files: &'a Files,
}

impl Caller<'_> {
    pub(crate) fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Errno> {
        self.task.read(at, into)
    }
}
