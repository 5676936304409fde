//! Spinning locks behind the names of [`crate::sync`], for builds without an operating system.

pub use core::sync::atomic;

use super::LockClass;

/// Holds a [`Mutex`]; dropping it unlocks.
pub type MutexGuard<'a, T> = spin::mutex::MutexGuard<'a, T>;

/// A mutual-exclusion lock.
#[derive(Debug, Default)]
pub struct Mutex<T>(spin::mutex::Mutex<T>);

impl<T> Mutex<T> {
    /// An unlocked mutex around `value`.
    pub fn new(value: T) -> Self {
        Self(spin::mutex::Mutex::new(value))
    }

    /// An unlocked mutex around `value`; the class is of use to the feature `lock-order` only.
    #[inline]
    pub fn of(_class: LockClass, value: T) -> Self {
        Self::new(value)
    }

    /// Spins until the lock is held.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock()
    }

    /// The value, through the exclusive borrow that makes locking needless.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }

    /// Takes the lock if nobody holds it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock()
    }
}

/// Lets a caller wait for a change of what a [`Mutex`] guards.
///
/// Without threads to suspend, a wait gives the lock up for a moment and takes it again, and whoever waits looks anew.
#[derive(Debug, Default)]
pub struct Condvar;

impl Condvar {
    /// A condition that nobody waits for.
    pub fn new() -> Self {
        Self
    }

    /// Wakes everybody who waits: nobody sleeps here.
    pub fn notify_all(&self) {}
}
