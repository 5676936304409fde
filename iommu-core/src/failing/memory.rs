//! Fault injection for a user's memory.

use device_model::sync::Arc;
use device_model::sync::atomic::{AtomicU32, Ordering};

use crate::address::{Access, PAGE_SIZE, UserAddr};
use crate::user_memory::{Account, BadAddress, Limit, OverLimit, PinnedRun, UserMemory};

/// Wraps user memory and injects errors into pins. Pins one page at a time, so that mappings consist of many pieces.
#[derive(Debug)]
pub struct FailingMemory {
    inner: Arc<dyn UserMemory>,
    /// How many pins go well before one fails. It wraps when one has failed.
    left: AtomicU32,
}

impl FailingMemory {
    /// Wraps `inner` without injections.
    pub fn new(inner: Arc<dyn UserMemory>) -> Arc<Self> {
        Arc::new(Self { inner, left: AtomicU32::new(u32::MAX) })
    }

    /// Injects an error into the pin that comes after `n` others, counted from now.
    pub fn fail_nth(&self, n: u32) {
        self.left.store(n, Ordering::Relaxed);
    }

    /// Removes the injection.
    pub fn heal(&self) {
        self.fail_nth(u32::MAX);
    }

    /// Returns whether no injection is pending.
    pub fn has_failed(&self) -> bool {
        self.left.load(Ordering::Relaxed) > u32::MAX / 2
    }
}

impl UserMemory for FailingMemory {
    fn pin(&self, at: UserAddr, _bytes: u64, access: Access) -> Result<PinnedRun, BadAddress> {
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(BadAddress { at }),
            _ => self.inner.pin(at, PAGE_SIZE, access),
        }
    }

    fn unpin(&self, run: PinnedRun) {
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
        self.inner.charge(account, limit, pages)
    }

    fn uncharge(&self, account: Account, pages: u64) {
        self.inner.uncharge(account, pages);
    }
}
