//! Interleavings under the model checker: `RUSTFLAGS="--cfg shuttle" cargo test -p device-model --test model`.
//!
//! Each scene runs under [`explore`], with its budget. A wake-up that is lost shows as a deadlock or as a device without
//! driver. Shuttle repeats a failure from the schedule that it prints.
#![cfg(shuttle)]
#![expect(clippy::expect_used, reason = "a broken expectation is how a test fails")]

use std::any::Any;

use device_model::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use device_model::sync::{Arc, Users, thread};
use device_model::{
    Awaits, Bus, BusEvent, BusHandle, Device, DeviceGuard, DeviceSpec, DmaUse, Driver, DriverCore, Errno, Match,
    ProbeError, ProbeFailure, Removal,
};

/// Schedules of a scene tried by each of the two schedulers.
const BUDGET: usize = 2_000;
/// Places in a scene at which the second scheduler changes which thread goes first.
const CHANGES: usize = 3;

/// Tries schedules at random, and such with few but well-placed changes between threads. (A search in depth would spend
/// any affordable budget on the last few steps of one schedule.)
fn explore(scene: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(scene.clone(), BUDGET);
    shuttle::check_pct(scene, BUDGET, CHANGES);
}

/// Counts the rights to DMA of one device: never two.
#[derive(Default)]
struct Account {
    rights: AtomicUsize,
    probes: AtomicUsize,
    removes: AtomicUsize,
}

struct Right(Arc<Account>);

impl Drop for Right {
    fn drop(&mut self) {
        self.0.rights.fetch_sub(1, Ordering::SeqCst);
    }
}

fn account(dev: &Device) -> &Arc<Account> {
    dev.details::<Arc<Account>>().expect("every device has one")
}

struct Plain;

impl Bus for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn matches(&self, dev: &Device, driver: &dyn Driver) -> Match {
        let fits = (driver as &dyn Any).downcast_ref::<Taker>().is_some_and(|taker| (taker.fits)(dev.name()));
        if fits { Match::Yes } else { Match::No }
    }

    fn dma_configure(&self, dev: &DeviceGuard<'_>) -> Result<DmaUse, ProbeError> {
        let account = account(dev.device()).clone();
        assert_eq!(account.rights.fetch_add(1, Ordering::SeqCst), 0, "one driver at a time does DMA");
        Ok(DmaUse::holding(Right(account)))
    }
}

type Probe = dyn Fn(&mut DeviceGuard<'_>) -> Result<(), ProbeError> + Send + Sync;

/// Takes devices as the scene says; those with `Users` are held until they leave.
struct Taker {
    name: Arc<str>,
    fits: Box<dyn Fn(&str) -> bool + Send + Sync>,
    probe: Box<Probe>,
}

impl Driver for Taker {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn probe(&self, dev: &mut DeviceGuard<'_>) -> Result<(), ProbeError> {
        let account = account(dev.device());
        assert_eq!(account.rights.load(Ordering::SeqCst), 1, "DMA is allowed while the driver is probed");
        (self.probe)(dev)?;
        account.probes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn remove(&self, dev: &mut DeviceGuard<'_>, _attempt: u32) -> Removal {
        let account = account(dev.device());
        assert_eq!(account.rights.load(Ordering::SeqCst), 1, "DMA is allowed until remove is done");
        if let Some(users) = dev.resource::<Arc<Users>>() {
            users.close();
            if users.inside() > 0 {
                return Removal::Waiting(users.clone());
            }
        }
        let removes = account.removes.fetch_add(1, Ordering::SeqCst) + 1;
        assert_eq!(removes, account.probes.load(Ordering::SeqCst), "probe and remove take turns");
        Removal::Done
    }
}

fn bus() -> BusHandle {
    DriverCore::new().add_bus(Plain)
}

fn driver(bus: &BusHandle, name: &str) {
    driver_for(bus, name, |_| true, |_| Ok(()));
}

fn driver_for(
    bus: &BusHandle,
    name: &str,
    fits: impl Fn(&str) -> bool + Send + Sync + 'static,
    probe: impl Fn(&mut DeviceGuard<'_>) -> Result<(), ProbeError> + Send + Sync + 'static,
) {
    let taker = Taker { name: name.into(), fits: Box::new(fits), probe: Box::new(probe) };
    bus.add_driver(Arc::new(taker)).expect("the name is free");
}

fn device(bus: &BusHandle, name: &str) -> Arc<Device> {
    bus.add_device(DeviceSpec::new(name).with(Arc::new(Account::default()))).expect("the name is free")
}

/// A bus on which only hands bind, with drivers K and V and a device A.
fn by_hand() -> (BusHandle, Arc<Device>) {
    let bus = bus();
    bus.set_autoprobe(device_model::Autoprobe::Off);
    driver(&bus, "K");
    driver(&bus, "V");
    let a = device(&bus, "A");
    (bus, a)
}

/// Whether the device is bound agrees with the right to DMA and with the hint.
fn settled(dev: &Arc<Device>) -> bool {
    let guard = dev.lock();
    let bound = guard.is_bound();
    assert_eq!(account(dev).rights.load(Ordering::SeqCst), usize::from(bound));
    assert_eq!(dev.driver_hint().as_deref(), guard.driver().map(|driver| &**driver.name()));
    bound
}

fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::spawn(work)
}

fn join<T>(handle: thread::JoinHandle<T>) -> T {
    handle.join().expect("the thread does not panic")
}

#[test]
fn of_two_binds_one_wins() {
    // Dt9.4.
    explore(|| {
        let (bus, a) = by_hand();
        let other = bus.clone();
        let binder = spawn(move || other.bind("K", "A"));
        let here = bus.bind("V", "A");
        let there = join(binder);
        assert!(here.is_ok() != there.is_ok());
        let error = here.and(there).expect_err("one has lost");
        assert_eq!(error.errno(), Errno::EBUSY);
        assert!(matches!(error, device_model::BindError::Refused { cause: ProbeFailure::HasDriver { .. }, .. }));
        assert!(settled(&a));
    });
}

#[test]
fn a_bind_against_an_unbind() {
    explore(|| {
        let (bus, a) = by_hand();
        bus.bind("K", "A").expect("it is free");
        let other = bus.clone();
        let binder = spawn(move || other.bind("V", "A").is_ok());
        bus.unbind("K", "A").expect("K is bound").wait();
        assert_eq!(join(binder), settled(&a), "the bind came before the unbind and failed, or after it");
    });
}

#[test]
fn a_bind_against_a_removal() {
    // D12: whatever comes first, the device ends without driver.
    explore(|| {
        let (bus, a) = by_hand();
        let other = bus.clone();
        let binder = spawn(move || other.bind("K", "A"));
        bus.remove_device(&a).wait();
        if let Err(error) = join(binder) {
            assert_eq!(error.errno(), Errno::ENODEV);
        }
        assert!(!settled(&a));
        assert_eq!(account(&a).probes.load(Ordering::SeqCst), account(&a).removes.load(Ordering::SeqCst));
        assert!(bus.devices().is_empty());
    });
}

/// Asserts the order of coming and going.
fn watch(bus: &BusHandle) -> Arc<AtomicUsize> {
    let stage = Arc::new(AtomicUsize::new(0));
    let seen = stage.clone();
    bus.subscribe(move |event: &BusEvent<'_>| {
        let (dev, from) = match event {
            BusEvent::Added(dev) => (dev, 0),
            BusEvent::Deleting(dev) => (dev, 1),
            BusEvent::Removed(dev) => (dev, 2),
            _ => return,
        };
        if &**dev.name() == "A" {
            assert_eq!(seen.fetch_add(1, Ordering::SeqCst), from, "{event:?}");
        }
    });
    stage
}

#[test]
fn two_removals_of_one_device_tell_once_and_in_order() {
    explore(|| {
        let bus = bus();
        driver(&bus, "K");
        let stage = watch(&bus);
        let a = device(&bus, "A");
        let (other, dev) = (bus.clone(), a.clone());
        let remover = spawn(move || other.remove_device(&dev).wait());
        bus.remove_device(&a).wait();
        assert_eq!(stage.load(Ordering::SeqCst), 3, "gone when a removal returns");
        join(remover);
        assert!(!settled(&a));
    });
}

#[test]
fn a_device_that_comes_while_its_parent_goes() {
    explore(|| {
        let bus = bus();
        let stage = watch(&bus);
        let parent = device(&bus, "P");
        let (other, below) = (bus.clone(), parent.clone());
        let spec = DeviceSpec::new("A").with(Arc::new(Account::default())).below(&below);
        let adder = spawn(move || other.add_device(spec));
        bus.remove_device(&parent).wait();
        let came = join(adder).is_ok();
        assert_eq!(stage.load(Ordering::SeqCst), if came { 3 } else { 0 });
        assert!(bus.devices().is_empty());
    });
}

#[test]
fn a_waiting_unbind_against_the_user_who_leaves() {
    explore(|| {
        let bus = bus();
        let users = Arc::new(Users::new());
        let given = users.clone();
        driver_for(
            &bus,
            "V",
            |_| true,
            move |dev| {
                dev.manage(given.clone());
                Ok(())
            },
        );
        let a = device(&bus, "A");
        let user = users.enter().expect("the door is open");
        let leaver = spawn(move || drop(user));
        let dev = a.clone();
        let locker = spawn(move || drop(dev.lock()));
        bus.unbind("V", "A").expect("V is bound").wait();
        assert!(!settled(&a));
        join(leaver);
        join(locker);
        assert_eq!(account(&a).removes.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_waiting_unbind_against_a_removal_and_the_user_who_leaves() {
    explore(|| {
        let bus = bus();
        let users = Arc::new(Users::new());
        let given = users.clone();
        driver_for(
            &bus,
            "V",
            |_| true,
            move |dev| {
                dev.manage(given.clone());
                Ok(())
            },
        );
        let a = device(&bus, "A");
        let user = users.enter().expect("the door is open");
        let unbind = bus.unbind("V", "A").expect("V is bound");
        let leaver = spawn(move || drop(user));
        let unbinder = spawn(move || unbind.wait());
        bus.remove_device(&a).wait();
        join(unbinder);
        join(leaver);
        assert!(!settled(&a));
        assert_eq!(account(&a).removes.load(Ordering::SeqCst), 1);
    });
}

/// The consumer looks for its supplier and defers; meanwhile the supplier binds.
fn deferral(awaits: fn() -> Awaits) {
    let bus = bus();
    let up = Arc::new(AtomicBool::new(false));
    let looked = up.clone();
    driver_for(
        &bus,
        "consumer",
        |name| name == "c",
        move |_| {
            if looked.load(Ordering::SeqCst) { Ok(()) } else { Err(ProbeError::Deferred(awaits())) }
        },
    );
    driver_for(
        &bus,
        "provider",
        |name| name == "s",
        move |_| {
            up.store(true, Ordering::SeqCst);
            Ok(())
        },
    );
    let other = bus.clone();
    let supplier = spawn(move || device(&other, "s"));
    let consumer = device(&bus, "c");
    assert!(settled(&join(supplier)));
    assert!(settled(&consumer), "D56: the wake-up was lost");
}

#[test]
fn a_deferral_for_anything_loses_no_wake_up() {
    explore(|| deferral(|| Awaits::Anything));
}

#[test]
fn a_deferral_for_a_supplier_loses_no_wake_up() {
    explore(|| deferral(|| Awaits::Supplier("s".into())));
}

#[test]
fn a_probe_that_meets_the_end_of_a_hold_is_repeated() {
    explore(|| {
        let core = DriverCore::new();
        let bus = core.add_bus(Plain);
        driver(&bus, "K");
        let hold = core.hold_probes();
        let other = bus.clone();
        let adder = spawn(move || device(&other, "A"));
        drop(hold);
        assert!(settled(&join(adder)));
        assert!(core.deferred().is_empty());
    });
}

#[test]
fn an_unregistration_against_a_bind() {
    // D46: no binding outlives it.
    explore(|| {
        let (bus, a) = by_hand();
        let other = bus.clone();
        let binder = spawn(move || other.bind("K", "A"));
        bus.remove_driver("K").expect("it is registered").wait();
        if let Err(error) = join(binder) {
            assert!(matches!(error.errno(), Errno::ENODEV | Errno::ENOENT), "{error}");
        }
        assert!(!settled(&a));
    });
}

#[test]
fn an_unregistration_against_a_search() {
    // A device that comes meanwhile ends with the other driver, or with none if the first had it for a while.
    explore(|| {
        let bus = bus();
        driver(&bus, "K");
        driver(&bus, "V");
        let other = bus.clone();
        let adder = spawn(move || device(&other, "A"));
        bus.remove_driver("K").expect("it is registered").wait();
        let a = join(adder);
        let had_k = account(&a).removes.load(Ordering::SeqCst) > 0;
        assert_eq!(settled(&a), !had_k);
    });
}

#[test]
fn a_driver_and_a_device_that_come_at_once_find_each_other() {
    // D7.
    explore(|| {
        let bus = bus();
        let other = bus.clone();
        let adder = spawn(move || device(&other, "A"));
        driver(&bus, "K");
        assert!(settled(&join(adder)));
    });
}
