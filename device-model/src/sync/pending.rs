//! What each thread of a model is about to do, for schedulers that tell which orders make a difference.
//!
//! Two steps of different threads that touch nothing in common end in the same state in either order, so a search need
//! try one order only. `shuttle` does not say what a thread is about to touch; the locks and atomics of [`crate::sync`]
//! do, here. All threads of a model run on one thread of the system, so a thread-local is seen by all of them.

use std::cell::RefCell;
use std::vec::Vec;

use super::weak;

/// A lock, condition or atomic. Numbered in the order in which they are made, so that a schedule that begins alike
/// numbers them alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Object(pub usize);

/// What a step does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Step {
    /// Anything: it says nothing of itself.
    #[default]
    Unknown,
    /// Nothing that another thread could see.
    Local,
    /// Waits for the end of the thread of this number.
    Join(usize),
    /// Takes a lock once it is free.
    Acquire(Object),
    /// Lets a lock go.
    Release(Object),
    /// Reads an atomic.
    Load(Object),
    /// Changes an atomic, or takes a lock only if it is free.
    Change(Object),
    /// Unlocks, waits for a condition, locks again.
    Wait {
        /// The lock.
        lock: Object,
        /// The condition.
        condition: Object,
    },
}

impl Step {
    /// What it touches.
    pub fn objects(self) -> impl Iterator<Item = Object> {
        let (first, second) = match self {
            Self::Unknown | Self::Local | Self::Join(_) => (None, None),
            Self::Acquire(object) | Self::Release(object) | Self::Load(object) | Self::Change(object) => {
                (Some(object), None)
            }
            Self::Wait { lock, condition } => (Some(lock), Some(condition)),
        };
        first.into_iter().chain(second)
    }
}

#[derive(Default)]
struct Board {
    objects: usize,
    steps: Vec<Step>,
}

std::thread_local! {
    static BOARD: RefCell<Board> = RefCell::default();
}

/// Forgets everything: a new schedule begins.
pub fn reset() {
    BOARD.with_borrow_mut(|board| *board = Board::default());
}

/// What the thread of this number is about to do.
pub fn of(thread: usize) -> Step {
    BOARD.with_borrow(|board| board.steps.get(thread).copied().unwrap_or(Step::Local))
}

/// Does `step` by `work`.
pub fn announced<R>(step: Step, work: impl FnOnce() -> R) -> R {
    announce(step);
    if let Step::Release(lock) | Step::Wait { lock, .. } = step {
        weak::released(lock);
    }
    let result = work();
    match step {
        Step::Acquire(lock) | Step::Wait { lock, .. } => weak::acquired(lock),
        Step::Join(thread) => weak::joined(thread),
        _ => {}
    }
    announce(Step::Unknown);
    result
}

fn announce(step: Step) {
    // A model that has failed may drop its locks on no thread of its own.
    let Some(thread) = shuttle::current::try_get_current_task().map(usize::from) else { return };
    BOARD.with_borrow_mut(|board| {
        while board.steps.len() <= thread {
            board.steps.push(Step::Local);
        }
        if let Some(place) = board.steps.get_mut(thread) {
            *place = step;
        }
    });
}

pub(crate) fn new_object() -> Object {
    BOARD.with_borrow_mut(|board| {
        board.objects += 1;
        Object(board.objects)
    })
}
