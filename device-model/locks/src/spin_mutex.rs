//! The spinning lock.

use core::sync::atomic::{AtomicUsize, Ordering};

use lock_api::GuardNoSend;

use crate::provided::{
    _dma_locks_enter, _dma_locks_leave, _dma_locks_spin_lock, _dma_locks_spin_try_lock, _dma_locks_spin_unlock,
};

/// A lock whose holder is short: it spins until it is free. Held between [`enter`](crate::Locks::enter) and
/// [`leave`](crate::Locks::leave).
#[derive(Debug)]
pub struct RawSpinMutex {
    word: AtomicUsize,
    /// What `enter` returned to the holder; read and written by the holder only.
    saved: AtomicUsize,
}

// SAFETY: `Locks` excludes other holders from a successful lock to the unlock.
unsafe impl lock_api::RawMutex for RawSpinMutex {
    const INIT: Self = Self { word: AtomicUsize::new(0), saved: AtomicUsize::new(0) };

    type GuardMarker = GuardNoSend;

    #[inline]
    fn lock(&self) {
        let saved = _dma_locks_enter();
        _dma_locks_spin_lock(&self.word);
        self.saved.store(saved, Ordering::Relaxed);
    }

    #[inline]
    fn try_lock(&self) -> bool {
        let saved = _dma_locks_enter();
        let locked = _dma_locks_spin_try_lock(&self.word);
        if locked {
            self.saved.store(saved, Ordering::Relaxed);
        } else {
            _dma_locks_leave(saved);
        }
        locked
    }

    #[inline]
    unsafe fn unlock(&self) {
        let saved = self.saved.load(Ordering::Relaxed);
        // SAFETY: the caller holds the lock.
        unsafe { _dma_locks_spin_unlock(&self.word) };
        _dma_locks_leave(saved);
    }
}
