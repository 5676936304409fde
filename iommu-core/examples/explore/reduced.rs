//! A search in depth that is exhaustive, yet tries only one of the schedules that differ in nothing but the order of
//! steps which touch nothing in common.
//!
//! Dynamic partial-order reduction (Flanagan and Godefroid, 2005) with sleep sets: while a schedule runs, each step is
//! compared with what every thread is about to do; where the two touch the same lock or atomic and neither has to come
//! before the other, the other order is tried later. What the threads touch is known from
//! [`device_model::sync::pending`]; a step that says nothing of itself is taken to touch everything.
//!
//! Blind spot: threads that talk to each other past `device_model::sync` (reference counts, cells that are set once)
//! are ordered only by the locks around them.
#![expect(clippy::indexing_slicing, reason = "a search that has lost its way must stop, not go on")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use device_model::sync::pending::{self, Object, Step};
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};

/// Threads as bits; the main thread is bit 0.
type Threads = u64;

/// For each thread the number of its last step that must come before something; steps count from 1.
type Clock = Vec<usize>;

fn join(clock: &mut Clock, other: &Clock) {
    if clock.len() < other.len() {
        clock.resize(other.len(), 0);
    }
    clock.iter_mut().zip(other).for_each(|(mine, other)| *mine = (*mine).max(*other));
}

fn known(clock: &Clock, thread: usize) -> usize {
    clock.get(thread).copied().unwrap_or(0)
}

/// Whether the order of two steps of different threads can make a difference.
fn dependent(a: Step, b: Step) -> bool {
    match (a, b) {
        (Step::Local | Step::Join(_), _) | (_, Step::Local | Step::Join(_)) | (Step::Load(_), Step::Load(_)) => false,
        (Step::Unknown, _) | (_, Step::Unknown) => true,
        _ => a.objects().any(|object| b.objects().any(|other| object == other)),
    }
}

/// Whether both can be next at the same moment: a lock is let go only while nobody can take it.
fn race(a: Step, b: Step) -> bool {
    let hand_over = matches!((a, b), (Step::Acquire(_), Step::Release(_)) | (Step::Release(_), Step::Acquire(_)));
    dependent(a, b) && !hand_over
}

/// A decision of the schedule that is being tried.
struct Level {
    /// Who could go on, and by what step.
    enabled: Vec<(usize, Step)>,
    chosen: usize,
    step: Step,
    /// Whose turn it must be here in some schedule.
    wanted: Threads,
    /// Whose turn it was.
    done: Threads,
    /// Whose turn leads only to what has been seen.
    asleep: Vec<(usize, Step)>,
    /// Which of the values that weak memory offered the step has read, and how many there were.
    reads: Vec<(usize, usize)>,
}

impl Level {
    fn sleepers(&self) -> Threads {
        self.asleep.iter().fold(0, |bits, (thread, _)| bits | 1 << thread)
    }

    fn enabled(&self) -> Threads {
        self.enabled.iter().fold(0, |bits, (thread, _)| bits | 1 << thread)
    }

    /// Who sleeps after the chosen step: whoever did before, or had its turn here, and has nothing to do with it.
    fn asleep_after(&self) -> Vec<(usize, Step)> {
        let had_turn = self.enabled.iter().filter(|(thread, _)| *thread != self.chosen && self.done & 1 << thread != 0);
        self.asleep.iter().chain(had_turn).filter(|(_, step)| !dependent(*step, self.step)).copied().collect()
    }

    /// Lets the step read another value; `false` once it has read each.
    fn reads_another(&mut self) -> bool {
        while let Some((read, offered)) = self.reads.last_mut() {
            *read += 1;
            if read < offered {
                return true;
            }
            self.reads.pop();
        }
        false
    }
}

/// What comes before what in the schedule that is being tried.
#[derive(Default)]
struct Order {
    threads: Vec<Option<Clock>>,
    reads: BTreeMap<Object, Clock>,
    writes: BTreeMap<Object, Clock>,
    /// Of steps that said nothing of themselves, and of all steps.
    unknown: Clock,
    all: Clock,
}

impl Order {
    fn of(&self, thread: usize) -> Clock {
        self.threads.get(thread).cloned().flatten().unwrap_or_default()
    }

    fn set(&mut self, thread: usize, clock: Clock) {
        if self.threads.len() <= thread {
            self.threads.resize(thread + 1, None);
        }
        self.threads[thread] = Some(clock);
    }

    /// Thread `thread` does `step`, the schedule's `number`th.
    fn advance(&mut self, thread: usize, step: Step, number: usize) {
        let mut clock = self.of(thread);
        match step {
            Step::Local => {}
            Step::Join(other) => join(&mut clock, &self.of(other)),
            Step::Unknown => join(&mut clock, &self.all),
            _ => join(&mut clock, &self.unknown),
        }
        let reads = matches!(step, Step::Load(_));
        for object in step.objects() {
            self.writes.get(&object).into_iter().for_each(|writes| join(&mut clock, writes));
            if !reads {
                self.reads.get(&object).into_iter().for_each(|reads| join(&mut clock, reads));
            }
        }
        if clock.len() <= thread {
            clock.resize(thread + 1, 0);
        }
        clock[thread] = number;
        for object in step.objects() {
            join(if reads { &mut self.reads } else { &mut self.writes }.entry(object).or_default(), &clock);
        }
        if step == Step::Unknown {
            join(&mut self.unknown, &clock);
        }
        join(&mut self.all, &clock);
        self.set(thread, clock);
    }
}

/// Which schedules are tried.
#[derive(Default, PartialEq, Eq)]
enum Orders {
    /// One of those that differ in nothing that matters.
    #[default]
    Distinct,
    All,
}

#[derive(Default)]
struct Search {
    levels: Vec<Level>,
    /// Decisions of this schedule so far.
    depth: usize,
    /// Values that the running step has read so far.
    reads: usize,
    order: Order,
    /// This schedule turned out to lead only to what has been seen.
    redundant: bool,
    orders: Orders,
    begun: bool,
    over: bool,
}

impl Search {
    /// The next schedule; whether there is one.
    fn begin(&mut self) -> bool {
        if self.begun && !self.redundant {
            self.compare(&[]);
        }
        if self.over || (self.begun && !self.go_back()) {
            return false;
        }
        self.begun = true;
        self.redundant = false;
        REDUNDANT.set(false);
        self.depth = 0;
        self.reads = 0;
        self.order = Order::default();
        pending::reset();
        true
    }

    /// Back to the last decision where another value, or another thread's turn, is to be tried.
    fn go_back(&mut self) -> bool {
        while let Some(level) = self.levels.last_mut() {
            if level.reads_another() {
                return true;
            }
            let left = level.wanted & !level.done & !level.sleepers();
            if let Some((thread, step)) = level.enabled.iter().find(|(thread, _)| left & 1 << thread != 0) {
                level.done |= 1 << thread;
                level.chosen = *thread;
                level.step = *step;
                return true;
            }
            self.levels.pop();
        }
        false
    }

    /// Looks for steps which could come the other way round to what the threads are about to do.
    fn compare(&mut self, runnable: &[usize]) {
        for thread in 0..self.order.threads.len() {
            let next = pending::of(thread);
            // A thread that cannot go on and does not say for what it waits has ended.
            if next == Step::Unknown && !runnable.contains(&thread) {
                continue;
            }
            // What a thread was about to do before the last step has been compared with the steps before that.
            let fresh = self.levels.last().is_none_or(|last| last.chosen == thread);
            let reach = if fresh { self.levels.len() } else { 1 };
            let clock = self.order.of(thread);
            let opposite = self.levels.iter().enumerate().rev().take(reach).find(|(at, level)| {
                level.chosen != thread && race(level.step, next) && known(&clock, level.chosen) <= *at
            });
            if let Some((at, _)) = opposite {
                self.want(at, thread, &clock);
            }
        }
    }

    /// At decision `at`, `thread` must have its turn in some schedule, or whoever lets it go on.
    fn want(&mut self, at: usize, thread: usize, clock: &Clock) {
        let level = &mut self.levels[at];
        let enabled = level.enabled();
        let leads = |other: usize| other == thread || known(clock, other) > at + 1;
        let leaders = (0..Threads::BITS as usize).filter(|other| enabled & 1 << other != 0 && leads(*other));
        let leaders = leaders.fold(0, |bits, other| bits | 1 << other);
        if leaders & level.wanted != 0 {
            return;
        }
        level.wanted |= match leaders {
            0 => enabled,
            _ if leaders & 1 << thread != 0 => 1 << thread,
            _ => leaders & leaders.wrapping_neg(),
        };
    }

    fn next(&mut self, runnable: &[usize], current: Option<usize>) -> usize {
        for thread in runnable {
            if self.order.threads.get(*thread).is_none_or(Option::is_none) {
                // Made by the step before, which comes before all that it does.
                self.order.set(*thread, current.map(|maker| self.order.of(maker)).unwrap_or_default());
            }
        }
        if self.redundant {
            return runnable[0];
        }
        if self.depth == self.levels.len() && !self.decide(runnable, current) {
            self.redundant = true;
            REDUNDANT.set(true);
            return runnable[0];
        }
        let level = &self.levels[self.depth];
        self.depth += 1;
        self.reads = 0;
        self.order.advance(level.chosen, level.step, self.depth);
        level.chosen
    }

    /// Which of so many values the running step reads.
    fn read(&mut self, offered: usize) -> usize {
        let Some(level) = self.depth.checked_sub(1).and_then(|last| self.levels.get_mut(last)) else { return 0 };
        if self.redundant || offered < 2 {
            return 0;
        }
        if self.reads == level.reads.len() {
            level.reads.push((0, offered));
        }
        self.reads += 1;
        level.reads[self.reads - 1].0
    }

    /// A decision that no schedule has come to yet; `false` if all that can follow has been seen.
    fn decide(&mut self, runnable: &[usize], current: Option<usize>) -> bool {
        self.compare(runnable);
        let asleep = match self.levels.last() {
            Some(last) if self.orders == Orders::Distinct => last.asleep_after(),
            _ => Vec::new(),
        };
        let enabled: Vec<_> = runnable.iter().map(|thread| (*thread, pending::of(*thread))).collect();
        let awake = |thread: &usize| asleep.iter().all(|(sleeper, _)| sleeper != thread);
        // Whoever ran goes on if it can: schedules with few changes are the ones that people can read.
        let first = current.filter(|thread| runnable.contains(thread) && awake(thread));
        let Some(chosen) = first.or_else(|| runnable.iter().copied().find(awake)) else { return false };
        let step = pending::of(chosen);
        let wanted = match self.orders {
            Orders::Distinct => 1 << chosen,
            Orders::All => enabled.iter().fold(0, |bits, (thread, _)| bits | 1 << thread),
        };
        self.levels.push(Level { enabled, chosen, step, wanted, done: 1 << chosen, asleep, reads: Vec::new() });
        true
    }
}

/// The search as a scheduler; clones go on with the same search, so that it outlives a schedule that deadlocks.
#[derive(Clone, Default)]
pub(crate) struct Reduced(Rc<RefCell<Search>>);

thread_local! {
    static REDUNDANT: Cell<bool> = const { Cell::new(false) };
    /// The search whose schedule is being played.
    static PLAYING: RefCell<Reduced> = RefCell::default();
}

/// A search begins.
pub(crate) fn begin() {
    REDUNDANT.set(false);
}

/// Which of so many values the running step reads, if this search schedules.
pub(crate) fn choose(offered: usize) -> usize {
    PLAYING.with_borrow(|playing| playing.0.borrow_mut().read(offered))
}

/// Whether this schedule leads only to what has been seen.
pub(crate) fn was_redundant() -> bool {
    REDUNDANT.get()
}

impl Reduced {
    /// A search that leaves out nothing.
    pub(crate) fn all() -> Self {
        Self(Rc::new(RefCell::new(Search { orders: Orders::All, ..Search::default() })))
    }
}

impl Scheduler for Reduced {
    fn new_execution(&mut self) -> Option<Schedule> {
        let mut search = self.0.borrow_mut();
        let another = search.begin();
        search.over = !another;
        PLAYING.set(self.clone());
        another.then(|| Schedule::new(0))
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, _is_yielding: bool) -> Option<TaskId> {
        let threads: Vec<usize> = runnable.iter().map(|task| task.id().into()).collect();
        let next = self.0.borrow_mut().next(&threads, current.map(usize::from));
        runnable.iter().map(|task| task.id()).find(|id| usize::from(*id) == next)
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}
