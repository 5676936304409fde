//! `RLIMIT_MEMLOCK` of a room's processes: root of the machine may raise it, whatever the host's root may.

use std::fs;

use crate::inherited::Inherited;
use crate::task::Task;

/// A limit in bytes; `u64::MAX` is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Locked {
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// The limits of processes.
#[derive(Debug, Default)]
pub(crate) struct Limits(Inherited<Locked>);

impl Limits {
    /// Sets the limit of a process.
    pub(crate) fn set(&self, process: u32, locked: Locked) {
        self.0.set(process, locked);
    }

    /// Returns the limit of a process: as it was set in the room, or as the host has it.
    pub(crate) fn of(&self, process: u32) -> Locked {
        self.0.get(process).unwrap_or_else(|| of_host(process))
    }
}

fn of_host(process: u32) -> Locked {
    let text = fs::read_to_string(Task::new(process).proc("limits")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Max locked memory")).unwrap_or_default();
    let mut values = line.split_whitespace().map(|value| value.parse().unwrap_or(u64::MAX));
    Locked { soft: values.next().unwrap_or(0), hard: values.next().unwrap_or(0) }
}
