//! Locks with a class, over the raw locks of the build.

use core::fmt;
use core::ops::{Deref, DerefMut};

#[cfg(not(feature = "std"))]
use dma_locks::{Condvar as RawCondvar, RawMutex, RawSpinMutex};
#[cfg(feature = "std")]
use parking_lot::{Condvar as RawCondvar, RawMutex, RawMutex as RawSpinMutex};

use super::LockClass;
#[cfg(lock_order)]
use super::held::Held;

/// A lock that sleeps until it is free; may be held across callbacks and waits.
pub type Mutex<T> = Lock<Sleeping, T>;
/// Holds a [`Mutex`]; dropping it unlocks.
pub type MutexGuard<'a, T> = LockGuard<'a, Sleeping, T>;

/// A lock that spins until it is free; held briefly, with no [`Mutex`] taken and no wait begun meanwhile.
///
/// Guards must be dropped in the reverse order of locking, so that each can restore the interrupt state that it saved.
pub type SpinMutex<T> = Lock<Spinning, T>;
/// Holds a [`SpinMutex`]; dropping it unlocks.
pub type SpinMutexGuard<'a, T> = LockGuard<'a, Spinning, T>;

/// The kind of a [`Lock`]: [`Sleeping`] or [`Spinning`].
pub trait Kind {
    /// The raw lock.
    type Raw: lock_api::RawMutex;

    /// What a thread may do while it holds the lock.
    #[cfg(lock_order)]
    const MANNER: super::held::Manner;
}

/// The kind of a [`Mutex`].
#[derive(Debug)]
pub enum Sleeping {}

/// The kind of a [`SpinMutex`].
#[derive(Debug)]
pub enum Spinning {}

impl Kind for Sleeping {
    type Raw = RawMutex;

    #[cfg(lock_order)]
    const MANNER: super::held::Manner = super::held::Manner::Sleeps;
}

impl Kind for Spinning {
    type Raw = RawSpinMutex;

    #[cfg(lock_order)]
    const MANNER: super::held::Manner = super::held::Manner::Spins;
}

/// A mutual-exclusion lock: a [`Mutex`] or a [`SpinMutex`].
pub struct Lock<K: Kind, T> {
    lock: lock_api::Mutex<K::Raw, T>,
    #[cfg(lock_order)]
    class: LockClass,
}

impl<K: Kind, T> Lock<K, T> {
    /// Creates an unlocked lock of the class [`LockClass::LEAF`] around `value`.
    #[inline]
    pub const fn new(value: T) -> Self {
        Self::of(LockClass::LEAF, value)
    }

    /// Creates an unlocked lock of `class` around `value`. The class is checked under `--cfg lock_order` only.
    #[inline]
    #[cfg_attr(not(lock_order), expect(unused_variables, reason = "only the check of the lock order looks at it"))]
    pub const fn of(class: LockClass, value: T) -> Self {
        Self {
            lock: lock_api::Mutex::new(value),
            #[cfg(lock_order)]
            class,
        }
    }

    /// Takes the lock, waiting until it is free.
    #[inline]
    pub fn lock(&self) -> LockGuard<'_, K, T> {
        #[cfg(lock_order)]
        let held = Held::waited_for(self.class, K::MANNER);
        LockGuard {
            guard: self.lock.lock(),
            #[cfg(lock_order)]
            _held: held,
        }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<LockGuard<'_, K, T>> {
        let guard = self.lock.try_lock()?;
        Some(LockGuard {
            guard,
            #[cfg(lock_order)]
            _held: Held::found_free(self.class, K::MANNER),
        })
    }

    /// Returns a mutable reference to the value, without locking.
    #[inline]
    pub fn get_mut(&mut self) -> &mut T {
        self.lock.get_mut()
    }
}

impl<K: Kind, T: Default> Default for Lock<K, T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<K: Kind, T: fmt::Debug> fmt::Debug for Lock<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock.fmt(f)
    }
}

/// Holds a [`Lock`]; dropping it unlocks.
#[must_use = "dropping the guard unlocks at once"]
pub struct LockGuard<'a, K: Kind, T> {
    guard: lock_api::MutexGuard<'a, K::Raw, T>,
    #[cfg(lock_order)]
    _held: Held,
}

impl<K: Kind, T> Deref for LockGuard<'_, K, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<K: Kind, T> DerefMut for LockGuard<'_, K, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<K: Kind, T: fmt::Debug> fmt::Debug for LockGuard<'_, K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A condition variable for a [`Mutex`].
#[derive(Default)]
pub struct Condvar(RawCondvar);

impl Condvar {
    /// Creates a condition variable.
    pub const fn new() -> Self {
        Self(RawCondvar::new())
    }

    /// Unlocks, waits for a notification, locks again. May return without a notification.
    pub fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        #[cfg(lock_order)]
        Held::assert_may_wait();
        self.0.wait(&mut guard.guard);
        guard
    }

    /// Waits as [`wait`](Self::wait), but for `timeout` at most.
    #[cfg(feature = "std")]
    pub fn wait_for<'a, T>(&self, mut guard: MutexGuard<'a, T>, timeout: core::time::Duration) -> MutexGuard<'a, T> {
        #[cfg(lock_order)]
        Held::assert_may_wait();
        self.0.wait_for(&mut guard.guard, timeout);
        guard
    }

    /// Wakes all waiting threads.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar").finish_non_exhaustive()
    }
}
