//! The next step of each thread of a model, for partial-order reduction.
//!
//! Two steps of different threads that touch no common object lead to the same state in either order, so a search needs
//! to try only one order. `shuttle` does not report what a thread is about to touch; the locks and atomics of
//! [`crate::sync`] report it here. All threads of a model run on one OS thread, so a thread-local is visible to all of
//! them.

use std::cell::RefCell;
use std::vec::Vec;

use super::weak;

/// A lock, condition variable or atomic. Numbered in order of creation, so that schedules with a common prefix number
/// them alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Object(pub usize);

/// Effect of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Step {
    /// Unknown: may touch anything.
    #[default]
    Unknown,
    /// Touches nothing that another thread can see.
    Local,
    /// Waits for the end of the thread of this number.
    Join(usize),
    /// Takes a lock once it is free.
    Acquire(Object),
    /// Releases a lock.
    Release(Object),
    /// Reads an atomic.
    Load(Object),
    /// Changes an atomic, or tries to take a lock.
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
    /// Returns the objects that the step touches.
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

/// Clears all state, at the beginning of a schedule.
pub fn reset() {
    BOARD.with_borrow_mut(|board| *board = Board::default());
}

/// Returns the next step of the thread of this number.
pub fn of(thread: usize) -> Step {
    BOARD.with_borrow(|board| board.steps.get(thread).copied().unwrap_or(Step::Local))
}

/// Announces `step`, then runs `work`.
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
