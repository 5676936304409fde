use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use iommu_core::device_model::Errno;
use proptest::prelude::*;

use super::*;

/// A trigger, and how often it was set off.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicU32>);

impl Counter {
    fn trigger(&self) -> Trigger {
        let count = self.0.clone();
        Trigger::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn take(&self) -> u32 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

fn interrupts() -> Interrupts {
    Interrupts::new(Available { intx: 1, msi: 4, msix: 8, error: 1 }, IntxLine::On)
}

fn set(
    interrupts: &mut Interrupts,
    index: IrqIndex,
    start: u32,
    action: IrqAction,
    source: IrqSource<'_>,
) -> Result<(), Errno> {
    let due = interrupts.set(index, start, action, source).map_err(|error| error.errno())?;
    due.signals.iter().for_each(Trigger::signal);
    Ok(())
}

fn raise(interrupts: &mut Interrupts, index: IrqIndex, vector: u32) -> Raised {
    let (raised, due) = interrupts.raise(index, vector);
    assert_eq!(due.is_some(), raised == Raised::Signalled);
    due.iter().for_each(Trigger::signal);
    raised
}

const NOW: IrqSource<'static> = IrqSource::None { count: 1 };
const OFF: IrqSource<'static> = IrqSource::None { count: 0 };
use IrqAction::{Mask, Trigger as Fire, Unmask};

#[test]
fn the_line_masks_itself_and_keeps_what_comes_meanwhile_once() {
    let (mut interrupts, counter) = (interrupts(), Counter::default());
    let intx = IrqIndex::INTX;
    assert_eq!(raise(&mut interrupts, intx, 0), Raised::Lost, "nobody listens");
    set(&mut interrupts, intx, 0, Fire, IrqSource::Eventfd(&[counter.trigger().into()])).unwrap();
    assert_eq!(raise(&mut interrupts, intx, 0), Raised::Signalled);
    assert_eq!(raise(&mut interrupts, intx, 0), Raised::Pending);
    assert_eq!(raise(&mut interrupts, intx, 0), Raised::Pending);
    assert_eq!(counter.take(), 1);
    set(&mut interrupts, intx, 0, Unmask, NOW).unwrap();
    assert_eq!(counter.take(), 1, "the two that waited are one");
    set(&mut interrupts, intx, 0, Unmask, IrqSource::Bool(&[true])).unwrap();
    assert_eq!(counter.take(), 0, "nothing waited");
    set(&mut interrupts, intx, 0, Mask, NOW).unwrap();
    assert_eq!(raise(&mut interrupts, intx, 0), Raised::Pending);
    set(&mut interrupts, intx, 0, Unmask, IrqSource::Bool(&[false])).unwrap();
    assert_eq!(counter.take(), 0, "not unmasked");
    set(&mut interrupts, intx, 0, Fire, IrqSource::Bool(&[true])).unwrap();
    assert_eq!(counter.take(), 1, "a test signal passes the mask");
    interrupts.reset();
    set(&mut interrupts, intx, 0, Unmask, NOW).unwrap();
    assert_eq!(counter.take(), 0, "the reset took back what waited");
    assert_eq!(raise(&mut interrupts, intx, 0), Raised::Signalled, "all stays set up over a reset");
    set(&mut interrupts, intx, 0, Fire, OFF).unwrap();
    assert_eq!(raise(&mut interrupts, intx, 0), Raised::Lost);
}

#[test]
fn what_the_uapi_refuses() {
    use IrqIndex as Index;

    let (one, five) = ([Counter::default().trigger().into()], [const { Eventfd::Remove }; 5]);
    let (none, eventfd) = (IrqSource::Eventfd(&[]), IrqSource::Eventfd(&one));
    let rows = [
        (Index::new(5), 0, Fire, NOW, Errno::EINVAL),
        (Index::new(u32::MAX), 0, Fire, NOW, Errno::EINVAL),
        (Index::INTX, 1, Fire, eventfd, Errno::EINVAL),
        (Index::INTX, 0, Fire, none, Errno::EINVAL),
        (Index::INTX, 0, Fire, OFF, Errno::EINVAL),
        (Index::INTX, 0, Fire, NOW, Errno::EINVAL),
        (Index::INTX, 0, Mask, NOW, Errno::EINVAL),
        (Index::MSI, 0, Fire, IrqSource::Eventfd(&five), Errno::EINVAL),
        (Index::MSI, 4, Fire, OFF, Errno::EINVAL),
        (Index::MSI, 0, Fire, OFF, Errno::EINVAL),
        (Index::MSI, 0, Fire, none, Errno::ERANGE),
        (Index::MSI, 1, Fire, IrqSource::None { count: u32::MAX }, Errno::EINVAL),
        (Index::MSI, 0, Mask, NOW, Errno::ENOTTY),
        (Index::MSIX, 0, Unmask, NOW, Errno::ENOTTY),
        (Index::MSIX, 0, Fire, IrqSource::Bool(&[true]), Errno::EINVAL),
        (Index::ERR, 0, Mask, NOW, Errno::ENOTTY),
        (Index::ERR, 0, Fire, NOW, Errno::EINVAL),
        (Index::REQ, 0, Fire, OFF, Errno::EINVAL),
        (Index::REQ, 0, Unmask, NOW, Errno::ENOTTY),
    ];
    for (index, start, action, source, errno) in rows {
        let refused = set(&mut interrupts(), index, start, action, source);
        assert_eq!(refused, Err(errno), "{index} {start} {action:?} {source:?}");
    }
    let mut set_up = interrupts();
    set(&mut set_up, Index::INTX, 0, Fire, eventfd).unwrap();
    assert_eq!(set(&mut set_up, Index::INTX, 0, Mask, eventfd), Err(Errno::ENOTTY));
    for index in [Index::MSI, Index::MSIX] {
        assert_eq!(set(&mut set_up, index, 0, Fire, eventfd), Err(Errno::EINVAL), "INTx is set up");
    }
    let mut bare = Interrupts::new(Available { intx: 0, msi: 0, msix: 0, error: 0 }, IntxLine::On);
    for index in [Index::INTX, Index::MSI, Index::MSIX, Index::ERR] {
        assert_eq!(set(&mut bare, index, 0, Fire, eventfd), Err(Errno::EINVAL), "{index}");
    }
}

#[test]
fn messages_go_to_the_trigger_of_their_vector() {
    for index in [IrqIndex::MSI, IrqIndex::MSIX] {
        let mut interrupts = interrupts();
        let counters: [Counter; 3] = Default::default();
        let triggers = counters.each_ref().map(|counter| Eventfd::Set(counter.trigger()));
        let taken = || counters.each_ref().map(Counter::take);
        set(&mut interrupts, index, 0, Fire, IrqSource::Eventfd(&triggers)).unwrap();
        assert_eq!(raise(&mut interrupts, index, 1), Raised::Signalled);
        assert_eq!(raise(&mut interrupts, index, 1), Raised::Signalled, "no mask");
        assert_eq!(raise(&mut interrupts, index, 3), Raised::Lost);
        assert_eq!(raise(&mut interrupts, index, u32::MAX), Raised::Lost);
        assert_eq!(taken(), [0, 2, 0]);
        set(&mut interrupts, index, 1, Fire, IrqSource::Eventfd(&[Eventfd::Remove])).unwrap();
        set(&mut interrupts, index, 0, Fire, IrqSource::None { count: 3 }).unwrap();
        assert_eq!(taken(), [1, 0, 1]);
        set(&mut interrupts, index, 0, Fire, IrqSource::Bool(&[false, true, true])).unwrap();
        assert_eq!(taken(), [0, 0, 1]);

        let grows = set(&mut interrupts, index, 3, Fire, IrqSource::Eventfd(&triggers[..1]));
        assert_eq!(grows.is_ok(), !interrupts.available.describe(index).unwrap().noresize, "{index}");
        assert_eq!(raise(&mut interrupts, index, 3) == Raised::Signalled, grows.is_ok());
        taken();
        set(&mut interrupts, index, 0, Fire, OFF).unwrap();
        assert_eq!(raise(&mut interrupts, index, 0), Raised::Lost);
        set(&mut interrupts, index, 2, Fire, IrqSource::Eventfd(&triggers[..2])).unwrap();
        assert_eq!(raise(&mut interrupts, index, 3), Raised::Signalled, "set up again, larger");
    }
}

#[test]
fn errors_and_requests_have_a_trigger_each() {
    let (mut interrupts, counter) = (interrupts(), Counter::default());
    for index in [IrqIndex::ERR, IrqIndex::REQ] {
        assert_eq!(raise(&mut interrupts, index, 0), Raised::Lost);
        set(&mut interrupts, index, 0, Fire, IrqSource::Bool(&[true])).unwrap();
        set(&mut interrupts, index, 0, Fire, IrqSource::Eventfd(&[counter.trigger().into()])).unwrap();
        assert_eq!(raise(&mut interrupts, index, 0), Raised::Signalled);
        assert_eq!(raise(&mut interrupts, index, 1), Raised::Lost);
        set(&mut interrupts, index, 0, Fire, NOW).unwrap();
        assert_eq!(counter.take(), 2);
        set(&mut interrupts, index, 0, Fire, OFF).unwrap();
        assert_eq!(raise(&mut interrupts, index, 0), Raised::Lost);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Raise,
    Mask,
    Unmask,
    Line(bool),
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Raise),
        1 => Just(Step::Mask),
        2 => Just(Step::Unmask),
        1 => any::<bool>().prop_map(Step::Line),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    /// Whatever the order: while masked or off, nothing is signalled; what was raised then is, exactly once, as soon as
    /// it is neither. The command register masks when it holds the line back, and unmasks when it lets it through.
    #[test]
    fn the_line_loses_nothing_and_makes_nothing_up(steps in prop::collection::vec(step(), 0..60)) {
        let (mut interrupts, counter) = (interrupts(), Counter::default());
        set(&mut interrupts, IrqIndex::INTX, 0, Fire, IrqSource::Eventfd(&[counter.trigger().into()])).unwrap();
        let (mut waits, mut masked, mut on) = (false, false, true);
        for step in steps {
            match step {
                Step::Raise => waits = true,
                Step::Mask => masked = true,
                Step::Unmask => masked &= !on,
                // Each change masks or unmasks.
                Step::Line(line) => (on, masked) = (line, if line == on { masked } else { on }),
                Step::Reset => waits = false,
            }
            let due = waits && !masked && on;
            match step {
                Step::Raise => {
                    let raised = raise(&mut interrupts, IrqIndex::INTX, 0);
                    prop_assert_eq!(raised, if due { Raised::Signalled } else { Raised::Pending });
                }
                Step::Mask => set(&mut interrupts, IrqIndex::INTX, 0, Mask, NOW).unwrap(),
                Step::Unmask => set(&mut interrupts, IrqIndex::INTX, 0, Unmask, NOW).unwrap(),
                Step::Line(line) => {
                    let line = if line { IntxLine::On } else { IntxLine::Off };
                    interrupts.set_line(line).signals.iter().for_each(Trigger::signal);
                }
                Step::Reset => interrupts.reset(),
            }
            prop_assert_eq!(counter.take(), u32::from(due));
            if due {
                (waits, masked) = (false, true);
            }
        }
    }
}

/// An event that user space signals, and whether the device listens.
#[derive(Default)]
struct Eventful(iommu_core::device_model::sync::Mutex<Option<Arc<dyn Fn() + Send + Sync>>>);

impl crate::device_ops::Event for Eventful {
    fn signal(&self) {}

    fn listen(&self, heard: Arc<dyn Fn() + Send + Sync>) -> Option<Listening> {
        *self.0.lock() = Some(heard);
        Some(Listening::new(()))
    }
}

#[test]
fn vt23_11_an_event_unmasks_the_line_until_it_is_removed() {
    let intx = IrqIndex::INTX;
    let (mut interrupts, counter) = (interrupts(), Counter::default());
    let event = || [Eventfd::Set(Trigger::of(Arc::new(Eventful::default())))];
    set(&mut interrupts, intx, 0, Fire, IrqSource::Eventfd(&[counter.trigger().into()])).unwrap();
    let bad = [Eventfd::Invalid(Errno::EBADF)];
    assert_eq!(set(&mut interrupts, intx, 0, Unmask, IrqSource::Eventfd(&bad)), Err(Errno::EBADF));
    let due = interrupts.set(intx, 0, Unmask, IrqSource::Eventfd(&event())).unwrap();
    let (_, token) = due.listen.unwrap();
    assert_eq!(set(&mut interrupts, intx, 0, Unmask, IrqSource::Eventfd(&bad)), Err(Errno::EBADF), "before EBUSY");
    assert_eq!(set(&mut interrupts, intx, 0, Unmask, IrqSource::Eventfd(&event())), Err(Errno::EBUSY));
    assert!(interrupts.listens(&token, Listening::new(())).ended.is_none());
    let signals = |due: Due| due.signals.iter().for_each(Trigger::signal);
    raise(&mut interrupts, intx, 0);
    assert_eq!(raise(&mut interrupts, intx, 0), Raised::Pending);
    assert_eq!(counter.take(), 1);
    signals(interrupts.unmask_by(&token));
    assert_eq!(counter.take(), 1, "what was pending");
    let removed = interrupts.set(intx, 0, Unmask, IrqSource::Eventfd(&[Eventfd::Remove])).unwrap();
    assert!(removed.ended.is_some(), "dropped by the caller, without locks");
    assert_eq!(raise(&mut interrupts, intx, 0), Raised::Pending);
    signals(interrupts.unmask_by(&token));
    assert_eq!(counter.take(), 0, "it was removed");
    assert!(interrupts.listens(&token, Listening::new(())).ended.is_some());
}

#[test]
fn vt24_4_a_bad_eventfd_removes_those_up_to_it() {
    for index in [IrqIndex::MSI, IrqIndex::MSIX] {
        let (mut interrupts, counter) = (interrupts(), Counter::default());
        let good = || Eventfd::Set(counter.trigger());
        set(&mut interrupts, index, 0, Fire, IrqSource::Eventfd(&[good(), good(), good(), good()])).unwrap();
        let events = [good(), Eventfd::Invalid(Errno::EBADF)];
        assert_eq!(set(&mut interrupts, index, 1, Fire, IrqSource::Eventfd(&events)), Err(Errno::EBADF));
        let raised = [0, 1, 2, 3].map(|vector| raise(&mut interrupts, index, vector));
        assert_eq!(raised, [Raised::Signalled, Raised::Lost, Raised::Lost, Raised::Signalled], "{index}");
    }
}

#[test]
fn a_line_that_is_high_is_signalled_whenever_it_is_unmasked() {
    let intx = IrqIndex::INTX;
    let (mut interrupts, counter) = (interrupts(), Counter::default());
    let drive = |interrupts: &mut Interrupts, level| interrupts.drive_intx(level).iter().for_each(Trigger::signal);
    let unmask = |interrupts: &mut Interrupts| {
        set(interrupts, intx, 0, Unmask, IrqSource::None { count: 1 }).unwrap();
    };
    drive(&mut interrupts, Level::High);
    assert_eq!(counter.take(), 0, "it is not set up");
    set(&mut interrupts, intx, 0, Fire, IrqSource::Eventfd(&[counter.trigger().into()])).unwrap();
    drive(&mut interrupts, Level::High);
    drive(&mut interrupts, Level::High);
    assert_eq!(counter.take(), 1);
    unmask(&mut interrupts);
    assert_eq!(counter.take(), 1);
    drive(&mut interrupts, Level::Low);
    unmask(&mut interrupts);
    assert_eq!(counter.take(), 0);
    drive(&mut interrupts, Level::High);
    interrupts.reset();
    unmask(&mut interrupts);
    assert_eq!(counter.take(), 1, "before the reset");
}
