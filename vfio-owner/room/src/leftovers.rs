//! What is left of a room's tasks.

use std::fmt;
use std::path::PathBuf;

/// Files of the room that are open, though nobody should have any.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Leftovers {
    /// The files.
    pub files: Vec<HeldFile>,
    /// How many calls wait for their answers.
    pub waiting: usize,
}

/// An open file of a room.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HeldFile {
    /// Its name, as `/proc/…/fd` shows it in the room.
    pub name: PathBuf,
    /// The numbers of the processes that have a descriptor of it; none if only a mapping is left, or a descriptor on its way
    /// between processes.
    pub holders: Vec<u32>,
}

impl Leftovers {
    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.waiting == 0
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("still held:")?;
        for file in &self.files {
            write!(f, " {}", file.name.display())?;
            for holder in &file.holders {
                write!(f, " (by {holder})")?;
            }
        }
        if self.waiting > 0 {
            write!(f, " and {} calls that wait", self.waiting)?;
        }
        Ok(())
    }
}
