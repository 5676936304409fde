//! What the room keeps of processes in the host's place, and children have from their parents.

use std::collections::HashMap;
use std::fs;

use vfio_owner::iommu_core::device_model::sync::Mutex;

use crate::task::Task;

/// So many processes are kept before those are looked for that have ended.
const MANY: usize = 1024;

/// A value for each process that has set it, and for its children from then on.
///
/// A child has what its parent has when it is asked for first: nobody says when it begins.
#[derive(Debug)]
pub(crate) struct Inherited<T>(Mutex<HashMap<u32, Set<T>>>);

#[derive(Clone, Debug)]
struct Set<T> {
    value: T,
    /// When the process began: numbers are used again.
    began: String,
}

impl<T> Default for Inherited<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Inherited<T> {
    /// Whether no process has set a value.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Sets the value of a process.
    pub(crate) fn set(&self, process: u32, value: T) {
        let Some(began) = beginning(process) else { return };
        let mut all = self.0.lock();
        if all.len() >= MANY {
            all.retain(|process, set| beginning(*process).as_ref() == Some(&set.began));
        }
        all.insert(process, Set { value, began });
    }

    /// Returns the value of a process, or else of the nearest ancestor that has one.
    pub(crate) fn get(&self, process: u32) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let mut next = process;
        while next > 1 {
            let own = self.0.lock().get(&next).cloned();
            if let Some(set) = own.filter(|set| beginning(next).as_ref() == Some(&set.began)) {
                if next != process {
                    // Its own, whatever becomes of its parent.
                    self.set(process, set.value.clone());
                }
                return Some(set.value);
            }
            next = Task::new(next).status().ok().and_then(|status| status.number("PPid:", 0))?;
        }
        None
    }
}

/// When a process began, as `/proc` says it.
fn beginning(process: u32) -> Option<String> {
    let text = fs::read_to_string(Task::new(process).proc("stat")).ok()?;
    // The name, which may contain anything, ends with the last parenthesis; it is the second field, and this the 22nd.
    text.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}
