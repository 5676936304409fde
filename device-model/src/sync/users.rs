//! A count of users that can be closed and waited for.

use super::{Condvar, Mutex};

/// Counts the users of something that its owner wants back one day.
///
/// While open, [`enter`](Self::enter) lets users in. After [`close`](Self::close) nobody gets in any more, and
/// whoever wants the thing back waits until the last [`UserGuard`] is gone. A driver whose device can be held open
/// hands an `Arc<Users>` to the core, which waits on it without knowing what the users are (V13).
#[derive(Debug)]
pub struct Users {
    gate: Mutex<Gate>,
    left: Condvar,
}

#[derive(Debug)]
struct Gate {
    inside: usize,
    door: Door,
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
    /// Open, with nobody inside.
    pub fn new() -> Self {
        Self { gate: Mutex::new(Gate { inside: 0, door: Door::Open }), left: Condvar::new() }
    }

    /// Lets one user in, or `None` once [`close`](Self::close) was called.
    pub fn enter(self: &super::Arc<Self>) -> Option<UserGuard> {
        let mut gate = self.gate.lock();
        if gate.door == Door::Closed {
            return None;
        }
        gate.inside += 1;
        drop(gate);
        Some(UserGuard(self.clone()))
    }

    /// Lets nobody in from now on. Users inside stay.
    pub fn close(&self) {
        self.gate.lock().door = Door::Closed;
    }

    /// How many users are inside; stale as soon as it is read.
    pub fn inside(&self) -> usize {
        self.gate.lock().inside
    }

    /// Blocks until nobody is inside. Takes no other lock, and must be called with none that a user needs to leave.
    pub fn wait(&self) {
        let mut gate = self.gate.lock();
        while gate.inside > 0 {
            gate = self.left.wait(gate);
        }
    }

    /// As [`wait`](Self::wait), for `timeout` at the most; whether nobody is inside now.
    #[cfg(any(feature = "std", shuttle))]
    pub fn wait_for(&self, timeout: core::time::Duration) -> bool {
        let gate = self.gate.lock();
        if gate.inside == 0 {
            return true;
        }
        self.left.wait_for(gate, timeout).inside == 0
    }
}

/// One user inside a [`Users`]; dropping it leaves.
#[derive(Debug)]
#[must_use = "dropping the guard leaves at once"]
pub struct UserGuard(super::Arc<Users>);

impl Drop for UserGuard {
    fn drop(&mut self) {
        let mut gate = self.0.gate.lock();
        gate.inside -= 1;
        if gate.inside == 0 {
            self.0.left.notify_all();
        }
    }
}
