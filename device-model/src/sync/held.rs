//! What locks each thread holds, and whether the next one may be taken among them.
#![expect(clippy::panic, reason = "a broken rule is what this is to find")]

use core::cell::RefCell;
use core::fmt::Display;
use std::thread;
use std::vec::Vec;

use super::LockClass;

std::thread_local! {
    /// What this thread holds, in the order in which it was taken.
    static HELD: RefCell<Vec<(LockClass, Manner)>> = const { RefCell::new(Vec::new()) };
}

/// How a lock waits until it is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// Its thread sleeps, and may sleep while it holds it.
    Sleeps,
    /// Its thread spins, and must not sleep while it holds it.
    Spins,
}

/// A lock that this thread holds or waits for.
#[derive(Debug)]
pub(super) struct Held(LockClass, Manner);

impl Held {
    /// Notes a lock that is about to be taken, whatever that lasts.
    pub(super) fn waited_for(class: LockClass, manner: Manner) -> Self {
        if let Some(outer) = first(|(outer, _)| !outer.admits(class)) {
            panic!("lock order: {class} taken while {outer} is held");
        }
        if manner == Manner::Sleeps {
            assert_may_sleep(format_args!("{class} taken"));
        }
        Self::found_free(class, manner)
    }

    /// Notes a lock that was free: an attempt that does not wait deadlocks with nobody.
    pub(super) fn found_free(class: LockClass, manner: Manner) -> Self {
        // A thread that ends has no list any more, and takes no lock that it could deadlock with.
        let _ = HELD.try_with(|held| held.borrow_mut().push((class, manner)));
        Self(class, manner)
    }

    /// Panics if this thread holds a spinning lock: it is about to wait.
    pub(super) fn assert_may_wait() {
        assert_may_sleep("a wait begun");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let &mut Self(class, manner) = self;
        let inner = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            let place = held.iter().rposition(|held| *held == (class, manner))?;
            held.remove(place);
            let inner = held.get(place..)?.iter().find(|(_, inner)| *inner == Manner::Spins);
            inner.map(|(inner, _)| *inner)
        });
        if let (Manner::Spins, Ok(Some(inner)), false) = (manner, inner, thread::panicking()) {
            panic!("spinning lock: {class} let go before {inner}");
        }
    }
}

fn assert_may_sleep(what: impl Display) {
    if let Some(outer) = first(|(_, outer)| *outer == Manner::Spins) {
        panic!("spinning lock: {what} while {outer} is held");
    }
}

/// Returns the class of the outermost lock of this thread that is as asked.
fn first(asked: impl Fn(&(LockClass, Manner)) -> bool) -> Option<LockClass> {
    HELD.try_with(|held| held.borrow().iter().find(|held| asked(held)).map(|(class, _)| *class)).ok().flatten()
}
