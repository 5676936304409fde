//! For tests: one CPU without preemption, made of threads of the operating system of which one runs at a time.
//!
//! A test provides [`OneCpu`] and starts its threads with [`run`]. A thread runs until it waits, ends or calls
//! [`yield_now`]; who runs next is drawn from a seed, so a run can be repeated. What could hang such a machine panics:
//! a wait or [`yield_now`] with a spinning lock held, a spinning lock that is found locked, and all threads waiting.

#![expect(clippy::disallowed_types, reason = "a scheduler for tests is made of what the system has")]

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::boxed::Box;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::vec::Vec;

use crate::Locks;

/// The locks of one CPU without preemption.
///
/// Threads that [`run`] did not start are not scheduled: they spin, and should use locks before and after a run only.
#[derive(Debug)]
pub enum OneCpu {}

/// What a thread of a run is about to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thread {
    Ready,
    /// In a wait for the word at this address.
    Waiting(usize),
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Running {
    Thread(usize),
    /// Every thread that is not done waits.
    Nobody,
}

struct Cpu {
    threads: Vec<Thread>,
    running: Running,
    random: u32,
}

static CPU: Mutex<Cpu> = Mutex::new(Cpu { threads: Vec::new(), running: Running::Nobody, random: 0 });
static SWITCHED: Condvar = Condvar::new();
static RUN: Mutex<()> = Mutex::new(());

std::thread_local! {
    static THREAD: Cell<Option<usize>> = const { Cell::new(None) };
    static SPINNING_LOCKS: Cell<usize> = const { Cell::new(0) };
}

/// Runs the threads to their end on the one CPU, one run at a time; `seed` decides which of those that are ready is
/// next.
///
/// # Panics
///
/// If a thread panics or would hang the CPU, or if all of them wait.
pub fn run<'a>(seed: u32, threads: Vec<Box<dyn FnOnce() + Send + 'a>>) {
    let _run = lock(&RUN);
    {
        let mut cpu = cpu();
        cpu.threads = threads.iter().map(|_| Thread::Ready).collect();
        // The generator stands still at zero.
        cpu.random = seed.wrapping_mul(0x9e37_79b9) | 1;
        cpu.switch();
    }
    thread::scope(|scope| {
        for (number, thread) in threads.into_iter().enumerate() {
            scope.spawn(move || {
                THREAD.set(Some(number));
                // Ends the turn of a thread that panics as well.
                let _end = End(number);
                until_running(cpu(), number);
                thread();
            });
        }
    });
}

/// Lets another thread of the run go on.
pub fn yield_now() {
    if let Some(thread) = THREAD.get() {
        switch_to(Thread::Ready, thread);
    }
}

struct End(usize);

impl Drop for End {
    fn drop(&mut self) {
        let mut cpu = cpu();
        cpu.set(self.0, Thread::Done);
        cpu.switch();
    }
}

impl Cpu {
    fn set(&mut self, thread: usize, state: Thread) {
        if let Some(place) = self.threads.get_mut(thread) {
            *place = state;
        }
    }

    fn ready(&self) -> impl Iterator<Item = usize> {
        self.threads.iter().enumerate().filter(|(_, state)| **state == Thread::Ready).map(|(thread, _)| thread)
    }

    /// Draws the next thread.
    fn switch(&mut self) {
        for shift in [13, -17, 5] {
            self.random ^= if shift > 0 { self.random << shift } else { self.random >> -shift };
        }
        let ready = self.ready().count();
        let next = (self.random as usize).checked_rem(ready).and_then(|place| self.ready().nth(place));
        self.running = next.map_or(Running::Nobody, Running::Thread);
        SWITCHED.notify_all();
    }

    fn wake(&mut self, word: *const AtomicU32, count: usize) {
        let waiting = Thread::Waiting(word.addr());
        for state in self.threads.iter_mut().filter(|state| **state == waiting).take(count) {
            *state = Thread::Ready;
        }
    }
}

fn cpu() -> MutexGuard<'static, Cpu> {
    lock(&CPU)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn switch_to(state: Thread, thread: usize) {
    assert!(SPINNING_LOCKS.get() == 0, "the CPU is given away with a spinning lock held");
    let mut cpu = cpu();
    cpu.set(thread, state);
    cpu.switch();
    until_running(cpu, thread);
}

fn until_running(mut cpu: MutexGuard<'static, Cpu>, thread: usize) {
    while cpu.running != Running::Thread(thread) {
        assert!(cpu.running != Running::Nobody, "every thread waits");
        cpu = SWITCHED.wait(cpu).unwrap_or_else(PoisonError::into_inner);
    }
}

// SAFETY: how spinning locks are tried and let go is not replaced; a spin that would be in vain panics.
unsafe impl Locks for OneCpu {
    fn enter() -> usize {
        SPINNING_LOCKS.replace(SPINNING_LOCKS.get() + 1)
    }

    fn leave(saved: usize) {
        let held = SPINNING_LOCKS.replace(saved);
        assert!(held == saved + 1 || thread::panicking(), "spinning locks are let go in another order");
    }

    fn wait(word: &AtomicU32, expected: u32) {
        match THREAD.get() {
            Some(thread) if word.load(Ordering::SeqCst) == expected => {
                switch_to(Thread::Waiting(ptr::from_ref(word).addr()), thread);
            }
            Some(_) => {}
            None => thread::yield_now(),
        }
    }

    fn wake_one(word: *const AtomicU32) {
        cpu().wake(word, 1);
    }

    fn wake_all(word: *const AtomicU32) {
        cpu().wake(word, usize::MAX);
    }

    fn spin_lock(word: &AtomicUsize) {
        assert!(Self::spin_try_lock(word), "a spinning lock is locked already: its holder is this thread");
    }
}
