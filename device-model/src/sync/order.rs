//! The lock order, as something that runs.
//!
//! Each lock belongs to a class, and each class has a rank: a thread may take a lock only while those that it holds rank
//! lower. Under `--cfg lock_order`, which is for tests, every lock is checked when it is taken, and an inversion panics,
//! though it may not have come to a deadlock in that run. So does a sleeping lock that is taken, or a wait that begins,
//! while a spinning lock is held, and a spinning lock that is let go before one taken later. Otherwise nothing of it is
//! left.
//!
//! ```should_panic
//! use device_model::sync::{LockClass, Mutex};
//!
//! const GROUP: LockClass = LockClass::new("group lock", 400);
//! const DEVICE: LockClass = LockClass::new("device lock", 100);
//!
//! let (group, device) = (Mutex::of(GROUP, ()), Mutex::of(DEVICE, ()));
//! let _group = group.lock();
//! let _device = device.lock(); // device lock (rank 100) taken while group lock (rank 400) is held
//! # #[cfg(not(lock_order))]
//! # panic!("not checked");
//! ```

use core::fmt;

/// A class of locks, and its place in the lock order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockClass {
    rank: u16,
    depth: u16,
    name: &'static str,
}

impl LockClass {
    /// Locks that are held for a moment, with none taken meanwhile: what [`Mutex::new`](super::Mutex::new) makes.
    pub const LEAF: Self = Self::new("leaf lock", u16::MAX);

    /// A class; those of a higher rank are taken inside it, never the other way round.
    pub const fn new(name: &'static str, rank: u16) -> Self {
        Self { rank, depth: 0, name }
    }

    /// The locks of this class at a depth of a tree, those nearer to the root first.
    #[must_use]
    pub const fn at_depth(self, depth: u16) -> Self {
        Self { depth, ..self }
    }

    /// Whether a lock of class `inner` may be taken while one of this class is held.
    pub const fn admits(self, inner: Self) -> bool {
        self.rank < inner.rank || self.rank == inner.rank && self.depth < inner.depth
    }
}

impl fmt::Display for LockClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (rank {}", self.name, self.rank)?;
        if self.depth > 0 {
            write!(f, ", depth {}", self.depth)?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for LockClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
