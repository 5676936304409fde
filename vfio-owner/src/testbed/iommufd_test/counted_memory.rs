//! User memory whose pins are counted page by page, for whoever asks.
// F111.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::sync::SpinMutex;
use iommu_core::user_memory::{Account, BadAddress, Limit, OverLimit, PinnedRun};
use iommu_core::{Access, PhysAddr, UserAddr, UserMemory};

use super::fault_point;

/// How often each physical page is pinned. A clone counts the same.
#[derive(Clone, Debug, Default)]
pub(super) struct PinCounts(Arc<SpinMutex<BTreeMap<u64, u64>>>);

impl PinCounts {
    /// Returns how often a page is pinned.
    pub(super) fn of(&self, phys: PhysAddr) -> u64 {
        self.0.lock().get(&(phys.get() / PAGE_SIZE)).copied().unwrap_or(0)
    }

    fn change(&self, run: PinnedRun, change: impl Fn(u64) -> u64) {
        let first = run.phys.get() / PAGE_SIZE;
        let mut counts = self.0.lock();
        for page in first..first + run.bytes / PAGE_SIZE {
            let count = counts.entry(page).or_insert(0);
            *count = change(*count);
            if *count == 0 {
                counts.remove(&page);
            }
        }
    }
}

/// The memory of a process, whose pins are counted.
#[derive(Debug)]
pub(super) struct CountedMemory {
    pub(super) inner: Arc<dyn UserMemory>,
    pub(super) counts: PinCounts,
}

impl UserMemory for CountedMemory {
    fn pin(&self, at: UserAddr, bytes: u64, access: Access) -> Result<PinnedRun, BadAddress> {
        if fault_point::fails() {
            return Err(BadAddress { at });
        }
        let run = self.inner.pin(at, bytes, access)?;
        self.counts.change(run, |count| count + 1);
        Ok(run)
    }

    fn unpin(&self, run: PinnedRun) {
        self.counts.change(run, |count| count.saturating_sub(1));
        self.inner.unpin(run);
    }

    fn read(&self, at: UserAddr, into: &mut [u8]) -> Result<(), BadAddress> {
        self.inner.read(at, into)
    }

    fn write(&self, at: UserAddr, from: &[u8]) -> Result<(), BadAddress> {
        self.inner.write(at, from)
    }

    fn limit(&self) -> Limit {
        self.inner.limit()
    }

    fn charge(&self, account: Account, limit: Limit, pages: u64) -> Result<(), OverLimit> {
        // What is only counted cannot fail.
        if limit == Limit::Enforced && fault_point::fails() {
            return Err(OverLimit { locked: 0, limit: 0, wanted: pages });
        }
        self.inner.charge(account, limit, pages)
    }

    fn uncharge(&self, account: Account, pages: u64) {
        self.inner.uncharge(account, pages);
    }
}

/// Returns the physical memory behind user memory as it is now, in pieces as long as possible; it is not pinned.
///
/// # Errors
/// Fails if something of it is not there. `at` and `bytes` are of whole pages.
pub(super) fn look_up(
    memory: &dyn UserMemory,
    at: UserAddr,
    bytes: u64,
    mut found: impl FnMut(UserAddr, PinnedRun) -> bool,
) -> Result<bool, BadAddress> {
    let mut done = 0;
    while done < bytes {
        let here = at.checked_add(done).ok_or(BadAddress { at })?;
        let run = memory.pin(here, bytes - done, Access::Read)?;
        memory.unpin(run);
        if !found(here, run) {
            return Ok(false);
        }
        done += run.bytes.max(PAGE_SIZE);
    }
    Ok(true)
}
