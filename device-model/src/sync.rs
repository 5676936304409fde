//! Locks, condition variables, atomics and threads; every lock of the workspace is defined here.
//!
//! There are two kinds of locks, as in every kernel:
//!
//! - [`Mutex`] sleeps. It may be held across callbacks and waits; the device lock is one.
//! - [`SpinMutex`] spins. It is held briefly; no sleeping lock may be taken and no wait begin meanwhile. The group lock
//!   of an IOMMU is one. Without std, the provider of the locks may disable interrupts while it is held.
//!
//! The locks depend on the build:
//!
//! | build | locks |
//! |---|---|
//! | feature `std` (default) | `parking_lot`, for both kinds |
//! | without `std` | those that the program provides through [`dma_locks`] |
//! | `--cfg lock_order`, for tests | those of `std`, each checked against the [lock order](LockClass) when taken |
//! | `--cfg shuttle`, for tests | those of the model checker `shuttle` |
//!
//! No lock is poisoned: a guard that is dropped while its thread unwinds unlocks.

#[cfg(all(lock_order, not(feature = "std")))]
compile_error!("`--cfg lock_order` needs the feature `std`: it keeps a list for each thread");

#[cfg(all(feature = "std", not(shuttle)))]
mod deadline;
#[cfg(all(lock_order, not(shuttle)))]
mod held;
#[cfg(not(shuttle))]
mod lock;
#[cfg(shuttle)]
mod model;
mod order;
#[cfg(shuttle)]
pub mod pending;
mod users;
#[cfg(shuttle)]
pub mod weak;

pub use alloc::sync::{Arc, Weak};
#[cfg(all(feature = "std", not(shuttle)))]
pub use std::thread;

#[cfg(all(feature = "std", not(shuttle)))]
pub(crate) use deadline::Deadline;
#[cfg(not(shuttle))]
pub use dma_locks;
#[cfg(not(shuttle))]
pub use lock::{Condvar, Lock, LockGuard, Mutex, MutexGuard, SpinMutex, SpinMutexGuard};
#[cfg(shuttle)]
pub(crate) use model::Deadline;
#[cfg(shuttle)]
pub use model::{Condvar, Mutex, Mutex as SpinMutex, MutexGuard, MutexGuard as SpinMutexGuard, atomic, thread};
pub use order::LockClass;
pub use users::{UserGuard, Users};

/// Atomics of the widths that every target has, and fences.
#[cfg(not(shuttle))]
pub mod atomic {
    pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
}
