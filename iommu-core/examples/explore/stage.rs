//! What is written down while a scene plays: who did what under which locks, and who has the group in truth.
//!
//! The truth is kept apart from the design that is being watched: rights to DMA as the bus gives and takes them back,
//! claims as values in somebody's hands. An entry is made in the same step in which the group lock is let go, so the
//! order of entries is the order in which things happened.
#![expect(clippy::indexing_slicing, reason = "the places of a subsequence are counted beside it")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use device_model::sync::pending::{Step, announced};
use device_model::sync::{thread, weak};

/// One line of a timeline.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// The thread, as a place in [`Play::threads`].
    pub(crate) thread: usize,
    pub(crate) what: String,
    /// It says what is wrong, rather than what is done.
    pub(crate) wrong: bool,
    /// The locks that are held now, each with the thread that holds it.
    pub(crate) locks: Vec<(String, usize)>,
    pub(crate) ownership: String,
}

/// A schedule as people can read it.
#[derive(Clone, Default)]
pub(crate) struct Play {
    /// The names of its threads.
    pub(crate) threads: Vec<&'static str>,
    /// Who had the group before.
    pub(crate) before: String,
    pub(crate) lines: Vec<Line>,
    /// The first rule that was broken.
    pub(crate) broken: Option<String>,
}

impl Play {
    /// How often another thread went on.
    pub(crate) fn changes(&self) -> usize {
        self.lines.iter().zip(self.lines.iter().skip(1)).filter(|(one, next)| one.thread != next.thread).count()
    }

    /// How many steps both have in the same order, by the same threads: the longest common subsequence.
    pub(crate) fn common_steps(&self, other: &Self) -> usize {
        let mut longest = vec![0; other.lines.len() + 1];
        for mine in &self.lines {
            let mut before = 0;
            for (place, theirs) in other.lines.iter().enumerate() {
                let same = mine.thread == theirs.thread && mine.what == theirs.what;
                let found = if same { before + 1 } else { longest[place].max(longest[place + 1]) };
                before = std::mem::replace(&mut longest[place + 1], found);
            }
        }
        longest.last().copied().unwrap_or(0)
    }
}

/// What the devices of the group can reach.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Reach {
    #[default]
    Kernel,
    /// Nothing, or what the owner mapped.
    Owner,
}

/// What a design is judged by, in every step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// Never the kernel and user space at once, never two owners.
    Exclusion,
    /// Who is refused is refused because of somebody who has the group now.
    JustRefusal,
    /// The devices cannot reach the kernel's memory from the first claim to the end of the last.
    CutOff,
}

#[derive(Default)]
struct Stage {
    /// Rules that this scene does not ask about.
    tolerated: BTreeSet<Rule>,
    play: Play,
    /// Places in `Play::threads` by number of thread.
    columns: BTreeMap<usize, usize>,
    locks: BTreeMap<usize, Vec<String>>,
    /// Devices whose drivers may do DMA through the DMA API, with the drivers.
    rights: BTreeMap<&'static str, &'static str>,
    claims: BTreeMap<&'static str, u32>,
    /// Threads that are releasing a claim: until the group lock is let go it counts for all others.
    leaving: BTreeSet<usize>,
    /// What threads wait for.
    awaited: BTreeMap<usize, String>,
    reach: Reach,
    /// Devices that hardware has attached to a domain of the kernel's.
    exposed: BTreeSet<String>,
}

thread_local! {
    static STAGE: RefCell<Stage> = RefCell::default();
}

fn me() -> usize {
    shuttle::current::try_get_current_task().map_or(0, usize::from)
}

/// A new schedule begins.
pub(crate) fn clear() {
    STAGE.with_borrow_mut(|stage| *stage = Stage::default());
}

/// What has been written down; takes it away.
pub(crate) fn take() -> Play {
    STAGE.with_borrow_mut(|stage| std::mem::take(&mut stage.play))
}

impl Stage {
    fn line(&mut self, what: String) {
        self.line_of(me(), what, false);
    }

    fn line_of(&mut self, me: usize, what: String, wrong: bool) {
        let locks = self.held();
        // What the main thread sets up before the others come is not part of the story.
        if let Some(thread) = self.columns.get(&me).copied() {
            let ownership = self.ownership();
            self.play.lines.push(Line { thread, what, wrong, locks, ownership });
        }
    }

    /// Each lock once, though a thread may say more than once that it holds it.
    fn held(&self) -> Vec<(String, usize)> {
        let column = |(thread, locks): (&usize, &Vec<String>)| Some((*self.columns.get(thread)?, locks.clone()));
        let held = self.locks.iter().filter_map(column);
        let held = held.flat_map(|(thread, locks)| locks.into_iter().map(move |lock| (lock, thread)));
        held.collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn broken(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.line_of(me(), what.clone(), true);
        self.play.broken.get_or_insert(what);
    }

    /// `rule` is broken, which matters if the scene asks about it.
    fn breaks(&mut self, rule: Rule, what: &str) {
        if !self.tolerated.contains(&rule) {
            self.broken(what);
        }
    }

    /// Kernel uses and claims; one that is being released counts no more.
    fn users(&self) -> usize {
        let claims: u32 = self.claims.values().sum();
        let leaving = u32::from(self.leaving.contains(&me()));
        self.rights.len() + usize::try_from(claims.saturating_sub(leaving)).unwrap_or(usize::MAX)
    }

    /// Nothing that user space drives may reach the kernel's memory.
    fn exposed_to_user(&mut self) {
        let claims = self.claims.values().sum::<u32>() > u32::from(self.leaving.contains(&me()));
        if claims && !self.exposed.is_empty() {
            self.breaks(Rule::CutOff, "a device that user space has reaches the kernel's memory");
        }
    }

    fn claimed(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.claims.iter().map(|(owner, claims)| (*owner, *claims)).filter(|(_, claims)| *claims > 0)
    }

    fn ownership(&self) -> String {
        let kernel = self.rights.iter().map(|(device, driver)| format!("{driver} on {device}"));
        let user = self.claimed().map(|(owner, count)| match count {
            1 => owner.to_owned(),
            _ => format!("{owner}, {count} claims"),
        });
        let holders: Vec<_> = kernel.chain(user).collect();
        match (holders.is_empty(), self.reach) {
            (true, Reach::Kernel) => "nobody".to_owned(),
            (true, Reach::Owner) => "nobody, yet blocked".to_owned(),
            (false, _) => holders.join(" + "),
        }
    }
}

fn with<R>(work: impl FnOnce(&mut Stage) -> R) -> R {
    STAGE.with_borrow_mut(work)
}

/// This scene does not ask about `rule`.
pub(crate) fn tolerate(rule: Rule) {
    with(|stage| stage.tolerated.insert(rule));
}

/// The running thread has done this.
pub(crate) fn step(what: impl fmt::Display) {
    with(|stage| stage.line(what.to_string()));
}

/// A rule does not hold in this schedule.
pub(crate) fn broken(rule: impl fmt::Display) {
    with(|stage| stage.broken(rule.to_string()));
}

/// A rule that must hold.
pub(crate) fn must(holds: bool, rule: impl fmt::Display) {
    if !holds {
        broken(rule);
    }
}

/// The running thread holds a lock of this name until the returned value goes.
pub(crate) fn holding(lock: impl Into<String>) -> Holding {
    with(|stage| stage.locks.entry(me()).or_default().push(lock.into()));
    Holding(me())
}

/// The running thread waits for this until [`got`] is called.
pub(crate) fn awaits(what: impl Into<String>) {
    with(|stage| stage.awaited.insert(me(), what.into()));
}

/// What the running thread waited for has come.
pub(crate) fn got() {
    with(|stage| stage.awaited.remove(&me()));
}

/// Nobody can go on: says who waits for what.
pub(crate) fn stuck() {
    with(|stage| {
        for (thread, what) in std::mem::take(&mut stage.awaited) {
            let holder = stage.locks.iter().find(|(other, locks)| **other != thread && locks.contains(&what));
            let holder = holder.and_then(|(other, _)| stage.play.threads.get(*stage.columns.get(other)?));
            let held = holder.map(|name| format!(", which `{name}` holds")).unwrap_or_default();
            stage.line_of(thread, format!("waits for the {what}{held}"), true);
        }
    });
}

/// See [`holding`].
pub(crate) struct Holding(usize);

impl Drop for Holding {
    fn drop(&mut self) {
        with(|stage| stage.locks.entry(self.0).or_default().pop());
    }
}

/// The kernel's driver may do DMA from now on.
pub(crate) fn dma_begins(device: &'static str, driver: &'static str) {
    with(|stage| {
        stage.rights.insert(device, driver);
        stage.line(format!("{driver} may do DMA on {device}"));
        if stage.claimed().next().is_some() {
            stage.breaks(Rule::Exclusion, "a kernel driver does DMA in a group that user space has");
        }
    });
}

/// It may no more.
pub(crate) fn dma_ends(device: &'static str) {
    with(|stage| {
        if let Some(driver) = stage.rights.remove(device) {
            stage.line(format!("{driver} may do DMA on {device} no more"));
        }
    });
}

/// The driver was not allowed to do DMA.
pub(crate) fn dma_refused(device: &'static str, driver: &'static str) {
    with(|stage| {
        stage.line(format!("{driver} may not do DMA on {device}: EBUSY"));
        if stage.claimed().next().is_none() {
            stage.breaks(Rule::JustRefusal, "a driver is refused though nobody has claimed the group");
        }
    });
}

/// A claim is in the hands of `owner`.
pub(crate) fn claimed(owner: &'static str) {
    with(|stage| {
        *stage.claims.entry(owner).or_default() += 1;
        stage.line(format!("{owner} has the group, its devices are blocked"));
        if !stage.rights.is_empty() {
            stage.breaks(Rule::Exclusion, "user space has a group in which a kernel driver does DMA");
        }
        stage.exposed_to_user();
        if stage.claimed().count() > 1 {
            stage.breaks(Rule::Exclusion, "two owners have the group");
        }
    });
}

/// A claim was refused.
pub(crate) fn claim_refused(owner: &'static str) {
    with(|stage| {
        stage.line(format!("{owner} is refused: EPERM"));
        if stage.rights.is_empty() && stage.claimed().next().is_none() {
            stage.breaks(Rule::JustRefusal, "a claim is refused though nobody uses the group");
        }
    });
}

/// The running thread begins to release a claim.
pub(crate) fn releasing() {
    with(|stage| stage.leaving.insert(me()));
}

/// It is released.
pub(crate) fn released(owner: &'static str) {
    with(|stage| {
        stage.leaving.remove(&me());
        let claims = stage.claims.entry(owner).or_default();
        *claims = claims.saturating_sub(1);
        stage.line(format!("{owner} has released a claim"));
    });
}

/// The devices of the group were moved.
pub(crate) fn moved(reach: Reach) {
    with(|stage| {
        if std::mem::replace(&mut stage.reach, reach) == reach {
            return;
        }
        if reach == Reach::Kernel {
            stage.line("puts the devices back on the kernel's domain".to_owned());
        }
        let others = stage.claims.values().sum::<u32>() > u32::from(stage.leaving.contains(&me()));
        if reach == Reach::Kernel && others {
            stage.breaks(Rule::CutOff, "devices that user space holds are put on the kernel's domain");
        }
    });
}

/// Hardware has attached a device.
pub(crate) fn attached(device: &str, reach: Reach) {
    with(|stage| match reach {
        Reach::Owner => drop(stage.exposed.remove(device)),
        Reach::Kernel => {
            stage.exposed.insert(device.to_owned());
            stage.exposed_to_user();
        }
    });
}

/// The design has said whether the group has exactly one user.
pub(crate) fn told_one_user(one: bool) {
    with(|stage| {
        stage.line(format!("is told that the group has {}", if one { "one user" } else { "none, or more than one" }));
        match (one, stage.users() == 1) {
            (true, false) => stage.breaks(Rule::Exclusion, "an attach is allowed though there is another user"),
            (false, true) => stage.breaks(Rule::JustRefusal, "an attach is refused though there is one user"),
            (true, true) | (false, false) => {}
        }
    });
}

/// Everybody has given back what they had: nobody may have the group any more.
pub(crate) fn curtain() {
    with(|stage| {
        if stage.rights.is_empty() && stage.claimed().next().is_none() && stage.reach == Reach::Owner {
            stage.breaks(Rule::CutOff, "everybody has left, yet the group is kept from the kernel");
        }
    });
}

/// A thread of a scene.
pub(crate) struct Thread<T>(thread::JoinHandle<T>);

/// Lets `work` play in a column of its own.
pub(crate) fn thread<T: Send + 'static>(name: &'static str, work: impl FnOnce() -> T + Send + 'static) -> Thread<T> {
    let column = with(|stage| {
        if stage.play.threads.is_empty() {
            stage.play.before = stage.ownership();
        }
        stage.play.threads.push(name);
        stage.play.threads.len() - 1
    });
    let seen = weak::seen();
    let begin = move || {
        weak::adopt(&seen);
        with(|stage| stage.columns.insert(me(), column));
        work()
    };
    Thread(announced(Step::Local, || thread::spawn(begin)))
}

impl<T> Thread<T> {
    /// Waits for its end; what it returned.
    pub(crate) fn join(self) -> T {
        let target = usize::from(self.0.thread().id());
        match announced(Step::Join(target), || self.0.join()) {
            Ok(result) => result,
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }
}
