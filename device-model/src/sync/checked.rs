//! `parking_lot` that watches the lock order.
#![expect(clippy::disallowed_types, reason = "this module is a seam that names the backend")]

use core::cell::RefCell;
use core::fmt;
use core::ops::{Deref, DerefMut};
pub use core::sync::atomic;
use core::time::Duration;
pub use std::thread;
use std::vec::Vec;

use super::LockClass;
pub(crate) use super::deadline::Deadline;

std::thread_local! {
    /// The classes of the locks that this thread holds, in the order in which it took them.
    static HELD: RefCell<Vec<LockClass>> = const { RefCell::new(Vec::new()) };
}

/// A lock that is noted as held by this thread.
struct Held(LockClass);

impl Held {
    #[expect(clippy::panic, reason = "an inversion of the lock order is what this is to find")]
    fn note(class: LockClass, order: Order) -> Self {
        // A thread that ends has no list any more, and holds nothing that it could deadlock with.
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(outer) = held.iter().find(|outer| order == Order::Checked && !outer.admits(class)) {
                panic!("lock order: {class} taken while {outer} is held");
            }
            held.push(class);
        });
        Self(class)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(place) = held.iter().rposition(|class| *class == self.0) {
                held.remove(place);
            }
        });
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Checked,
    /// An attempt that does not wait deadlocks with nobody.
    Any,
}

/// Holds a [`Mutex`]; dropping it unlocks.
pub struct MutexGuard<'a, T> {
    guard: parking_lot::MutexGuard<'a, T>,
    _held: Held,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A mutual-exclusion lock.
#[derive(Debug)]
pub struct Mutex<T> {
    lock: parking_lot::Mutex<T>,
    class: LockClass,
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Mutex<T> {
    /// An unlocked mutex around `value`, of the class [`LockClass::LEAF`].
    pub fn new(value: T) -> Self {
        Self::of(LockClass::LEAF, value)
    }

    /// An unlocked mutex around `value`.
    pub fn of(class: LockClass, value: T) -> Self {
        Self { lock: parking_lot::Mutex::new(value), class }
    }

    /// Blocks until the lock is held.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let held = Held::note(self.class, Order::Checked);
        MutexGuard { guard: self.lock.lock(), _held: held }
    }

    /// The value, through the exclusive borrow that makes locking needless.
    pub fn get_mut(&mut self) -> &mut T {
        self.lock.get_mut()
    }

    /// Takes the lock if nobody holds it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = self.lock.try_lock()?;
        Some(MutexGuard { guard, _held: Held::note(self.class, Order::Any) })
    }
}

/// Lets threads wait for a change of what a [`Mutex`] guards.
#[derive(Debug, Default)]
pub struct Condvar(parking_lot::Condvar);

impl Condvar {
    /// A condition that nobody waits for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Unlocks, waits for a notification, locks again.
    pub fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(&mut guard.guard);
        guard
    }

    /// As [`wait`](Self::wait), but for `timeout` at the most.
    pub fn wait_for<'a, T>(&self, mut guard: MutexGuard<'a, T>, timeout: Duration) -> MutexGuard<'a, T> {
        self.0.wait_for(&mut guard.guard, timeout);
        guard
    }

    /// Wakes everybody who waits.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}
