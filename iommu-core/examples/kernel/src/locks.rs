//! The locks of this kernel: spinning ones are held with interrupts off; whoever waits lets others run.

use core::arch::asm;
use core::sync::atomic::AtomicU32;

use crate::threads;

struct Kernel;

const INTERRUPTS_ON: usize = 1 << 9;

// SAFETY: how spinning locks spin is not replaced.
unsafe impl dma_locks::Locks for Kernel {
    fn enter() -> usize {
        let flags: usize;
        // SAFETY: turning interrupts off breaks nothing that is on.
        unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags) };
        flags & INTERRUPTS_ON
    }

    fn leave(saved: usize) {
        if saved == INTERRUPTS_ON {
            // SAFETY: they were on before `enter`.
            unsafe { asm!("sti") };
        }
    }

    /// May return at any time: whoever waited looks again. A kernel with wait queues would sleep until it is woken.
    fn wait(_word: &AtomicU32, _expected: u32) {
        threads::yield_now();
    }

    fn wake_one(_word: *const AtomicU32) {}

    fn wake_all(_word: *const AtomicU32) {}
}

dma_locks::provide!(Kernel);
