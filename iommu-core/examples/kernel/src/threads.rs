//! Two threads on one CPU, in turns: whoever waits lets the other one go on.

use alloc::vec;
use core::arch::naked_asm;
use core::sync::atomic::{AtomicUsize, Ordering};

/// In units of 16 bytes, as stacks are aligned.
const STACK: usize = 4 << 10;

/// The stack pointer of the thread that does not run; 0 while there is one thread only.
static OTHER: AtomicUsize = AtomicUsize::new(0);

/// Starts the other thread, which runs when this one waits.
pub fn start(thread: extern "C" fn() -> !) {
    let stack = vec![0_u128; STACK].leak();
    // What `switch` finds there: six registers, then where to return to.
    stack[STACK - 1] = thread as usize as u128;
    OTHER.store((&raw const stack[STACK - 4]).addr(), Ordering::Relaxed);
}

/// Lets the other thread go on, until that yields.
pub fn yield_now() {
    let other = OTHER.load(Ordering::Relaxed);
    assert!(other != 0, "the only thread waits");
    // SAFETY: it is the stack pointer of a thread that is in `switch`, or that `start` prepared.
    unsafe { switch(OTHER.as_ptr(), other) }
}

#[unsafe(naked)]
unsafe extern "C" fn switch(leave: *mut usize, resume: usize) {
    naked_asm!(
        "push rbx; push rbp; push r12; push r13; push r14; push r15",
        "mov [rdi], rsp; mov rsp, rsi",
        "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx; ret",
    )
}
