//! Weakly ordered memory for models that ask for it: a load may return an older value than the newest.
//!
//! Each atomic keeps all values that were stored in it. A thread has a *view*: for each atomic, the oldest store that
//! it may still read. A load picks any store from there on; the scheduler decides which, so a search tries all. What
//! moves a view forward is what orders memory: an acquire load takes over the view that a release store left behind, a
//! lock passes on the view of whoever held it before, a join that of the thread that has ended. A read-modify-write
//! reads the newest store. A `SeqCst` load reads nothing older than the newest `SeqCst` store, nor than what a thread had
//! seen at its `SeqCst` fence, if that came before.
//!
//! This is the model of C11 with fences that are `SeqCst`, with two limits: stores to one atomic take effect in the order in which
//! they are executed, and no load returns a value that is stored later. Every outcome that it shows is possible in C11;
//! an outcome that needs either of the two is not shown.

use std::cell::RefCell;
use std::collections::BTreeMap;

pub use core::sync::atomic::Ordering;

use super::pending::Object;

/// The oldest store of each atomic that may still be read; an atomic that is not named may be read from its first.
type View = BTreeMap<Object, usize>;

/// Chooses one of `n` possibilities; 0 is the newest value.
pub type Choose = fn(usize) -> usize;

#[derive(Default)]
struct Memory {
    choose: Option<Choose>,
    threads: BTreeMap<usize, View>,
    locks: BTreeMap<Object, View>,
    /// What an acquire load of this store takes over.
    released: BTreeMap<(Object, usize), View>,
    /// The newest `SeqCst` store, or what was seen at a `SeqCst` fence.
    strict: View,
    /// The last load returned another value than the newest.
    old: bool,
}

std::thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// Clears all state. With `choose` memory is weak; without it every load returns the newest value.
pub fn reset(choose: Option<Choose>) {
    MEMORY.with_borrow_mut(|memory| *memory = Memory { choose, ..Memory::default() });
}

pub(super) fn is_on() -> bool {
    MEMORY.with_borrow(|memory| memory.choose.is_some())
}

fn advance(view: &mut View, other: &View) {
    for (object, store) in other {
        let seen = view.entry(*object).or_default();
        *seen = (*seen).max(*store);
    }
}

const fn acquires(order: Ordering) -> bool {
    matches!(order, Ordering::Acquire | Ordering::AcqRel | Ordering::SeqCst)
}

const fn releases(order: Ordering) -> bool {
    matches!(order, Ordering::Release | Ordering::AcqRel | Ordering::SeqCst)
}

impl Memory {
    /// The view of the running thread, if memory is weak.
    fn view(&mut self) -> Option<&mut View> {
        self.choose?;
        let thread = shuttle::current::try_get_current_task()?;
        Some(self.threads.entry(usize::from(thread)).or_default())
    }

    fn oldest(&mut self, object: Object, order: Ordering) -> Option<usize> {
        let strict = if order == Ordering::SeqCst { self.strict.get(&object).copied() } else { None };
        let seen = self.view()?.get(&object).copied();
        Some(seen.max(strict).unwrap_or(0))
    }

    fn read(&mut self, object: Object, order: Ordering, store: usize) {
        let released = self.released.get(&(object, store)).filter(|_| acquires(order)).cloned().unwrap_or_default();
        if let Some(view) = self.view() {
            view.insert(object, store);
            advance(view, &released);
        }
    }

    fn wrote(&mut self, object: Object, order: Ordering, store: usize) {
        let Some(view) = self.view() else { return };
        view.insert(object, store);
        if releases(order) {
            let view = view.clone();
            advance(self.released.entry((object, store)).or_default(), &view);
        }
        if order == Ordering::SeqCst {
            advance(&mut self.strict, &View::from([(object, store)]));
        }
    }
}

/// Which store a load reads, if `newest` is the last one.
pub(super) fn load(object: Object, order: Ordering, newest: usize) -> usize {
    let oldest = MEMORY.with_borrow_mut(|memory| memory.choose.zip(memory.oldest(object, order)));
    // The choice belongs to whoever schedules, who may look at the model.
    let store = oldest.map_or(newest, |(choose, oldest)| newest - choose(newest - oldest + 1));
    MEMORY.with_borrow_mut(|memory| {
        memory.read(object, order, store);
        memory.old = store < newest;
    });
    store
}

/// Returns whether the last load of any thread returned a value that was not the newest.
pub fn was_old() -> bool {
    MEMORY.with_borrow(|memory| memory.old)
}

/// Store number `store` is made.
pub(super) fn store(object: Object, order: Ordering, store: usize) {
    MEMORY.with_borrow_mut(|memory| memory.wrote(object, order, store));
}

/// The last store is read and store number `store` made, in one step.
pub(super) fn update(object: Object, order: Ordering, store: usize) {
    MEMORY.with_borrow_mut(|memory| {
        memory.read(object, order, store - 1);
        // It passes on what the store before it released, whatever its own order.
        let passed = memory.released.get(&(object, store - 1)).cloned().unwrap_or_default();
        memory.released.insert((object, store), passed);
        memory.wrote(object, order, store);
    });
}

/// The running thread is at a `SeqCst` fence.
pub(super) fn fence() {
    MEMORY.with_borrow_mut(|memory| {
        let strict = memory.strict.clone();
        if let Some(view) = memory.view() {
            advance(view, &strict);
            let seen = view.clone();
            advance(&mut memory.strict, &seen);
        }
    });
}

/// The running thread has taken this lock.
pub(super) fn acquired(lock: Object) {
    MEMORY.with_borrow_mut(|memory| {
        let passed = memory.locks.get(&lock).cloned().unwrap_or_default();
        if let Some(view) = memory.view() {
            advance(view, &passed);
        }
    });
}

/// The running thread lets this lock go.
pub(super) fn released(lock: Object) {
    MEMORY.with_borrow_mut(|memory| {
        if let Some(view) = memory.view().cloned() {
            advance(memory.locks.entry(lock).or_default(), &view);
        }
    });
}

/// The running thread has waited for the end of the thread of this number.
pub(super) fn joined(thread: usize) {
    MEMORY.with_borrow_mut(|memory| {
        let ended = memory.threads.get(&thread).cloned().unwrap_or_default();
        if let Some(view) = memory.view() {
            advance(view, &ended);
        }
    });
}

/// The view of a thread, to be [adopted](adopt) by a thread that it starts.
#[derive(Clone, Debug, Default)]
pub struct Seen(View);

/// Returns the view of the running thread.
pub fn seen() -> Seen {
    MEMORY.with_borrow_mut(|memory| Seen(memory.view().cloned().unwrap_or_default()))
}

/// Extends the view of the running thread by `seen`.
pub fn adopt(seen: &Seen) {
    MEMORY.with_borrow_mut(|memory| {
        if let Some(view) = memory.view() {
            advance(view, &seen.0);
        }
    });
}
