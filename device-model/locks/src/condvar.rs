//! Waiting for a change of what a lock guards.

use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use lock_api::MutexGuard;

use crate::RawMutex;
use crate::provided::{_dma_locks_wait, _dma_locks_wake_all};

/// Lets threads wait for a change of what a [`RawMutex`] guards.
#[derive(Debug, Default)]
pub struct Condvar {
    /// How often it was notified, modulo 2^32.
    notified: AtomicU32,
}

impl Condvar {
    /// Returns a condition that nobody waits for.
    #[must_use]
    pub const fn new() -> Self {
        Self { notified: AtomicU32::new(0) }
    }

    /// Unlocks, waits for a notification, locks again. May return without one.
    pub fn wait<T: ?Sized>(&self, guard: &mut MutexGuard<'_, RawMutex, T>) {
        // Read under the lock: a change that this thread did not see is notified later, and makes another number.
        let seen = self.notified.load(Ordering::Relaxed);
        MutexGuard::unlocked(guard, || _dma_locks_wait(&self.notified, seen));
    }

    /// Wakes every thread that waits. The condition is best changed under the lock.
    pub fn notify_all(&self) {
        let word = ptr::from_ref(&self.notified);
        self.notified.fetch_add(1, Ordering::Relaxed);
        _dma_locks_wake_all(word);
    }
}
