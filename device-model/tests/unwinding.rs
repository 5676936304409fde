//! Callbacks that unwind: each of them once, at each place; the device is as good as before.
#![cfg(all(not(shuttle), feature = "std"))]
#![expect(clippy::expect_used, reason = "a broken expectation is how a test fails")]

#[cfg(not(feature = "std"))]
dma_locks::provide!(dma_locks::Spinning);

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use device_model::sync::{Arc, Mutex};
use device_model::{
    AnyDriver, Awaits, Bound, Bus, BusEvent, BusHandle, DeviceSpec, DmaConfigure, DmaDevice, DriverCore, Match,
    ProbeError, Removal, Subscription,
};

type Device = device_model::Device<Stage>;

/// Where something is to unwind; once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Matches,
    DmaConfigure,
    UseDefaultDomain,
    Probe,
    /// In a driver that has managed something before.
    ProbeLate,
    Remove,
    RightDropped,
    ResourceDropped,
    Added,
    Deleting,
    Removed,
    Binding,
    Bound,
    /// While a probe fails.
    NotBound,
    Unbinding,
    Unbound,
    DeviceAdded,
    DeviceRemoved,
}

const PLACES: [Place; 18] = [
    Place::Matches,
    Place::DmaConfigure,
    Place::UseDefaultDomain,
    Place::Probe,
    Place::ProbeLate,
    Place::Remove,
    Place::RightDropped,
    Place::ResourceDropped,
    Place::Added,
    Place::Deleting,
    Place::Removed,
    Place::Binding,
    Place::Bound,
    Place::NotBound,
    Place::Unbinding,
    Place::Unbound,
    Place::DeviceAdded,
    Place::DeviceRemoved,
];

/// What the callbacks share.
#[derive(Default)]
struct Script {
    armed: Mutex<Option<Place>>,
    rights: AtomicUsize,
    resources: AtomicUsize,
    fails: AtomicBool,
    defers: AtomicBool,
    probes: AtomicUsize,
}

impl Script {
    fn here(&self, place: Place) {
        let due = {
            let mut armed = self.armed.lock();
            let due = *armed == Some(place);
            if due {
                *armed = None;
            }
            due
        };
        assert!(!due, "a bug at {place:?}");
    }
}

struct Stage {
    script: Arc<Script>,
    guard: Guard,
}

impl Bus for Stage {
    type Device = ();
    type Id = ();
    type Driver = dyn AnyDriver<Self>;
    type Dma = Guard;

    fn name(&self) -> &'static str {
        "stage"
    }

    fn dma(&self) -> &Guard {
        &self.guard
    }

    fn matches(&self, _dev: &Device, _driver: &dyn AnyDriver<Self>) -> Match {
        self.script.here(Place::Matches);
        Match::Yes
    }
}

struct Guard(Arc<Script>);

struct Right(Arc<Script>);

impl Drop for Right {
    fn drop(&mut self) {
        self.0.rights.fetch_sub(1, Ordering::SeqCst);
        self.0.here(Place::RightDropped);
    }
}

struct Resource(Arc<Script>);

impl Drop for Resource {
    fn drop(&mut self) {
        self.0.resources.fetch_sub(1, Ordering::SeqCst);
        self.0.here(Place::ResourceDropped);
    }
}

impl DmaConfigure<()> for Guard {
    type Slot = ();
    type Use = Right;
    type Error = ProbeError;

    fn device_added(&self, _dev: DmaDevice<'_, (), ()>) {
        self.0.here(Place::DeviceAdded);
    }

    fn device_removed(&self, _dev: DmaDevice<'_, (), ()>) {
        self.0.here(Place::DeviceRemoved);
    }

    fn dma_configure(&self, _dev: DmaDevice<'_, (), ()>) -> Result<(), ProbeError> {
        self.0.here(Place::DmaConfigure);
        Ok(())
    }

    fn use_default_domain(&self, _dev: DmaDevice<'_, (), ()>, _driver: &Arc<str>) -> Result<Right, ProbeError> {
        self.0.here(Place::UseDefaultDomain);
        self.0.rights.fetch_add(1, Ordering::SeqCst);
        Ok(Right(self.0.clone()))
    }
}

struct Actor {
    name: Arc<str>,
    script: Arc<Script>,
}

impl AnyDriver<Stage> for Actor {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn ids(&self) -> &[()] {
        &[]
    }

    fn driver_managed_dma(&self) -> bool {
        false
    }

    fn probe(&self, dev: &mut Bound<'_, Stage>) -> Result<(), ProbeError> {
        self.script.probes.fetch_add(1, Ordering::SeqCst);
        self.script.here(Place::Probe);
        for _ in 0..3 {
            self.script.resources.fetch_add(1, Ordering::SeqCst);
            dev.manage(Resource(self.script.clone()));
        }
        self.script.here(Place::ProbeLate);
        if self.script.fails.load(Ordering::SeqCst) {
            return Err(ProbeError::errno_only(device_model::Errno::EIO));
        }
        if self.script.defers.load(Ordering::SeqCst) && dev.device().name().starts_with("waits") {
            return Err(ProbeError::Deferred(Awaits::Anything));
        }
        Ok(())
    }

    fn remove(&self, _dev: &mut Bound<'_, Stage>, _attempt: u32) -> Removal {
        self.script.here(Place::Remove);
        Removal::Done
    }
}

struct Rig {
    core: DriverCore,
    bus: BusHandle<Stage>,
    script: Arc<Script>,
    _subscription: Subscription<Stage>,
}

impl Rig {
    fn new() -> Self {
        let (core, script) = (DriverCore::new(), Arc::new(Script::default()));
        let bus = core.add_bus(Stage { script: script.clone(), guard: Guard(script.clone()) });
        let heard = script.clone();
        let subscription = bus.subscribe(move |event: &BusEvent<'_, Stage>| {
            heard.here(match event {
                BusEvent::Added(_) => Place::Added,
                BusEvent::Deleting(_) => Place::Deleting,
                BusEvent::Removed(_) => Place::Removed,
                BusEvent::Binding(_) => Place::Binding,
                BusEvent::Bound(_) => Place::Bound,
                BusEvent::NotBound(_) => Place::NotBound,
                BusEvent::Unbinding(_) => Place::Unbinding,
                BusEvent::Unbound(_) => Place::Unbound,
            });
        });
        bus.add_driver(Arc::new(Actor { name: "K".into(), script: script.clone() })).expect("the name is free");
        Self { core, bus, script, _subscription: subscription }
    }

    fn arm(&self, place: Place) {
        *self.script.armed.lock() = Some(place);
    }

    fn armed(&self) -> bool {
        self.script.armed.lock().is_some()
    }

    fn device(&self, name: &str) -> Arc<Device> {
        self.bus.add_device(DeviceSpec::new(name, ())).expect("the name is free")
    }

    /// Rights and resources are there exactly while a driver is bound, and the hint says the same.
    fn check(&self, dev: &Arc<Device>, when: impl std::fmt::Debug) {
        let guard = dev.lock();
        let bound = usize::from(guard.is_bound());
        assert_eq!(guard.driver().is_some(), guard.is_bound(), "{when:?}: the driver pointer");
        assert_eq!(dev.driver_hint().is_some(), guard.is_bound(), "{when:?}: the hint");
        assert_eq!(self.script.rights.load(Ordering::SeqCst), bound, "{when:?}: the right to DMA");
        assert_eq!(self.script.resources.load(Ordering::SeqCst), 3 * bound, "{when:?}: the resources");
    }
}

fn unwinds<T>(work: impl FnOnce() -> T) -> bool {
    catch_unwind(AssertUnwindSafe(|| drop(work()))).is_err()
}

#[test]
fn whatever_unwinds_the_device_can_be_used_again() {
    for place in PLACES {
        let rig = Rig::new();
        rig.script.fails.store(place == Place::NotBound, Ordering::SeqCst);
        rig.arm(place);
        // A life: it comes and binds, is unbound, bound again, and removed; each step is repeated if it unwound.
        let added = catch_unwind(AssertUnwindSafe(|| rig.device("A")));
        let dev = match (added, rig.bus.device("A")) {
            (Ok(dev), _) | (Err(_), Some(dev)) => dev,
            // Whoever heard of it unwound: it was not added, and its name is free.
            (Err(_), None) => rig.device("A"),
        };
        rig.check(&dev, (place, "added"));
        rig.script.fails.store(false, Ordering::SeqCst);
        let driver = rig.bus.driver("K").expect("it is registered");
        if !dev.lock().is_bound() {
            rig.bus.bind(&driver, &dev).expect("it is as good as new");
        }
        for round in 0..2 {
            if unwinds(|| rig.bus.unbind(&driver, &dev).expect("it is bound").wait()) {
                rig.check(&dev, (place, "unbound"));
                if dev.lock().is_bound() {
                    rig.bus.unbind(&driver, &dev).expect("it is bound").wait();
                }
            }
            rig.check(&dev, (place, round, "unbound"));
            assert!(!dev.lock().is_bound(), "{place:?}");
            rig.bus.bind(&driver, &dev).expect("it is as good as new");
        }
        if unwinds(|| dev.remove().wait()) {
            dev.remove().wait();
        }
        rig.check(&dev, (place, "removed"));
        assert!(!dev.lock().is_bound() && rig.bus.devices().is_empty(), "{place:?}");
        assert!(!rig.armed(), "{place:?} was not reached");
        rig.device("A");
    }
}

#[test]
fn closing_a_bus_ends_every_right_whatever_unwinds() {
    for place in PLACES {
        let Rig { core, bus, script, _subscription: subscription } = Rig::new();
        let devices = ["A", "B"].map(|name| bus.add_device(DeviceSpec::new(name, ())).expect("the name is free"));
        *script.armed.lock() = Some(place);
        let _ = unwinds(|| drop(bus));
        drop(subscription);
        assert_eq!(script.rights.load(Ordering::SeqCst), 0, "{place:?}");
        assert_eq!(script.resources.load(Ordering::SeqCst), 0, "{place:?}");
        for dev in &devices {
            assert!(dev.lock().driver().is_none(), "{place:?}");
        }
        assert_eq!(format!("{core:?}"), "[]");
        drop(core);
    }
}

#[test]
fn a_repeated_probe_that_unwinds_stops_no_later_repeats() {
    let rig = Rig::new();
    rig.script.defers.store(true, Ordering::SeqCst);
    let waiting: Vec<_> = ["waits 1", "waits 2", "waits 3"].map(|name| rig.device(name)).into();
    assert_eq!(rig.core.deferred().len(), 3);
    rig.script.defers.store(false, Ordering::SeqCst);
    rig.bus.set_drivers_autoprobe(false);
    let [one, two] = ["one", "two"].map(|name| rig.device(name));
    rig.bus.set_drivers_autoprobe(true);
    let driver = rig.bus.driver("K").expect("it is registered");
    rig.bus.bind(&driver, &one).expect("it is free");
    assert!(waiting.iter().all(|dev| dev.lock().is_bound()));

    // Now with a bug in the first that is repeated.
    rig.script.defers.store(true, Ordering::SeqCst);
    for dev in &waiting {
        rig.bus.unbind(&driver, dev).expect("it is bound").wait();
        rig.bus.drivers_probe(dev).expect("it waits");
    }
    rig.bus.unbind(&driver, &one).expect("it is bound").wait();
    rig.script.defers.store(false, Ordering::SeqCst);
    let subscription = {
        let script = rig.script.clone();
        rig.bus.subscribe(move |event: &BusEvent<'_, Stage>| {
            if let BusEvent::Bound(dev) = event
                && &**dev.device().name() == "one"
            {
                *script.armed.lock() = Some(Place::Probe);
            }
        })
    };
    assert!(unwinds(|| rig.bus.bind(&driver, &one)));
    assert!(one.lock().is_bound(), "its own bind was complete");
    drop(subscription);
    rig.bus.bind(&driver, &two).expect("it is free");
    let bound = waiting.iter().filter(|dev| dev.lock().is_bound()).count();
    assert_eq!(bound, 2, "all but the one with the bug, which waits no more");
    assert!(rig.core.deferred().is_empty());
}
