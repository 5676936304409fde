//! Under `--cfg lock_order` a broken rule of the locks is seen, though nothing deadlocks in that run.
#![cfg(lock_order)]

use device_model::sync::{Arc, Condvar, LockClass, Mutex, SpinMutex, Users};

const OUTER: LockClass = LockClass::new("outer", 1);
const INNER: LockClass = LockClass::new("inner", 2);

#[test]
fn what_keeps_the_rules_passes() {
    let (sleeping, spinning) = (Mutex::of(OUTER, ()), SpinMutex::of(INNER, ()));
    let leaf = SpinMutex::new(());
    let guards = (sleeping.lock(), spinning.lock(), leaf.lock());
    assert!(sleeping.try_lock().is_none());
    let (sleeping, spinning, leaf) = guards;
    drop(leaf);
    drop(spinning);
    drop(sleeping);
}

#[test]
fn sleeping_locks_may_be_let_go_in_any_order() {
    let (outer, inner) = (Mutex::of(OUTER, ()), Mutex::of(INNER, ()));
    let (outer, inner) = (outer.lock(), inner.lock());
    drop(outer);
    drop(inner);
}

#[test]
#[should_panic(expected = "lock order: outer (rank 1) taken while inner (rank 2) is held")]
fn an_inversion_is_seen() {
    let (outer, inner) = (SpinMutex::of(OUTER, ()), SpinMutex::of(INNER, ()));
    let _inner = inner.lock();
    let _outer = outer.lock();
}

#[test]
#[should_panic(expected = "lock order: outer (rank 1) taken while inner (rank 2) is held")]
fn a_lock_that_was_free_is_held_like_any_other() {
    let (outer, inner) = (Mutex::of(OUTER, ()), Mutex::of(INNER, ()));
    let _inner = inner.try_lock();
    let _outer = outer.lock();
}

#[test]
#[should_panic(expected = "spinning lock: inner (rank 2) taken while outer (rank 1) is held")]
fn a_sleeping_lock_under_a_spinning_one_is_seen() {
    let (spinning, sleeping) = (SpinMutex::of(OUTER, ()), Mutex::of(INNER, ()));
    let _spinning = spinning.lock();
    let _sleeping = sleeping.lock();
}

#[test]
#[should_panic(expected = "spinning lock: a wait begun while inner (rank 2) is held")]
fn a_wait_under_a_spinning_lock_is_seen() {
    let (sleeping, spinning) = (Mutex::of(OUTER, ()), SpinMutex::of(INNER, ()));
    let sleeping = sleeping.lock();
    let _spinning = spinning.lock();
    drop(Condvar::new().wait(sleeping));
}

#[test]
#[should_panic(expected = "spinning lock")]
fn a_wait_for_users_under_a_spinning_lock_is_seen() {
    let spinning = SpinMutex::of(OUTER, ());
    let _spinning = spinning.lock();
    Arc::new(Users::new()).wait();
}

#[test]
#[should_panic(expected = "spinning lock: outer (rank 1) let go before inner (rank 2)")]
fn spinning_locks_let_go_out_of_order_are_seen() {
    let (outer, inner) = (SpinMutex::of(OUTER, ()), SpinMutex::of(INNER, ()));
    let (outer, inner) = (outer.lock(), inner.lock());
    drop(outer);
    drop(inner);
}
