//! Fault injection for a user's memory.

use device_model::sync::Arc;
use device_model::sync::atomic::{AtomicU32, Ordering};

use crate::address::{Access, PAGE_SIZE, UserAddr};
use crate::user_memory::{Account, BadAddress, Limit, OverLimit, PinnedRun, UserMemory};

/// Wraps user memory and injects errors and panics into pins. Pins one page at a time, so that mappings consist of many
/// pieces. Everything else is forwarded unchanged.
#[derive(Debug)]
pub struct FailingMemory {
    inner: Arc<dyn UserMemory>,
    until_failure: Countdown,
    until_panic: Countdown,
}

#[derive(Debug)]
struct Countdown {
    /// How many pins go well before one does not. Wraps when it has come to that.
    left: AtomicU32,
}

impl Countdown {
    const NEVER: u32 = u32::MAX;

    fn set(&self, n: u32) {
        self.left.store(n, Ordering::Relaxed);
    }

    /// Whether this is the pin.
    fn is_over(&self) -> bool {
        self.left.fetch_sub(1, Ordering::Relaxed) == 0
    }

    fn is_pending(&self) -> bool {
        self.left.load(Ordering::Relaxed) <= Self::NEVER / 2
    }
}

impl FailingMemory {
    /// Wraps `inner` without injections.
    pub fn new(inner: Arc<dyn UserMemory>) -> Arc<Self> {
        let [until_failure, until_panic] = [(); 2].map(|()| Countdown { left: AtomicU32::new(Countdown::NEVER) });
        Arc::new(Self { inner, until_failure, until_panic })
    }

    /// Injects an error into the pin that comes after `n` others, counted from now.
    pub fn fail_nth(&self, n: u32) {
        self.until_failure.set(n);
    }

    /// Injects a panic into the pin that comes after `n` others, counted from now.
    pub fn panic_nth(&self, n: u32) {
        self.until_panic.set(n);
    }

    /// Removes the injections.
    pub fn heal(&self) {
        self.fail_nth(Countdown::NEVER);
        self.panic_nth(Countdown::NEVER);
    }

    /// Returns whether no injection is pending.
    pub fn has_failed(&self) -> bool {
        !self.until_failure.is_pending() && !self.until_panic.is_pending()
    }
}

impl UserMemory for FailingMemory {
    fn pin(&self, at: UserAddr, _bytes: u64, access: Access) -> Result<PinnedRun, BadAddress> {
        assert!(!self.until_panic.is_over(), "the pin of {at:?} was told to panic");
        if self.until_failure.is_over() { Err(BadAddress { at }) } else { self.inner.pin(at, PAGE_SIZE, access) }
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
