//! The sleeping lock.

use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use lock_api::GuardNoSend;

use crate::provided::{_dma_locks_wait, _dma_locks_wake_one};

const FREE: u32 = 0;
const LOCKED: u32 = 1;
/// Locked, and somebody may wait: the unlock must wake.
const AWAITED: u32 = 2;

/// A lock that may be held for long: whoever finds it locked [waits](crate::Locks::wait).
#[derive(Debug)]
pub struct RawMutex(AtomicU32);

// SAFETY: only the thread whose exchange found `FREE` holds it, and only `unlock` writes `FREE`.
unsafe impl lock_api::RawMutex for RawMutex {
    const INIT: Self = Self(AtomicU32::new(FREE));

    type GuardMarker = GuardNoSend;

    #[inline]
    fn lock(&self) {
        if !self.try_lock() {
            // `AWAITED` even if nobody else waits: one wake too many, where the other error would be one too few.
            while self.0.swap(AWAITED, Ordering::Acquire) != FREE {
                _dma_locks_wait(&self.0, AWAITED);
            }
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        self.0.compare_exchange(FREE, LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[inline]
    unsafe fn unlock(&self) {
        let word = ptr::from_ref(&self.0);
        if self.0.swap(FREE, Ordering::Release) == AWAITED {
            // The next holder may have freed the lock by now.
            _dma_locks_wake_one(word);
        }
    }
}
