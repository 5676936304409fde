//! The model checker's locks behind the names of [`crate::sync`].
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a poisoned lock means that the model has failed already"
)]

pub use shuttle::sync::atomic;
pub use shuttle::thread;

use super::LockClass;

/// Holds a [`Mutex`]; dropping it unlocks.
pub type MutexGuard<'a, T> = shuttle::sync::MutexGuard<'a, T>;

/// A mutual-exclusion lock.
#[derive(Debug, Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// An unlocked mutex around `value`.
    pub fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    /// An unlocked mutex around `value`; the class is of use to the feature `lock-order` only.
    pub fn of(_class: LockClass, value: T) -> Self {
        Self::new(value)
    }

    /// Blocks until the lock is held.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("the model has failed already")
    }

    /// The value, through the exclusive borrow that makes locking needless.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().expect("the model has failed already")
    }

    /// Takes the lock if nobody holds it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }
}

/// A moment that never comes nearer: the model has no clock.
pub(crate) struct Deadline(core::time::Duration);

impl Deadline {
    pub(crate) fn after(timeout: core::time::Duration) -> Self {
        Self(timeout)
    }

    pub(crate) fn left(&self) -> core::time::Duration {
        self.0
    }
}

/// Lets threads wait for a change of what a [`Mutex`] guards.
#[derive(Debug, Default)]
pub struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    /// A condition that nobody waits for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Unlocks, waits for a notification, locks again.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(guard).expect("the model has failed already")
    }

    /// As [`wait`](Self::wait): the model has no clock.
    pub fn wait_for<'a, T>(&self, guard: MutexGuard<'a, T>, _timeout: core::time::Duration) -> MutexGuard<'a, T> {
        self.wait(guard)
    }

    /// Wakes everybody who waits.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}
