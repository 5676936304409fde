//! `RLIMIT_MEMLOCK` of a room's processes: root of the machine may raise it, whatever the host's root may.

use std::collections::HashMap;
use std::fs;

use vfio_owner::iommu_core::device_model::sync::Mutex;

use crate::task::Task;

/// A limit in bytes; `u64::MAX` is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Locked {
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// The limits that processes have set. Children have their parents'.
#[derive(Debug, Default)]
pub(crate) struct Limits(Mutex<HashMap<u32, Set>>);

#[derive(Debug)]
struct Set {
    locked: Locked,
    /// When the process began: numbers are used again.
    began: String,
}

impl Limits {
    /// Sets the limit of a process.
    pub(crate) fn set(&self, process: u32, locked: Locked) {
        if let Some(began) = beginning(process) {
            self.0.lock().insert(process, Set { locked, began });
        }
    }

    /// Returns the limit of a process: its own, that of the ancestor who has set one last, or the one that the host has for it.
    pub(crate) fn of(&self, process: u32) -> Locked {
        let set = self.0.lock();
        let mut next = process;
        while !set.is_empty() && next > 1 {
            let own = set.get(&next).filter(|set| beginning(next).is_some_and(|began| began == set.began));
            if let Some(set) = own {
                return set.locked;
            }
            next = Task::new(next).status().ok().and_then(|status| status.number("PPid:")).unwrap_or(0);
        }
        of_host(process)
    }
}

/// When a process began, as `/proc` says it.
fn beginning(process: u32) -> Option<String> {
    let text = fs::read_to_string(Task::new(process).proc("stat")).ok()?;
    // The name, which may contain anything, ends with the last parenthesis; it is the second field, and this the 22nd.
    text.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

fn of_host(process: u32) -> Locked {
    let text = fs::read_to_string(Task::new(process).proc("limits")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Max locked memory")).unwrap_or_default();
    let mut values = line.split_whitespace().map(|value| value.parse().unwrap_or(u64::MAX));
    Locked { soft: values.next().unwrap_or(0), hard: values.next().unwrap_or(0) }
}
