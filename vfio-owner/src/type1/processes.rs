//! The processes whose memory a container maps: each is held once, however many mappings it has.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use iommu_core::UserMemory;
use slab::Slab;

/// A process of a container, for as long as mappings name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProcessKey(u32);

#[derive(Debug, Default)]
pub(super) struct Processes {
    known: Slab<Known>,
    /// By where they lie in memory.
    by_address: BTreeMap<usize, u32>,
    /// The one that was named last: mostly, it is named next.
    last: u32,
}

#[derive(Debug)]
struct Known {
    process: Arc<dyn UserMemory>,
    /// How often mappings name it.
    uses: usize,
}

fn address(process: &Arc<dyn UserMemory>) -> usize {
    Arc::as_ptr(process).cast::<()>().addr()
}

impl Processes {
    /// Names a process so many times more.
    pub(super) fn enter(&mut self, process: &Arc<dyn UserMemory>, times: usize) -> ProcessKey {
        if self.known.get(self.last as usize).is_none_or(|last| address(&last.process) != address(process)) {
            self.last = self.find(process);
        }
        if let Some(known) = self.known.get_mut(self.last as usize) {
            known.uses += times;
        }
        ProcessKey(self.last)
    }

    /// A process, which is named soon if it was not before.
    #[cold]
    fn find(&mut self, process: &Arc<dyn UserMemory>) -> u32 {
        let known = &mut self.known;
        *self.by_address.entry(address(process)).or_insert_with(|| {
            // No memory holds so many processes.
            u32::try_from(known.insert(Known { process: process.clone(), uses: 0 })).unwrap_or(u32::MAX)
        })
    }

    /// Names a process once less.
    pub(super) fn leave(&mut self, key: ProcessKey) {
        let Some(known) = self.known.get_mut(key.0 as usize) else { return };
        known.uses -= 1;
        if known.uses == 0 {
            self.forget(key);
        }
    }

    #[cold]
    fn forget(&mut self, key: ProcessKey) {
        if let Some(known) = self.known.try_remove(key.0 as usize) {
            self.by_address.remove(&address(&known.process));
        }
    }

    /// A process that is named.
    #[expect(clippy::indexing_slicing, reason = "a key names a process that is there")]
    pub(super) fn get(&self, key: ProcessKey) -> &Arc<dyn UserMemory> {
        &self.known[key.0 as usize].process
    }
}
