//! The one place that names a lock.
//!
//! All four libraries lock through this module, so the same code runs
//!
//! | build | locks |
//! |---|---|
//! | feature `std` (default) | `parking_lot` |
//! | with feature `lock-order` | the same, each checked against the [lock order](LockClass) when it is taken |
//! | without `std` | `spin`; a wait spins |
//! | `--cfg shuttle` | `shuttle`, the model checker |
//!
//! There is no poisoning: state behind a lock is changed by code that cannot panic half-way.

#[cfg(all(feature = "std", not(feature = "lock-order"), not(shuttle)))]
#[path = "sync/std.rs"]
mod backend;

#[cfg(all(feature = "lock-order", not(shuttle)))]
#[path = "sync/checked.rs"]
mod backend;

#[cfg(all(feature = "std", not(shuttle)))]
mod deadline;

#[cfg(all(not(feature = "std"), not(shuttle)))]
#[path = "sync/spinning.rs"]
mod backend;

#[cfg(shuttle)]
#[path = "sync/model.rs"]
mod backend;

mod order;
#[cfg(shuttle)]
pub mod pending;
mod users;
#[cfg(shuttle)]
pub mod weak;

pub use alloc::sync::{Arc, Weak};
#[cfg(any(feature = "std", shuttle))]
pub(crate) use backend::Deadline;
#[cfg(any(feature = "std", shuttle))]
pub use backend::thread;
pub use backend::{Condvar, Mutex, MutexGuard, atomic};
pub use order::LockClass;
pub use users::{UserGuard, Users};
