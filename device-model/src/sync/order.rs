//! Lock order, checked at run time in tests.
//!
//! Each lock belongs to a class, and each class has a rank: a thread may take a lock only while the locks that it holds
//! have lower ranks. Under `--cfg lock_order`, which is for tests, every lock is checked when it is taken, and an
//! inversion panics, even if that run does not deadlock. A panic also follows when a sleeping lock is taken, or a wait
//! begins, while a spinning lock is held, and when a spinning lock is released before one taken later. Other builds
//! check nothing.
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
    /// Leaf locks: held briefly, with no other lock taken meanwhile. The class of [`Mutex::new`](super::Mutex::new).
    pub const LEAF: Self = Self::new("leaf lock", u16::MAX);

    /// Creates a class. Locks of a higher rank are taken inside it, never the other way round.
    pub const fn new(name: &'static str, rank: u16) -> Self {
        Self { rank, depth: 0, name }
    }

    /// Returns the class of the locks at a depth of a tree; those nearer to the root are taken first.
    #[must_use]
    pub const fn at_depth(self, depth: u16) -> Self {
        Self { depth, ..self }
    }

    /// Returns whether a lock of class `inner` may be taken while one of this class is held.
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
