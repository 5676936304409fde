//! Probes that wait for something, and the moment at which they are repeated.
//!
//! A device that waits for a known supplier is repeated when that supplier binds; one that does not know what it waits
//! for, whenever anything binds (D54). There is no worker thread: the repeats run on the thread whose probe was the
//! last in flight, with no device lock held.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::binding;
use crate::device::Device;
use crate::device_id::DeviceId;
use crate::driver::Awaits;
use crate::registry::CoreShared;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// One trigger, in the upper half of [`Deferral::clock`].
const TRIGGER: u64 = 1 << 32;
/// The probes in flight, in the lower half.
const IN_FLIGHT: u64 = TRIGGER - 1;

pub(crate) struct Deferral {
    /// Triggers so far and probes in flight, in one word so that a probe writes it twice.
    clock: AtomicU64,
    /// Devices on a list; lets a success without anybody waiting pass without the lock.
    listed: AtomicUsize,
    holds: AtomicUsize,
    /// Leaf lock.
    lists: Mutex<Lists>,
}

#[derive(Default)]
struct Lists {
    place: BTreeMap<DeviceId, Place>,
    for_supplier: BTreeMap<Arc<str>, BTreeMap<DeviceId, Arc<Device>>>,
    for_anything: BTreeMap<DeviceId, Arc<Device>>,
    /// To be repeated now.
    active: BTreeMap<DeviceId, Arc<Device>>,
    worker: Worker,
}

enum Place {
    Waiting(Awaits),
    Active,
}

/// Whether some thread is repeating probes; it goes on until `active` is empty.
#[derive(Default, PartialEq, Eq)]
enum Worker {
    #[default]
    Absent,
    Present,
}

impl Lists {
    fn take(&mut self, id: DeviceId) -> Option<Arc<Device>> {
        match self.place.remove(&id)? {
            Place::Active => self.active.remove(&id),
            Place::Waiting(Awaits::Anything) => self.for_anything.remove(&id),
            Place::Waiting(Awaits::Supplier(name)) => {
                let waiting = self.for_supplier.get_mut(&name)?;
                let dev = waiting.remove(&id);
                if waiting.is_empty() {
                    self.for_supplier.remove(&name);
                }
                dev
            }
        }
    }

    fn wait(&mut self, dev: &Arc<Device>, awaits: Awaits) {
        self.take(dev.id());
        match &awaits {
            Awaits::Anything => &mut self.for_anything,
            Awaits::Supplier(name) => self.for_supplier.entry(name.clone()).or_default(),
        }
        .insert(dev.id(), dev.clone());
        self.place.insert(dev.id(), Place::Waiting(awaits));
    }

    fn activate(&mut self, devices: BTreeMap<DeviceId, Arc<Device>>) {
        for (id, dev) in devices {
            self.place.insert(id, Place::Active);
            self.active.insert(id, dev);
        }
    }
}

impl Deferral {
    pub(crate) fn new() -> Self {
        Self {
            clock: AtomicU64::new(0),
            listed: AtomicUsize::new(0),
            holds: AtomicUsize::new(0),
            lists: Mutex::new(Lists::default()),
        }
    }

    pub(crate) fn is_held(&self) -> bool {
        self.holds.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn waiting(&self) -> Vec<Arc<Device>> {
        let lists = self.lists.lock();
        let suppliers = lists.for_supplier.values().flat_map(BTreeMap::values);
        suppliers.chain(lists.for_anything.values()).chain(lists.active.values()).cloned().collect()
    }

    /// Changes the lists and keeps `listed` in step.
    fn change<R>(&self, change: impl FnOnce(&mut Lists) -> R) -> R {
        let mut lists = self.lists.lock();
        let result = change(&mut lists);
        self.listed.store(lists.place.len(), Ordering::SeqCst);
        result
    }

    /// The device waits no more: it is bound, or being removed.
    pub(crate) fn leave(&self, dev: &Device) {
        if self.listed.load(Ordering::SeqCst) > 0 {
            self.change(|lists| lists.take(dev.id()));
        }
    }

    fn next_active(&self) -> Option<Arc<Device>> {
        self.change(|lists| {
            let id = *lists.active.first_key_value()?.0;
            lists.take(id)
        })
    }
}

/// A probe in flight. Dropping it repeats deferred probes if it is the last, so it must outlive the device lock; yet it
/// begins only once that is held, for whoever waits for the lock may wait for a user, and must not hold up the repeats.
pub(crate) struct InFlight<'a> {
    core: &'a CoreShared,
    seen: u64,
}

impl<'a> InFlight<'a> {
    pub(crate) fn begin(core: &'a CoreShared) -> Self {
        let clock = core.deferral.clock.fetch_add(1, Ordering::SeqCst);
        Self { core, seen: clock & !IN_FLIGHT }
    }

    /// `dev` is bound: it waits no more, and who waited for it is repeated.
    pub(crate) fn bound(&self, dev: &Device) {
        let deferral = &self.core.deferral;
        deferral.clock.fetch_add(TRIGGER, Ordering::SeqCst);
        if deferral.listed.load(Ordering::SeqCst) == 0 {
            return;
        }
        deferral.change(|lists| {
            lists.take(dev.id());
            let suppliers = lists.for_supplier.remove(dev.name()).unwrap_or_default();
            let anything = core::mem::take(&mut lists.for_anything);
            lists.activate(suppliers);
            lists.activate(anything);
        });
    }

    /// `dev` waits. If what it waits for came while the probe ran, it is repeated at once (D56).
    pub(crate) fn defer(&self, dev: &Arc<Device>, awaits: &Awaits) {
        let deferral = &self.core.deferral;
        deferral.change(|lists| lists.wait(dev, awaits.clone()));
        let now = deferral.clock.load(Ordering::SeqCst) & !IN_FLIGHT;
        let missed = now != self.seen
            && match awaits {
                Awaits::Anything => true,
                Awaits::Supplier(name) => self.core.has_driver(name),
            };
        if missed {
            deferral.change(|lists| {
                if let Some(dev) = lists.take(dev.id()) {
                    lists.activate(BTreeMap::from([(dev.id(), dev)]));
                }
            });
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let clock = self.core.deferral.clock.fetch_sub(1, Ordering::SeqCst) - 1;
        if clock & IN_FLIGHT == 0 && self.core.deferral.listed.load(Ordering::SeqCst) > 0 {
            repeat(self.core);
        }
    }
}

/// Repeats active probes until none is left. One thread does it; others leave their devices to it.
fn repeat(core: &CoreShared) {
    let became_worker = core.deferral.change(|lists| {
        let free = lists.worker == Worker::Absent && !lists.active.is_empty();
        if free {
            lists.worker = Worker::Present;
        }
        free
    });
    if !became_worker {
        return;
    }
    loop {
        while let Some(dev) = core.deferral.next_active() {
            if let Some(bus) = dev.bus() {
                binding::probe_initially(&bus, &dev);
            }
        }
        let finished = core.deferral.change(|lists| {
            if lists.active.is_empty() {
                lists.worker = Worker::Absent;
            }
            lists.worker == Worker::Absent
        });
        if finished {
            return;
        }
    }
}

/// Lets every probe of a core defer. Dropping the last one repeats those that did.
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
            deferral.clock.fetch_add(TRIGGER, Ordering::SeqCst);
            deferral.change(|lists| {
                let anything = core::mem::take(&mut lists.for_anything);
                lists.activate(anything);
            });
            if deferral.clock.load(Ordering::SeqCst) & IN_FLIGHT == 0 {
                repeat(&self.0);
            }
        }
    }
}

impl fmt::Debug for ProbeHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProbeHold")
    }
}
