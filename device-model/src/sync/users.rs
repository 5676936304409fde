//! A count of users that can be closed and waited for.

use alloc::boxed::Box;
use core::fmt;

use super::{Condvar, Mutex};

/// Counts the users of something that its owner wants back one day.
///
/// While open, [`enter`](Self::enter) lets users in. After [`close`](Self::close) nobody gets in any more, and
/// whoever wants the thing back waits until the last [`UserGuard`] is gone. A driver whose device can be held open
/// hands an `Arc<Users>` to the core, which waits on it without knowing what the users are.
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
    /// Open, with nobody inside.
    pub fn new() -> Self {
        Self { gate: Mutex::new(Gate { inside: 0, door: Door::Open, request: None }), left: Condvar::new() }
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

    /// Has the users asked to leave by `request`, which is called once, by whoever is to wait for them next, when it holds no
    /// lock: for a driver's remove, which is called with the device lock held. Replaces a request that nobody has made yet.
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
