//! A use count that can be closed and waited for.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use super::{Condvar, Mutex};

/// Counts the users of an object until its owner takes it back.
///
/// While open, [`enter`](Self::enter) admits users. After [`close`](Self::close) no new users are admitted, and the
/// owner waits until the last [`UserGuard`] is dropped. A driver whose device can be held open returns an `Arc<Users>`
/// to the core, which waits for it.
// V13.
#[derive(Debug)]
pub struct Users {
    gate: Mutex<Gate>,
    left: Condvar,
}

struct Gate {
    inside: usize,
    door: Door,
    /// How the users are asked to leave, until somebody does it.
    request: Option<Box<dyn FnOnce() + Send>>,
    /// What is called once the last one has left.
    when_empty: Vec<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("inside", &self.inside).field("door", &self.door).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    Closed,
}

impl Default for Users {
    fn default() -> Self {
        Self::new()
    }
}

impl Users {
    /// Creates a count that is open, without users.
    pub fn new() -> Self {
        let gate = Gate { inside: 0, door: Door::Open, request: None, when_empty: Vec::new() };
        Self { gate: Mutex::new(gate), left: Condvar::new() }
    }

    /// Admits one user; returns `None` once [`close`](Self::close) was called.
    pub fn enter(self: &super::Arc<Self>) -> Option<UserGuard> {
        let mut gate = self.gate.lock();
        if gate.door == Door::Closed {
            return None;
        }
        gate.inside += 1;
        drop(gate);
        Some(UserGuard(self.clone()))
    }

    /// Stops admitting users. Present users stay.
    pub fn close(&self) {
        self.gate.lock().door = Door::Closed;
    }

    /// Sets how the users are asked to leave: `request` is called once, without locks, by the thread that waits for
    /// them next. For a driver's `remove`, which is called with the device lock held. Replaces a request that was not
    /// called yet.
    pub fn ask_with(&self, request: impl FnOnce() + Send + 'static) {
        let replaced = self.gate.lock().request.replace(Box::new(request));
        drop(replaced);
    }

    /// Asks the users to leave, if [`ask_with`](Self::ask_with) has said how. Called with no lock held.
    pub(crate) fn ask(&self) {
        let request = self.gate.lock().request.take();
        if let Some(request) = request {
            request();
        }
    }

    /// Calls `then` once, when no user is inside: at once, or on the thread of the last one that leaves, without locks.
    /// For whoever cannot block: an unbind that is [waiting](crate::Progress::Waiting) for these users can go on then.
    pub fn when_empty(&self, then: impl FnOnce() + Send + 'static) {
        let mut gate = self.gate.lock();
        if gate.inside > 0 {
            gate.when_empty.push(Box::new(then));
            return;
        }
        drop(gate);
        then();
    }

    /// Returns the number of users; may be stale at once.
    pub fn inside(&self) -> usize {
        self.gate.lock().inside
    }

    /// Blocks until no user is left. Takes no other lock. Do not hold a lock that a user needs in order to leave.
    pub fn wait(&self) {
        let mut gate = self.gate.lock();
        while gate.inside > 0 {
            gate = self.left.wait(gate);
        }
    }

    /// Waits as [`wait`](Self::wait) does, for `timeout` at most. Returns whether no user is left.
    #[cfg(any(feature = "std", shuttle))]
    pub fn wait_for(&self, timeout: core::time::Duration) -> bool {
        let gate = self.gate.lock();
        if gate.inside == 0 {
            return true;
        }
        self.left.wait_for(gate, timeout).inside == 0
    }
}

/// One user of [`Users`]; dropping it leaves.
#[derive(Debug)]
#[must_use = "dropping the guard leaves at once"]
pub struct UserGuard(super::Arc<Users>);

impl Clone for UserGuard {
    /// Returns one user more, who comes in even after [`Users::close`]: by the side of this one. Takes no other lock.
    fn clone(&self) -> Self {
        self.0.gate.lock().inside += 1;
        Self(self.0.clone())
    }
}

impl Drop for UserGuard {
    fn drop(&mut self) {
        let mut gate = self.0.gate.lock();
        gate.inside -= 1;
        if gate.inside > 0 {
            return;
        }
        self.0.left.notify_all();
        let due = core::mem::take(&mut gate.when_empty);
        drop(gate);
        for then in due {
            then();
        }
    }
}
