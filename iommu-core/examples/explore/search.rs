//! Plays a scene in every schedule, or in some of them, and keeps the schedule that goes wrong.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use device_model::sync::weak;
use shuttle::scheduler::{DfsScheduler, PctScheduler, Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, FailurePersistence, Runner};

use crate::reduced::{self, Reduced};
use crate::stage::{self, Play};

/// A scene: plays once, and says how it ended.
pub(crate) type Scene = Arc<dyn Fn() -> String + Send + Sync>;

/// Which schedules are tried.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// All that differ in more than the order of steps which have nothing to do with each other.
    Every,
    /// All, even those; then those of [`Every`](Self::Every), which must end in the same ways.
    Compared,
    /// So many, chosen at random with few changes between threads.
    Sampled(usize),
}

/// What a load may return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Memory {
    /// The newest value.
    Sequential,
    /// Any value that C11 allows; see [`device_model::sync::weak`].
    Weak,
}

/// What came out.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) schedules: usize,
    /// Schedules begun that led only to what had been seen.
    pub(crate) redundant: usize,
    /// Schedules that are left when each stands for all that differ only in the order of unrelated steps.
    pub(crate) reduced: Option<usize>,
    /// How many of them broke a rule.
    pub(crate) wrong: usize,
    /// What they broke.
    breaches: BTreeSet<String>,
    /// How many ended in which way.
    pub(crate) outcomes: BTreeMap<String, usize>,
    /// Of the schedules that went wrong, the one that is easiest to follow.
    pub(crate) counterexample: Option<Play>,
    /// For each schedule of another design that was to be found again, the one that is most like it.
    pub(crate) alike: Vec<Alike>,
}

/// The schedule that is most like one of another design.
pub(crate) struct Alike {
    wanted: Play,
    /// How many steps of `wanted` the same threads take in the same order.
    common: usize,
    pub(crate) play: Option<Play>,
}

impl Alike {
    pub(crate) fn to(wanted: Play) -> Self {
        Self { wanted, common: 0, play: None }
    }

    fn compare(&mut self, play: &Play) {
        let common = self.wanted.common_steps(play);
        let better = self.play.as_ref().is_none_or(|best| {
            (common, std::cmp::Reverse(play.changes())) > (self.common, std::cmp::Reverse(best.changes()))
        });
        if better {
            self.common = common;
            self.play = Some(play.clone());
        }
    }
}

/// Seed of the schedules chosen at random: the same in each run.
const SEED: u64 = 0x1033;
/// Places at which such a schedule changes which thread goes first.
const CHANGES: usize = 3;

impl Found {
    /// In which ways schedules ended, and what they broke.
    fn ways(&self) -> BTreeSet<&String> {
        self.outcomes.keys().chain(&self.breaches).collect()
    }

    fn record(&mut self, mut play: Play, outcome: String) {
        self.schedules += 1;
        self.alike.iter_mut().for_each(|alike| alike.compare(&play));
        *self.outcomes.entry(outcome).or_default() += 1;
        if play.broken.is_none() {
            return;
        }
        self.wrong += 1;
        self.breaches.extend(play.broken.clone());
        let effort = |play: &Play| (play.changes(), play.lines.len());
        if self.counterexample.as_ref().is_none_or(|best| effort(&play) < effort(best)) {
            // What happens after it went wrong does not matter.
            let begin = play.lines.iter().position(|line| line.wrong).unwrap_or(play.lines.len());
            let length = play.lines.iter().skip(begin).take_while(|line| line.wrong).count();
            play.lines.truncate(begin + length);
            self.counterexample = Some(play);
        }
    }
}

/// Hears from time to time how many schedules have been tried.
pub(crate) type Progress = fn(usize);

thread_local! {
    static FOUND: RefCell<Found> = RefCell::default();
}

/// Lets failures of a scene go unprinted: they are told with their timeline.
pub(crate) fn quiet() {
    // The model checker hooks itself in when it first runs.
    Runner::new(DfsScheduler::new(Some(1), false), Config::new()).run(|| {});
    std::panic::set_hook(Box::new(|_| {}));
}

/// Plays `scene` in the schedules of `method`, and looks among them for those of another design.
pub(crate) fn search(scene: &Scene, method: Method, memory: Memory, alike: Vec<Alike>, progress: Progress) -> Found {
    FOUND.set(Found { alike, ..Found::default() });
    match method {
        Method::Every => run(&Reduced::default(), scene, memory, progress),
        Method::Sampled(budget) => {
            run(&Shared::new(PctScheduler::new_from_seed(SEED, CHANGES, budget)), scene, memory, progress)
        }
        Method::Compared => {
            let few = run(&Reduced::default(), scene, memory, progress);
            let all = match memory {
                Memory::Sequential => run(&Shared::new(DfsScheduler::new(None, false)), scene, memory, progress),
                Memory::Weak => run(&Reduced::all(), scene, memory, progress),
            };
            // Not how often, but whether at all.
            let lost = all.ways().symmetric_difference(&few.ways()).count();
            Found { reduced: Some(few.schedules), wrong: lost, counterexample: None, ..all }
        }
    }
}

/// A failure ends the runner, but not the search: the next runner goes on with the same scheduler.
fn run<S: Scheduler + Clone + 'static>(scheduler: &S, scene: &Scene, memory: Memory, progress: Progress) -> Found {
    reduced::begin();
    let choose = (memory == Memory::Weak).then_some(reduced::choose as weak::Choose);
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::None;
    config.silence_warnings = true;
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    loop {
        let runner = Runner::new(scheduler.clone(), config.clone());
        let scene = scene.clone();
        let once = move || {
            stage::clear();
            weak::reset(choose);
            let outcome = scene();
            record(stage::take(), outcome, progress);
        };
        match catch_unwind(AssertUnwindSafe(|| runner.run(once))) {
            Ok(_) => return FOUND.take(),
            Err(payload) => {
                stage::stuck();
                let mut play = stage::take();
                let failure = failure(&*payload);
                play.broken.get_or_insert(failure.clone());
                record(play, failure, progress);
            }
        }
    }
}

fn record(play: Play, outcome: String, progress: Progress) {
    FOUND.with_borrow_mut(|found| {
        if reduced::was_redundant() {
            found.redundant += 1;
        } else {
            found.record(play, outcome);
        }
        if (found.schedules + found.redundant).is_multiple_of(512) {
            progress(found.schedules);
        }
    });
}

/// Why a schedule could not be played to its end.
fn failure(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    if text.starts_with("deadlock!") { "deadlock: nobody can go on".to_owned() } else { format!("panic: {text}") }
}

/// A scheduler that outlives the runner it is given to.
struct Shared<S>(Rc<RefCell<S>>);

impl<S> Shared<S> {
    fn new(scheduler: S) -> Self {
        Self(Rc::new(RefCell::new(scheduler)))
    }
}

impl<S> Clone for Shared<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Scheduler> Scheduler for Shared<S> {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.0.borrow_mut().new_execution()
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        self.0.borrow_mut().next_task(runnable, current, is_yielding)
    }

    fn next_u64(&mut self) -> u64 {
        self.0.borrow_mut().next_u64()
    }
}
