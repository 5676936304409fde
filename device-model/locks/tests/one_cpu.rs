//! One CPU without preemption makes progress, and what would hang it is seen.
#![cfg(not(shuttle))]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

use dma_locks::one_cpu::{OneCpu, run, yield_now};
use dma_locks::{Condvar, RawMutex, RawSpinMutex};

dma_locks::provide!(OneCpu);

type Mutex<T> = lock_api::Mutex<RawMutex, T>;
type SpinMutex<T> = lock_api::Mutex<RawSpinMutex, T>;

const SEEDS: u32 = if cfg!(miri) { 4 } else { 200 };

#[test]
fn a_sleeping_lock_held_across_a_switch_is_waited_for() {
    for seed in 0..SEEDS {
        let (sum, inside) = (Mutex::new(0), AtomicU32::new(0));
        let thread = || {
            for _ in 0..5 {
                let mut sum = sum.lock();
                assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0, "two hold the lock");
                yield_now();
                *sum += 1;
                inside.fetch_sub(1, Ordering::Relaxed);
            }
        };
        run(seed, vec![Box::new(thread), Box::new(thread), Box::new(thread), Box::new(thread)]);
        assert_eq!(*sum.lock(), 20);
    }
}

#[test]
fn a_condition_wakes_all_who_wait() {
    for seed in 0..SEEDS {
        let (open, condition) = (Mutex::new(false), Condvar::new());
        let wait = || {
            let mut open = open.lock();
            while !*open {
                condition.wait(&mut open);
            }
        };
        let notify = || {
            *open.lock() = true;
            yield_now();
            condition.notify_all();
        };
        run(seed, vec![Box::new(wait), Box::new(wait), Box::new(notify), Box::new(wait)]);
    }
}

#[test]
fn a_lock_taken_without_waiting_is_given_up_like_any_other() {
    for seed in 0..SEEDS {
        let count = Mutex::new(0);
        let thread = || {
            while let Some(mut count) = count.try_lock().or_else(|| Some(count.lock())) {
                yield_now();
                *count += 1;
                if *count > 20 {
                    break;
                }
            }
        };
        run(seed, vec![Box::new(thread), Box::new(thread), Box::new(thread)]);
        assert_eq!(*count.lock(), 23);
    }
}

#[test]
fn a_spinning_lock_across_a_switch_is_seen() {
    let lock = SpinMutex::new(());
    let thread = || {
        let _held = lock.lock();
        yield_now();
    };
    assert!(catch_unwind(AssertUnwindSafe(|| run(0, vec![Box::new(thread), Box::new(thread)]))).is_err());
}

#[test]
fn a_spinning_lock_taken_twice_is_seen() {
    let lock = SpinMutex::new(());
    let thread = || drop((lock.lock(), lock.lock()));
    assert!(catch_unwind(AssertUnwindSafe(|| run(0, vec![Box::new(thread)]))).is_err());
}

#[test]
fn a_wait_with_a_spinning_lock_held_is_seen() {
    let (open, condition) = (Mutex::new(false), Condvar::new());
    let thread = || {
        let spinning = SpinMutex::new(());
        let _held = spinning.lock();
        condition.wait(&mut open.lock());
    };
    assert!(catch_unwind(AssertUnwindSafe(|| run(0, vec![Box::new(thread)]))).is_err());
}

#[test]
fn spinning_locks_let_go_out_of_order_are_seen() {
    let thread = || {
        let (first, second) = (SpinMutex::new(()), SpinMutex::new(()));
        let first = first.lock();
        let second = second.lock();
        drop(first);
        drop(second);
    };
    assert!(catch_unwind(AssertUnwindSafe(|| run(0, vec![Box::new(thread)]))).is_err());
}

#[test]
fn waiting_for_what_nobody_does_is_seen() {
    let (open, condition) = (Mutex::new(()), Condvar::new());
    let thread = || condition.wait(&mut open.lock());
    assert!(catch_unwind(AssertUnwindSafe(|| run(0, vec![Box::new(thread)]))).is_err());
}
