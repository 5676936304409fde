//! The model checker's locks behind the names of [`crate::sync`].
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a poisoned lock means that the model has failed already"
)]

use core::fmt;
use core::ops::{Deref, DerefMut};

pub use shuttle::thread;

use super::pending::{Object, Step, announced, new_object};
use super::{LockClass, weak};

/// Holds a [`Mutex`]; dropping it unlocks.
pub struct MutexGuard<'a, T> {
    /// `None` once it is unlocked.
    guard: Option<shuttle::sync::MutexGuard<'a, T>>,
    object: Object,
}

impl<'a, T> MutexGuard<'a, T> {
    const HELD: &'static str = "a guard is unlocked when it goes";

    fn take(&mut self) -> shuttle::sync::MutexGuard<'a, T> {
        self.guard.take().expect(Self::HELD)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect(Self::HELD)
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect(Self::HELD)
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take() {
            announced(Step::Release(self.object), || drop(guard));
        }
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
    lock: shuttle::sync::Mutex<T>,
    object: Object,
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Mutex<T> {
    /// An unlocked mutex around `value`.
    pub fn new(value: T) -> Self {
        Self { lock: shuttle::sync::Mutex::new(value), object: new_object() }
    }

    /// An unlocked mutex around `value`; the model does not look at its class.
    pub fn of(_class: LockClass, value: T) -> Self {
        Self::new(value)
    }

    /// Blocks until the lock is held.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let result = announced(Step::Acquire(self.object), || self.lock.lock());
        MutexGuard { guard: Some(result.expect("the model has failed already")), object: self.object }
    }

    /// The value, through the exclusive borrow that makes locking needless.
    pub fn get_mut(&mut self) -> &mut T {
        self.lock.get_mut().expect("the model has failed already")
    }

    /// Takes the lock if nobody holds it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = announced(Step::Change(self.object), || self.lock.try_lock()).ok()?;
        weak::acquired(self.object);
        Some(MutexGuard { guard: Some(guard), object: self.object })
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
#[derive(Debug)]
pub struct Condvar {
    condition: shuttle::sync::Condvar,
    object: Object,
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

impl Condvar {
    /// A condition that nobody waits for.
    pub fn new() -> Self {
        Self { condition: shuttle::sync::Condvar::new(), object: new_object() }
    }

    /// Unlocks, waits for a notification, locks again.
    pub fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let step = Step::Wait { lock: guard.object, condition: self.object };
        let held = guard.take();
        let held = announced(step, || self.condition.wait(held)).expect("the model has failed already");
        MutexGuard { guard: Some(held), object: guard.object }
    }

    /// As [`wait`](Self::wait): the model has no clock.
    pub fn wait_for<'a, T>(&self, guard: MutexGuard<'a, T>, _timeout: core::time::Duration) -> MutexGuard<'a, T> {
        self.wait(guard)
    }

    /// Wakes everybody who waits.
    pub fn notify_all(&self) {
        announced(Step::Change(self.object), || self.condition.notify_all());
    }
}

/// Atomics that say what they are about to do, and return what their [order](super::weak) allows.
#[expect(clippy::disallowed_types, reason = "what was stored is looked at without a turn of the scheduler")]
pub mod atomic {
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::vec::Vec;

    pub use core::sync::atomic::Ordering;

    use super::super::pending::{Object, Step, announced, new_object};
    use super::super::weak;

    macro_rules! atomic {
        ($($name:ident: $value:ty),*) => {$(
            #[doc = concat!("As [`core::sync::atomic::", stringify!($name), "`].")]
            #[derive(Debug)]
            pub struct $name {
                /// Lets other threads go first.
                turn: shuttle::sync::atomic::AtomicBool,
                /// All that was ever stored, the newest last.
                stores: Mutex<Vec<$value>>,
                object: Object,
            }

            impl $name {
                #[doc = "Holds `value`."]
                pub fn new(value: $value) -> Self {
                    let turn = shuttle::sync::atomic::AtomicBool::new(false);
                    Self { turn, stores: Mutex::new([value].into()), object: new_object() }
                }

                fn turn(&self) -> MutexGuard<'_, Vec<$value>> {
                    self.turn.load(Ordering::SeqCst);
                    self.stores.lock().unwrap_or_else(PoisonError::into_inner)
                }

                #[doc = "Returns the value, or an older one if `order` allows that."]
                pub fn load(&self, order: Ordering) -> $value {
                    announced(Step::Load(self.object), || {
                        let stores = self.turn();
                        let store = weak::load(self.object, order, stores.len() - 1);
                        *stores.get(store).expect("only what was stored is read")
                    })
                }

                #[doc = "Sets the value."]
                pub fn store(&self, value: $value, order: Ordering) {
                    announced(Step::Change(self.object), || {
                        let mut stores = self.turn();
                        weak::store(self.object, order, stores.len());
                        stores.push(value);
                    });
                }

                fn update(&self, order: Ordering, change: impl FnOnce($value) -> $value) -> $value {
                    announced(Step::Change(self.object), || {
                        let mut stores = self.turn();
                        let old = *stores.last().expect("the first value is kept");
                        weak::update(self.object, order, stores.len());
                        stores.push(change(old));
                        old
                    })
                }

                #[doc = "Sets the value and returns the old one."]
                pub fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.update(order, |_| value)
                }
            }

            impl Default for $name {
                fn default() -> Self {
                    Self::new(<$value>::default())
                }
            }
        )*};
    }

    macro_rules! counter {
        ($($name:ident: $value:ty),*) => {$(
            impl $name {
                #[doc = "Adds, and returns the value before."]
                pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    self.update(order, |old| old.wrapping_add(value))
                }

                #[doc = "Changes the value in one step if `change` says so. Returns the value before."]
                #[doc = ""]
                #[doc = "# Errors"]
                #[doc = "Fails with the value if it stays."]
                pub fn fetch_update(
                    &self,
                    set: Ordering,
                    _stays: Ordering,
                    change: impl FnOnce($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    let mut changed = true;
                    let old = self.update(set, |old| {
                        change(old).unwrap_or_else(|| {
                            changed = false;
                            old
                        })
                    });
                    if changed { Ok(old) } else { Err(old) }
                }

                #[doc = "Subtracts, and returns the value before."]
                pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    self.update(order, |old| old.wrapping_sub(value))
                }
            }
        )*};
    }

    /// What all fences have in common: no lock or atomic has this number.
    const FENCES: Object = Object(0);

    /// As [`core::sync::atomic::fence`]; every order counts as `SeqCst`.
    pub fn fence(_order: Ordering) {
        // Without old values to read, nobody sees a fence.
        let step = if weak::is_on() { Step::Change(FENCES) } else { Step::Local };
        announced(step, || {
            // Lets other threads go first.
            shuttle::sync::atomic::AtomicBool::new(false).load(Ordering::SeqCst);
            weak::fence();
        });
    }

    atomic!(AtomicBool: bool, AtomicU32: u32, AtomicUsize: usize);
    counter!(AtomicU32: u32, AtomicUsize: usize);
}
