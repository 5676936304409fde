//! The locks of this kernel: spinning ones are held with interrupts off; whoever waits lets others run.

use core::arch::asm;
use core::sync::atomic::AtomicU32;

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

    /// This kernel has one thread, so nobody would ever end the wait.
    fn wait(_word: &AtomicU32, _expected: u32) {
        panic!("the only thread waits");
    }

    fn wake_one(_word: *const AtomicU32) {}

    fn wake_all(_word: *const AtomicU32) {}
}

dma_locks::provide!(Kernel);
