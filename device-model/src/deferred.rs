//! Probes that wait for something, and the moment at which they are repeated.
//!
//! A device that waits for a known supplier is due when that supplier binds; one that does not know what it waits for,
//! whenever anything binds. A trigger moves devices to the list of those that are due, and no more: who works that
//! list off says [`Repeats`].
//!
//! A bind that concerns nobody reads two words that no bind writes: how many devices are listed, and how many searches
//! for a driver are under way, which may end in a deferral. Only if there are any does it count as a trigger, so that a
//! search that defers learns from the count of triggers whether something bound meanwhile.
// D54, D56.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

use crate::any_device::AnyDevice;
use crate::any_device::internal::Internal;
use crate::device_id::DeviceId;
use crate::driver::Awaits;
use crate::driver_core::{CoreShared, Repeats};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering, fence};

pub(crate) struct Deferral {
    repeats: Repeats,
    /// Devices that wait, are due, or are being repeated.
    listed: AtomicUsize,
    /// Devices that are due.
    due: AtomicUsize,
    /// Searches for a driver under way.
    searches: AtomicUsize,
    /// Changes whenever something binds while devices are listed or searches are under way.
    triggers: AtomicUsize,
    holds: AtomicUsize,
    /// Leaf lock.
    lists: Mutex<Lists>,
}

#[derive(Default)]
struct Lists {
    devices: BTreeMap<DeviceId, Listed>,
    for_supplier: BTreeSet<(Arc<str>, DeviceId)>,
    for_anything: BTreeSet<DeviceId>,
    /// In the order in which they became due.
    due: BTreeMap<usize, DeviceId>,
    next_due: usize,
    triggers: usize,
}

struct Listed {
    /// Weak: to wait keeps nobody alive.
    device: Weak<dyn AnyDevice>,
    stage: Stage,
}

#[derive(Clone)]
enum Stage {
    Waiting(Awaits),
    Due(usize),
    Repeating,
}

impl Lists {
    /// Takes a device out of whatever it waits for; it stays listed.
    fn leave_stage(&mut self, id: DeviceId) {
        match self.devices.get(&id).map(|listed| listed.stage.clone()) {
            None | Some(Stage::Repeating) => {}
            Some(Stage::Waiting(Awaits::Anything)) => drop(self.for_anything.remove(&id)),
            Some(Stage::Waiting(Awaits::Supplier(name))) => drop(self.for_supplier.remove(&(name, id))),
            Some(Stage::Due(at)) => drop(self.due.remove(&at)),
        }
    }

    fn take(&mut self, id: DeviceId) {
        self.leave_stage(id);
        self.devices.remove(&id);
    }

    fn set(&mut self, id: DeviceId, stage: Stage) {
        self.leave_stage(id);
        if let Some(listed) = self.devices.get_mut(&id) {
            listed.stage = stage;
        }
    }

    fn wait(&mut self, dev: &Arc<dyn AnyDevice>, awaits: Awaits) {
        let id = dev.id();
        self.take(id);
        match &awaits {
            Awaits::Anything => self.for_anything.insert(id),
            Awaits::Supplier(name) => self.for_supplier.insert((name.clone(), id)),
        };
        self.devices.insert(id, Listed { device: Arc::downgrade(dev), stage: Stage::Waiting(awaits) });
    }

    fn make_due(&mut self, id: DeviceId) {
        if !matches!(self.devices.get(&id), Some(Listed { stage: Stage::Waiting(_), .. })) {
            return;
        }
        self.next_due = self.next_due.wrapping_add(1);
        let at = self.next_due;
        self.set(id, Stage::Due(at));
        self.due.insert(at, id);
    }

    fn trigger(&mut self, bound: Option<&Arc<str>>) {
        self.triggers = self.triggers.wrapping_add(1);
        if let Some(name) = bound {
            let all = (name.clone(), DeviceId::FIRST)..=(name.clone(), DeviceId::LAST);
            while let Some(id) = self.for_supplier.range(all.clone()).next().map(|(_, id)| *id) {
                self.make_due(id);
            }
        }
        while let Some(id) = self.for_anything.first().copied() {
            self.make_due(id);
        }
    }
}

/// A search for a driver under way, which may end in a deferral.
pub(crate) struct Search<'a> {
    deferral: &'a Deferral,
    /// The count of triggers when it began.
    triggers: usize,
}

impl Drop for Search<'_> {
    fn drop(&mut self) {
        self.deferral.searches.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Search<'_> {
    /// `dev` waits. If what it waits for may have come since the search began, it is due at once.
    // D56.
    pub(crate) fn defer(&self, core: &CoreShared, dev: &Arc<dyn AnyDevice>, awaits: &Awaits) {
        self.deferral.change(|lists| lists.wait(dev, awaits.clone()));
        fence(Ordering::SeqCst);
        let missed = self.deferral.triggers.load(Ordering::SeqCst) != self.triggers
            && match awaits {
                Awaits::Anything => true,
                Awaits::Supplier(name) => core.has_driver(name),
            };
        if missed {
            self.deferral.make_due(dev.id());
        }
    }
}

impl Deferral {
    pub(crate) fn new(repeats: Repeats) -> Self {
        Self {
            repeats,
            listed: AtomicUsize::new(0),
            due: AtomicUsize::new(0),
            searches: AtomicUsize::new(0),
            triggers: AtomicUsize::new(0),
            holds: AtomicUsize::new(0),
            lists: Mutex::new(Lists::default()),
        }
    }

    pub(crate) fn is_held(&self) -> bool {
        self.holds.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn due(&self) -> usize {
        self.due.load(Ordering::SeqCst)
    }

    pub(crate) fn waiting(&self) -> Vec<Arc<dyn AnyDevice>> {
        self.lists.lock().devices.values().filter_map(|listed| listed.device.upgrade()).collect()
    }

    /// Changes the lists and keeps the counts in step.
    fn change<R>(&self, change: impl FnOnce(&mut Lists) -> R) -> R {
        let mut lists = self.lists.lock();
        let result = change(&mut lists);
        self.triggers.store(lists.triggers, Ordering::SeqCst);
        self.listed.store(lists.devices.len(), Ordering::SeqCst);
        self.due.store(lists.due.len(), Ordering::SeqCst);
        result
    }

    /// A search for a driver begins.
    pub(crate) fn search(&self) -> Search<'_> {
        self.searches.fetch_add(1, Ordering::SeqCst);
        let triggers = self.triggers.load(Ordering::SeqCst);
        // Against the fence of whoever binds: either the search sees what was bound, or the bind sees the search.
        fence(Ordering::SeqCst);
        Search { deferral: self, triggers }
    }

    /// `dev` is bound, for all to see: it waits no more, and who waited for it is due.
    pub(crate) fn bound(&self, id: DeviceId, name: &Arc<str>) {
        fence(Ordering::SeqCst);
        // In this order: a search that ends in a deferral lists its device before it is over.
        if self.searches.load(Ordering::SeqCst) > 0 || self.listed.load(Ordering::SeqCst) > 0 {
            self.change(|lists| {
                lists.take(id);
                lists.trigger(Some(name));
            });
        }
    }

    /// `dev` waits for the end of all holds.
    pub(crate) fn defer_held(&self, dev: &Arc<dyn AnyDevice>) {
        self.change(|lists| lists.wait(dev, Awaits::Anything));
        if !self.is_held() {
            self.make_due(dev.id());
        }
    }

    /// A device that waits is due.
    pub(crate) fn make_due(&self, id: DeviceId) {
        self.change(|lists| lists.make_due(id));
    }

    /// A device that was to be repeated waits again, for its lock is held.
    pub(crate) fn postpone(&self, id: DeviceId) {
        self.change(|lists| {
            if let Some(Listed { stage: Stage::Repeating, .. }) = lists.devices.get(&id) {
                lists.set(id, Stage::Waiting(Awaits::Anything));
                lists.for_anything.insert(id);
            }
        });
    }

    /// A device that was postponed is repeated after all.
    pub(crate) fn resume(&self, id: DeviceId) {
        self.change(|lists| lists.set(id, Stage::Repeating));
    }

    /// The device waits no more: it is being removed, or nobody holds it.
    pub(crate) fn leave(&self, id: DeviceId) {
        if self.listed.load(Ordering::SeqCst) > 0 {
            self.change(|lists| lists.take(id));
        }
    }

    /// Sees to it that what is due is repeated. Called when a call has done its work on `dev` and holds no lock of it.
    pub(crate) fn settle(&self, dev: &dyn AnyDevice) {
        if self.due.load(Ordering::SeqCst) == 0 {
            return;
        }
        // Below a device whose lock is held, perhaps by the caller, no other device's lock may be taken.
        let left =
            matches!(self.repeats, Repeats::Inline) && dev.parent().is_some_and(Internal::leaves_repeats_to_holder);
        if !left {
            self.settle_unlocked();
        }
    }

    /// As [`settle`](Self::settle), with no device lock held.
    fn settle_unlocked(&self) {
        match &self.repeats {
            Repeats::Inline => self.repeat(),
            Repeats::Queued(tell) if self.due() > 0 => tell(),
            Repeats::Queued(_) | Repeats::Manual => {}
        }
    }

    /// Repeats each device that waits once, and once more after each one that binds: what binds waits no more, so this
    /// ends, whatever others do meanwhile.
    pub(crate) fn repeat(&self) {
        let mut listed = self.listed.load(Ordering::SeqCst);
        let mut left = listed;
        while left > 0
            && let Some(dev) = self.next_due()
        {
            let repeated = Repeated { deferral: self, id: dev.id() };
            dev.repeat();
            drop(repeated);
            left -= 1;
            let now = self.listed.load(Ordering::SeqCst);
            if now < listed {
                (listed, left) = (now, now);
            }
        }
    }

    fn next_due(&self) -> Option<Arc<dyn AnyDevice>> {
        if self.due() == 0 {
            return None;
        }
        self.change(|lists| {
            loop {
                let id = *lists.due.first_key_value()?.1;
                match lists.devices.get(&id).and_then(|listed| listed.device.upgrade()) {
                    Some(dev) => {
                        lists.set(id, Stage::Repeating);
                        return Some(dev);
                    }
                    None => lists.take(id),
                }
            }
        })
    }
}

/// A device whose deferred probe is being repeated. What did not defer again waits no more, also if the probe unwinds.
struct Repeated<'a> {
    deferral: &'a Deferral,
    id: DeviceId,
}

impl Drop for Repeated<'_> {
    fn drop(&mut self) {
        self.deferral.change(|lists| {
            if matches!(lists.devices.get(&self.id), Some(Listed { stage: Stage::Repeating, .. })) {
                lists.take(self.id);
            }
        });
    }
}

/// Lets every probe of a core defer. Dropping the last one makes those that did due.
#[must_use = "dropping it lets probes pass again"]
pub struct ProbeHold(Arc<CoreShared>);

impl ProbeHold {
    pub(crate) fn new(core: Arc<CoreShared>) -> Self {
        core.deferral.holds.fetch_add(1, Ordering::SeqCst);
        Self(core)
    }
}

impl Drop for ProbeHold {
    fn drop(&mut self) {
        let deferral = &self.0.deferral;
        if deferral.holds.fetch_sub(1, Ordering::SeqCst) == 1 {
            deferral.change(|lists| lists.trigger(None));
            deferral.settle_unlocked();
        }
    }
}

impl fmt::Debug for ProbeHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProbeHold")
    }
}

#[cfg(all(test, shuttle))]
mod tests;
