//! Memory orders: does the model of memory show what it should, and does the walk need more than the group lock gives?

use std::sync::Arc;

use device_model::sync::atomic::{AtomicUsize, Ordering};
use device_model::sync::{Mutex, weak};

use super::Expected::{Fails, Holds};
use super::{Question, defence};
use crate::designs::{BEST, RELAXED, RELEASE_ACQUIRE, SEQ_CST, UNLOCKED};
use crate::proposed::Proposed;
use crate::search::{Memory, Method};
use crate::stage;

pub(super) fn questions() -> Vec<Question> {
    vec![
        Question::new(
            "walk-memory",
            "Does the walk need its reads ordered, or is the group lock enough?",
            "H25, H26 row 1",
        )
        .counted(defence::sibling_unbinds)
        .proposed(Holds, BEST, defence::sibling_unbinds)
        .under(Memory::Sequential, UNLOCKED.0, Holds, Method::Every, || unbinds(UNLOCKED.1))
        .under(Memory::Weak, UNLOCKED.0, Fails, Method::Every, || unbinds(UNLOCKED.1)),
        Question::new("litmus-buffering", "Two store, then read the other's: may both read the old value?", "")
            .under(Memory::Weak, RELAXED, Fails, Method::Every, || store_buffering(Ordering::Relaxed))
            .under(Memory::Weak, RELEASE_ACQUIRE, Fails, Method::Every, || store_buffering(Ordering::AcqRel))
            .under(Memory::Weak, SEQ_CST, Holds, Method::Every, || store_buffering(Ordering::SeqCst)),
        Question::new("litmus-message", "A flag is seen: may what was written before it be unseen?", "")
            .under(Memory::Weak, RELAXED, Fails, Method::Every, || message(Ordering::Relaxed))
            .under(Memory::Weak, RELEASE_ACQUIRE, Holds, Method::Every, || message(Ordering::AcqRel)),
        Question::new("litmus-lock", "May what was written before a lock was taken be unseen under it?", "").under(
            Memory::Weak,
            RELAXED,
            Holds,
            Method::Every,
            || locked(Ordering::Relaxed),
        ),
        Question::new("litmus-coherence", "May one reader see the newer value and then the older?", "").under(
            Memory::Weak,
            RELAXED,
            Holds,
            Method::Every,
            coherence,
        ),
    ]
}

fn unbinds(variant: crate::proposed::Variant) -> String {
    defence::sibling_unbinds(&Proposed::new(variant))
}

const fn loading(order: Ordering) -> Ordering {
    match order {
        Ordering::AcqRel => Ordering::Acquire,
        order => order,
    }
}

const fn storing(order: Ordering) -> Ordering {
    match order {
        Ordering::AcqRel => Ordering::Release,
        order => order,
    }
}

fn words() -> [Arc<AtomicUsize>; 2] {
    [(); 2].map(|()| Arc::new(AtomicUsize::new(0)))
}

fn read(name: &str, word: &AtomicUsize, order: Ordering) -> usize {
    let value = word.load(order);
    stage::step(format!("reads {name}: {value}{}", if weak::was_old() { " (an old value)" } else { "" }));
    value
}

fn write(name: &str, word: &AtomicUsize, order: Ordering) {
    word.store(1, order);
    stage::step(format!("{name} = 1"));
}

pub(super) fn store_buffering(order: Ordering) -> String {
    let [x, y] = words();
    let (one, other) = (x.clone(), y.clone());
    let first = stage::thread("x = 1, read y", move || {
        write("x", &one, storing(order));
        read("y", &other, loading(order))
    });
    let second = stage::thread("y = 1, read x", move || {
        write("y", &y, storing(order));
        read("x", &x, loading(order))
    });
    let seen = [first.join(), second.join()];
    stage::must(seen != [0, 0], "both have read the old value");
    format!("{seen:?}")
}

pub(super) fn message(order: Ordering) -> String {
    let [word, flag] = words();
    let (written, told) = (word.clone(), flag.clone());
    let writer = stage::thread("write, tell", move || {
        write("word", &written, Ordering::Relaxed);
        write("flag", &told, storing(order));
    });
    let reader = stage::thread("read", move || {
        let told = read("flag", &flag, loading(order));
        (told, read("word", &word, Ordering::Relaxed))
    });
    writer.join();
    let seen = reader.join();
    stage::must(seen != (1, 0), "the flag is seen, and what was written before it is not");
    format!("{seen:?}")
}

fn locked(order: Ordering) -> String {
    let [x, y] = words();
    let lock = Arc::new(Mutex::new(()));
    let threads = [(x.clone(), y.clone(), "x, then y"), (y, x, "y, then x")].map(|(mine, other, title)| {
        let lock = lock.clone();
        stage::thread(title, move || {
            mine.store(1, order);
            let _guard = lock.lock();
            other.load(order)
        })
    });
    let seen = threads.map(stage::Thread::join);
    stage::must(seen != [0, 0], "both have read the old value");
    format!("{seen:?}")
}

fn coherence() -> String {
    let [x, _] = words();
    let written = x.clone();
    let writer = stage::thread("write", move || (1..3).for_each(|value| written.store(value, Ordering::Relaxed)));
    let reader = stage::thread("read twice", move || [(); 2].map(|()| x.load(Ordering::Relaxed)));
    writer.join();
    let [first, second] = reader.join();
    stage::must(first <= second, "an older value is read after a newer one");
    format!("{first}, {second}")
}
