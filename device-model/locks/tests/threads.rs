//! The locks among threads that really run at once, and waits that end by a wake only: a wake that is lost hangs.
#![expect(
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "the scheduler of this test is made of what the system has"
)]

use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use dma_locks::{Condvar, Locks, RawMutex, RawSpinMutex};

/// Waits that sleep until they are woken, never before.
enum Strict {}

/// Those who wait: the addresses of their words.
static WAITING: std::sync::Mutex<Vec<(usize, thread::Thread)>> = std::sync::Mutex::new(Vec::new());

fn wake(word: *const AtomicU32, count: usize) {
    let mut waiting = WAITING.lock().unwrap();
    for _ in 0..count {
        let Some(place) = waiting.iter().position(|(address, _)| *address == word.addr()) else { return };
        waiting.remove(place).1.unpark();
    }
}

// SAFETY: how spinning locks spin is not replaced.
unsafe impl Locks for Strict {
    fn enter() -> usize {
        7
    }

    fn leave(saved: usize) {
        assert_eq!(saved, 7, "what `enter` returned");
    }

    fn wait(word: &AtomicU32, expected: u32) {
        let (address, me) = (ptr::from_ref(word).addr(), thread::current());
        {
            let mut waiting = WAITING.lock().unwrap();
            if word.load(Ordering::Relaxed) != expected {
                return;
            }
            waiting.push((address, me.clone()));
        }
        let asleep = || WAITING.lock().unwrap().iter().any(|(_, thread)| thread.id() == me.id());
        while asleep() {
            thread::park();
        }
    }

    fn wake_one(word: *const AtomicU32) {
        wake(word, 1);
    }

    fn wake_all(word: *const AtomicU32) {
        wake(word, usize::MAX);
    }
}

dma_locks::provide!(Strict);

const ROUNDS: usize = if cfg!(miri) { 20 } else { 20_000 };
const THREADS: usize = 4;

fn counts<R: lock_api::RawMutex + Sync>() {
    let sum = lock_api::Mutex::<R, _>::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    match round % 4 {
                        0 => *sum.try_lock().unwrap_or_else(|| sum.lock()) += 1,
                        _ => *sum.lock() += 1,
                    }
                }
            });
        }
    });
    assert_eq!(sum.into_inner(), THREADS * ROUNDS);
}

#[test]
fn a_sleeping_lock_excludes() {
    counts::<RawMutex>();
}

#[test]
fn a_spinning_lock_excludes() {
    counts::<RawSpinMutex>();
}

#[test]
fn each_thread_gets_its_turn() {
    let (turn, moved) = (lock_api::Mutex::<RawMutex, _>::new(0), Condvar::new());
    thread::scope(|scope| {
        for me in 0..THREADS {
            let (turn, moved) = (&turn, &moved);
            scope.spawn(move || {
                for _ in 0..ROUNDS / 10 {
                    let mut now = turn.lock();
                    while *now % THREADS != me {
                        moved.wait(&mut now);
                    }
                    *now += 1;
                    drop(now);
                    moved.notify_all();
                }
            });
        }
    });
    assert_eq!(turn.into_inner(), THREADS * (ROUNDS / 10));
}
