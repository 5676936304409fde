//! Fault injection: the nth of the things that can fail in a call does.
// F114, F116.

use core::cell::Cell;

use crate::uapi::Caller;

std::thread_local! {
    /// How many fault points come before the one that fails, and that one; 0 for none.
    static LEFT: Cell<u32> = const { Cell::new(0) };
}

/// Passes a fault point. Returns whether it is the one that fails.
pub(super) fn fails() -> bool {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(1));
    left == 1
}

/// A call in which faults are injected if its caller wants so. Dropping it tells the caller how many fault points it could
/// have passed still.
pub(super) struct Injection<'a>(&'a dyn Caller);

impl<'a> Injection<'a> {
    pub(super) fn begin(caller: &'a dyn Caller) -> Self {
        LEFT.set(caller.fail_nth());
        Self(caller)
    }
}

impl Drop for Injection<'_> {
    fn drop(&mut self) {
        self.0.failed_nth(LEFT.take());
    }
}
