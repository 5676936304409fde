//! Locks for a first boot.

use core::hint::spin_loop;
use core::sync::atomic::AtomicU32;

use crate::Locks;

/// Leaves interrupts and the scheduler alone: waits spin.
///
/// For bring-up and tests, on a machine with preemption or as many CPUs as threads.
#[derive(Debug)]
pub enum Spinning {}

// SAFETY: how spinning locks spin is not replaced.
unsafe impl Locks for Spinning {
    #[inline]
    fn enter() -> usize {
        0
    }

    #[inline]
    fn leave(_saved: usize) {}

    #[inline]
    fn wait(_word: &AtomicU32, _expected: u32) {
        spin_loop();
    }

    #[inline]
    fn wake_one(_word: *const AtomicU32) {}

    #[inline]
    fn wake_all(_word: *const AtomicU32) {}
}
