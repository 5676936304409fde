//! Interleavings under the model checker: `RUSTFLAGS="--cfg shuttle" cargo test -p device-model --test model`.
//!
//! Each scene is sampled under [`sample`], with its budget. A wake-up that is lost shows as a deadlock or as a device without
//! driver. Shuttle repeats a failure from the schedule that it prints.
#![cfg(shuttle)]
#![expect(clippy::expect_used, reason = "a broken expectation is how a test fails")]

use device_model::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use device_model::sync::{Arc, Mutex, Users, thread};
use device_model::{
    AnyDriver, Awaits, BindError, BoundTo, Bus, BusEvent, DeviceSpec, DmaApi, DmaConfigure, DmaDevice, Driver,
    DriverCore, Errno, Match, ProbeError, ProbeFailure, Removal, Revocable, Subscription, SysfsBindError,
};

type Device = device_model::Device<Plain>;
type BusHandle = device_model::BusHandle<Plain>;
type Bound<'a> = BoundTo<'a, Plain, DmaApi>;

/// Schedules of a scene tried by each of the two schedulers.
const BUDGET: usize = 2_000;
/// Places in a scene at which the second scheduler changes which thread goes first.
const CHANGES: usize = 3;

/// Tries schedules at random, and such with few but well-placed changes between threads. (A search in depth would spend
/// any affordable budget on the last few steps of one schedule.)
fn sample(scene: impl Fn() + Send + Sync + Clone + 'static) {
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

struct Plain;

impl Bus for Plain {
    type Device = Account;
    type Id = ();
    type Driver = dyn Takes;
    type Dma = Self;

    fn name(&self) -> &'static str {
        "plain"
    }

    fn dma(&self) -> &Self {
        self
    }

    fn matches(&self, dev: &Device, driver: &dyn Takes) -> Match {
        driver.fits(dev.name()).into()
    }
}

trait Takes: AnyDriver<Plain> {
    fn fits(&self, name: &str) -> bool;
}

impl Takes for Taker {
    fn fits(&self, name: &str) -> bool {
        (self.fits)(name)
    }
}

impl DmaConfigure<Account> for Plain {
    type Slot = ();
    type Use = Right;
    type Error = ProbeError;

    fn dma_configure(&self, _dev: DmaDevice<'_, Account, ()>) -> Result<(), ProbeError> {
        Ok(())
    }

    fn use_default_domain(&self, dev: DmaDevice<'_, Account, ()>, _driver: &Arc<str>) -> Result<Right, ProbeError> {
        let account = dev.description.clone();
        assert_eq!(account.rights.fetch_add(1, Ordering::SeqCst), 0, "one driver at a time does DMA");
        Ok(Right(account))
    }
}

type Probe = dyn Fn(&mut Bound<'_>) -> Result<(), ProbeError> + Send + Sync;

/// Takes devices as the scene says; those with `Users` are held until they leave.
struct Taker {
    name: Arc<str>,
    fits: Box<dyn Fn(&str) -> bool + Send + Sync>,
    probe: Box<Probe>,
}

impl Driver<Plain> for Taker {
    type Dma = DmaApi;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn probe(&self, dev: &mut Bound<'_>) -> Result<(), ProbeError> {
        let account = dev.description();
        assert_eq!(account.rights.load(Ordering::SeqCst), 1, "DMA is allowed while the driver is probed");
        (self.probe)(dev)?;
        account.probes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn remove(&self, dev: &mut Bound<'_>, _attempt: u32) -> Removal {
        let account = dev.description();
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

fn remove_driver(bus: &BusHandle, name: &str) {
    bus.remove_driver(&bus.driver(name).expect("it is registered")).wait();
}

fn driver(bus: &BusHandle, name: &str) {
    driver_for(bus, name, |_| true, |_| Ok(()));
}

fn driver_for(
    bus: &BusHandle,
    name: &str,
    fits: impl Fn(&str) -> bool + Send + Sync + 'static,
    probe: impl Fn(&mut Bound<'_>) -> Result<(), ProbeError> + Send + Sync + 'static,
) {
    let taker = Taker { name: name.into(), fits: Box::new(fits), probe: Box::new(probe) };
    bus.add_driver(Arc::new(taker)).expect("the name is free");
}

fn device(bus: &BusHandle, name: &str) -> Arc<Device> {
    bus.add_device(DeviceSpec::new(name, Account::default())).expect("the name is free")
}

/// A bus on which nothing binds of itself, with drivers K and V and a device A.
fn quiet() -> (BusHandle, Arc<Device>) {
    let bus = bus();
    bus.set_drivers_autoprobe(false);
    driver(&bus, "K");
    driver(&bus, "V");
    let a = device(&bus, "A");
    (bus, a)
}

/// Whether the device is bound agrees with the right to DMA and with the hint.
fn settled(dev: &Arc<Device>) -> bool {
    let guard = dev.lock();
    let bound = guard.is_bound();
    assert_eq!(dev.description().rights.load(Ordering::SeqCst), usize::from(bound));
    assert_eq!(dev.driver_hint().as_deref(), guard.driver_name().map(|name| &**name));
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
    sample(|| {
        let (bus, a) = quiet();
        let other = bus.clone();
        let binder = spawn(move || other.sysfs().bind("K", "A"));
        let here = bus.sysfs().bind("V", "A");
        let there = join(binder);
        assert!(here.is_ok() != there.is_ok());
        let error = here.and(there).expect_err("one has lost");
        assert_eq!(error.errno(), Errno::EBUSY);
        assert!(matches!(
            error,
            SysfsBindError::Bind(BindError::Refused { cause: ProbeFailure::HasDriver { .. }, .. })
        ));
        assert!(settled(&a));
    });
}

#[test]
fn a_bind_against_an_unbind() {
    sample(|| {
        let (bus, a) = quiet();
        bus.sysfs().bind("K", "A").expect("it is free");
        let other = bus.clone();
        let binder = spawn(move || other.sysfs().bind("V", "A").is_ok());
        bus.sysfs().unbind("K", "A").expect("K is bound").wait();
        assert_eq!(join(binder), settled(&a), "the bind came before the unbind and failed, or after it");
    });
}

#[test]
fn a_bind_against_a_removal() {
    // D12: whatever comes first, the device ends without driver.
    sample(|| {
        let (bus, a) = quiet();
        let other = bus.clone();
        let binder = spawn(move || other.sysfs().bind("K", "A"));
        a.remove().wait();
        if let Err(error) = join(binder) {
            assert_eq!(error.errno(), Errno::ENODEV);
        }
        assert!(!settled(&a));
        assert_eq!(a.description().probes.load(Ordering::SeqCst), a.description().removes.load(Ordering::SeqCst));
        assert!(bus.devices().is_empty());
    });
}

/// Asserts the order of coming and going.
fn watch(bus: &BusHandle) -> (Arc<AtomicUsize>, Subscription<Plain>) {
    let stage = Arc::new(AtomicUsize::new(0));
    let seen = stage.clone();
    let subscription = bus.subscribe(move |event: &BusEvent<'_, Plain>| {
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
    (stage, subscription)
}

#[test]
fn two_removals_of_one_device_tell_once_and_in_order() {
    sample(|| {
        let bus = bus();
        driver(&bus, "K");
        let (stage, _subscription) = watch(&bus);
        let a = device(&bus, "A");
        let dev = a.clone();
        let remover = spawn(move || dev.remove().wait());
        a.remove().wait();
        assert_eq!(stage.load(Ordering::SeqCst), 3, "gone when a removal returns");
        join(remover);
        assert!(!settled(&a));
    });
}

#[test]
fn a_device_that_comes_while_its_parent_goes() {
    sample(|| {
        let bus = bus();
        let (stage, _subscription) = watch(&bus);
        let parent = device(&bus, "P");
        let (other, below) = (bus.clone(), parent.clone());
        let spec = DeviceSpec::new("A", Account::default()).below(below);
        let adder = spawn(move || other.add_device(spec));
        parent.remove().wait();
        let came = join(adder).is_ok();
        assert_eq!(stage.load(Ordering::SeqCst), if came { 3 } else { 0 });
        assert!(bus.devices().is_empty());
    });
}

#[test]
fn a_waiting_unbind_against_the_user_who_leaves() {
    sample(|| {
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
        bus.sysfs().unbind("V", "A").expect("V is bound").wait();
        assert!(!settled(&a));
        join(leaver);
        join(locker);
        assert_eq!(a.description().removes.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_waiting_unbind_against_a_removal_and_the_user_who_leaves() {
    sample(|| {
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
        let unbind = bus.sysfs().unbind("V", "A").expect("V is bound");
        let leaver = spawn(move || drop(user));
        let unbinder = spawn(move || unbind.wait());
        a.remove().wait();
        join(unbinder);
        join(leaver);
        assert!(!settled(&a));
        assert_eq!(a.description().removes.load(Ordering::SeqCst), 1);
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
    sample(|| deferral(|| Awaits::Anything));
}

#[test]
fn a_deferral_for_a_supplier_loses_no_wake_up() {
    sample(|| deferral(|| Awaits::Supplier("s".into())));
}

#[test]
fn a_probe_that_meets_the_end_of_a_hold_is_repeated() {
    sample(|| {
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
    sample(|| {
        let (bus, a) = quiet();
        let other = bus.clone();
        let binder = spawn(move || other.sysfs().bind("K", "A"));
        remove_driver(&bus, "K");
        if let Err(error) = join(binder) {
            assert!(matches!(error.errno(), Errno::ENODEV | Errno::ENOENT), "{error}");
        }
        assert!(!settled(&a));
    });
}

#[test]
fn an_unregistration_against_a_search() {
    // A device that comes meanwhile ends with the other driver, or with none if the first had it for a while.
    sample(|| {
        let bus = bus();
        driver(&bus, "K");
        driver(&bus, "V");
        let other = bus.clone();
        let adder = spawn(move || device(&other, "A"));
        remove_driver(&bus, "K");
        let a = join(adder);
        let had_k = a.description().removes.load(Ordering::SeqCst) > 0;
        assert_eq!(settled(&a), !had_k);
    });
}

#[test]
fn a_driver_and_a_device_that_come_at_once_find_each_other() {
    // D7.
    sample(|| {
        let bus = bus();
        let other = bus.clone();
        let adder = spawn(move || device(&other, "A"));
        driver(&bus, "K");
        assert!(settled(&join(adder)));
    });
}

#[test]
fn the_last_handle_of_a_bus_against_the_holder_of_a_devices_lock() {
    // Whoever is in the way of closing the bus finishes it.
    sample(|| {
        let bus = bus();
        driver(&bus, "K");
        let a = device(&bus, "A");
        let dev = a.clone();
        let holder = spawn(move || drop(dev.lock()));
        drop(bus);
        join(holder);
        assert!(!settled(&a));
        assert_eq!(a.description().removes.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_resource_is_revoked_against_an_access() {
    // Neither does an access outlive the unbind, nor the resource an access.
    sample(|| {
        let bus = bus();
        bus.set_drivers_autoprobe(false);
        let (given, alive) = (Arc::new(Mutex::new(None::<Revocable<Alive>>)), Arc::new(AtomicUsize::new(0)));
        let (take, count) = (given.clone(), alive.clone());
        let probe = move |dev: &mut Bound<'_>| {
            count.fetch_add(1, Ordering::SeqCst);
            *take.lock() = Some(dev.manage_revocable(Alive(count.clone())));
            Ok(())
        };
        driver_for(&bus, "K", |_| true, probe);
        device(&bus, "A");
        bus.sysfs().bind("K", "A").expect("it is free");
        let handle = given.lock().clone().expect("the driver is bound");
        let user = spawn(move || {
            if let Some(access) = handle.try_access() {
                assert_eq!(access.0.load(Ordering::SeqCst), 1);
            }
        });
        bus.sysfs().unbind("K", "A").expect("K is bound").wait();
        assert_eq!(alive.load(Ordering::SeqCst), 0, "revoked when the unbind is complete");
        join(user);
    });
}

struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn a_device_that_is_added_below_a_locked_parent_leaves_repeats_to_the_holder() {
    // The parent waits for anything; the child's bind must not take its lock, nor be lost.
    sample(|| {
        let bus = bus();
        let up = Arc::new(AtomicBool::new(false));
        let (looked, set) = (up.clone(), up.clone());
        let probe = move |_: &mut Bound<'_>| {
            if looked.load(Ordering::SeqCst) { Ok(()) } else { Err(ProbeError::Deferred(Awaits::Anything)) }
        };
        driver_for(&bus, "parent", |name| name == "P", probe);
        driver_for(
            &bus,
            "child",
            |name| name == "C",
            move |_| {
                set.store(true, Ordering::SeqCst);
                Ok(())
            },
        );
        let p = device(&bus, "P");
        let dev = p.clone();
        let other = spawn(move || drop(dev.lock()));
        let guard = p.lock();
        bus.add_device(DeviceSpec::new("C", Account::default()).below(p.clone())).expect("the name is free");
        drop(guard);
        join(other);
        assert!(settled(&p));
    });
}
