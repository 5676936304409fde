//! What a program brings, and the symbols by which this crate finds it.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Locks and waiting as a program has them; [`provide!`](crate::provide) makes them those of this crate.
///
/// # Safety
///
/// [`spin_lock`](Self::spin_lock), and a [`spin_try_lock`](Self::spin_try_lock) that returns true, must exclude one
/// another for each word until [`spin_unlock`](Self::spin_unlock), and what happened before an unlock must be visible
/// after the next lock. The provided implementations do this.
pub unsafe trait Locks {
    /// Begins a time in which this CPU holds a spinning lock; returns what [`leave`](Self::leave) needs to end it.
    ///
    /// Called before the lock is taken. A kernel turns off preemption here, and interrupts if any handler takes the
    /// same locks, and returns their former state. May nest.
    fn enter() -> usize;

    /// Ends what [`enter`](Self::enter) began and returned `saved` for, after the lock was let go. The innermost ends
    /// first.
    fn leave(saved: usize);

    /// Suspends the calling thread while `word` is `expected`.
    ///
    /// Reading the word and going to sleep must be one step for [`wake_one`](Self::wake_one) and
    /// [`wake_all`](Self::wake_all): a wake after the word has changed must not be lost. May return at any time without
    /// a reason, so letting other threads run and returning is enough. No spinning lock is held.
    fn wait(word: &AtomicU32, expected: u32);

    /// Wakes at least one of the threads in [`wait`](Self::wait) for the word at this address, if there is any.
    ///
    /// The address must not be read through: the word may be gone.
    fn wake_one(word: *const AtomicU32);

    /// Wakes every thread in [`wait`](Self::wait) for the word at this address, which must not be read through.
    fn wake_all(word: *const AtomicU32);

    /// Takes the spinning lock `word`, which is 0 when made. Called after [`enter`](Self::enter).
    #[inline]
    fn spin_lock(word: &AtomicUsize) {
        while !Self::spin_try_lock(word) {
            // Only read while it is locked, so that its cache line is not torn from the holder.
            while word.load(Ordering::Relaxed) != 0 {
                spin_loop();
            }
        }
    }

    /// Takes the spinning lock `word` if it is free; returns whether it did.
    #[inline]
    fn spin_try_lock(word: &AtomicUsize) -> bool {
        word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Lets the spinning lock `word` go. Called before [`leave`](Self::leave).
    ///
    /// # Safety
    ///
    /// The caller holds the lock.
    #[inline]
    unsafe fn spin_unlock(word: &AtomicUsize) {
        word.store(0, Ordering::Release);
    }
}

/// Provides the [`Locks`] of the program: `provide!(Kernel)`, once in all of its crates, as a global allocator.
#[macro_export]
macro_rules! provide {
    ($locks:ty) => {
        const _: () = {
            #[unsafe(no_mangle)]
            fn _dma_locks_enter() -> usize {
                <$locks as $crate::Locks>::enter()
            }
            #[unsafe(no_mangle)]
            fn _dma_locks_leave(saved: usize) {
                <$locks as $crate::Locks>::leave(saved)
            }
            #[unsafe(no_mangle)]
            fn _dma_locks_wait(word: &::core::sync::atomic::AtomicU32, expected: u32) {
                <$locks as $crate::Locks>::wait(word, expected)
            }
            #[unsafe(no_mangle)]
            fn _dma_locks_wake_one(word: *const ::core::sync::atomic::AtomicU32) {
                <$locks as $crate::Locks>::wake_one(word)
            }
            #[unsafe(no_mangle)]
            fn _dma_locks_wake_all(word: *const ::core::sync::atomic::AtomicU32) {
                <$locks as $crate::Locks>::wake_all(word)
            }
            #[unsafe(no_mangle)]
            fn _dma_locks_spin_lock(word: &::core::sync::atomic::AtomicUsize) {
                <$locks as $crate::Locks>::spin_lock(word)
            }
            #[unsafe(no_mangle)]
            fn _dma_locks_spin_try_lock(word: &::core::sync::atomic::AtomicUsize) -> bool {
                <$locks as $crate::Locks>::spin_try_lock(word)
            }
            #[unsafe(no_mangle)]
            unsafe fn _dma_locks_spin_unlock(word: &::core::sync::atomic::AtomicUsize) {
                // SAFETY: the caller's promise is that of the function called.
                unsafe { <$locks as $crate::Locks>::spin_unlock(word) }
            }
        };
    };
}

// SAFETY: only `provide!` defines these symbols, with these signatures.
unsafe extern "Rust" {
    pub(crate) safe fn _dma_locks_enter() -> usize;
    pub(crate) safe fn _dma_locks_leave(saved: usize);
    pub(crate) safe fn _dma_locks_wait(word: &AtomicU32, expected: u32);
    pub(crate) safe fn _dma_locks_wake_one(word: *const AtomicU32);
    pub(crate) safe fn _dma_locks_wake_all(word: *const AtomicU32);
    pub(crate) safe fn _dma_locks_spin_lock(word: &AtomicUsize);
    pub(crate) safe fn _dma_locks_spin_try_lock(word: &AtomicUsize) -> bool;
    /// As [`Locks::spin_unlock`].
    pub(crate) fn _dma_locks_spin_unlock(word: &AtomicUsize);
}
