//! Random lives of a driver core, step by step beside a small reference model.
//!
//! The model says after each step which devices have which driver; the bus checks all the while that the right to DMA
//! is held exactly while a driver may do DMA, and that probe and remove take turns.
#![cfg(not(shuttle))]
#![expect(clippy::expect_used, reason = "a broken expectation is how a test fails")]

#[cfg(not(feature = "std"))]
dma_locks::provide!(dma_locks::Spinning);

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use device_model::sync::{Arc, Mutex, UserGuard, Users};
use device_model::{
    AnyDriver, Awaits, BoundTo, Bus, BusEvent, BusHandle, DeviceId, DeviceSpec, DmaApi, DmaConfigure, DmaDevice,
    Driver, DriverCore, DriverHandle, Errno, Match, Override, ProbeError, Progress, Removal, Subscription, Unbind,
};
use proptest::prelude::*;

type Device = device_model::Device<Stage>;

const DEVICES: usize = 4;
const DRIVERS: usize = 3;

/// What a driver does when it is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Takes,
    Fails,
    Defers,
    /// Takes, and lets users hold the device open.
    Opens,
}

/// What the bus and the drivers see of one device.
#[derive(Default)]
struct Account {
    rights: AtomicUsize,
    probed: AtomicUsize,
    removed: AtomicUsize,
    /// How often whoever guards DMA heard that it is gone.
    gone: AtomicUsize,
}

impl Account {
    fn rights(&self) -> usize {
        self.rights.load(Ordering::SeqCst)
    }

    /// How many drivers took it, and how many of them let it go.
    fn takings(&self) -> (usize, usize) {
        (self.probed.load(Ordering::SeqCst), self.removed.load(Ordering::SeqCst))
    }
}

struct Right(Arc<Account>);

impl Drop for Right {
    fn drop(&mut self) {
        let before = self.0.rights.fetch_sub(1, Ordering::SeqCst);
        assert_eq!(before, 1);
    }
}

struct Actor {
    name: Arc<str>,
    manner: Manner,
}

impl Driver<Stage> for Actor {
    type Dma = DmaApi;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn probe(&self, dev: &mut BoundTo<'_, Stage, DmaApi>) -> Result<(), ProbeError> {
        let account = dev.description();
        assert_eq!(account.rights(), 1, "P6 comes before P9");
        let (probed, removed) = account.takings();
        assert_eq!(probed, removed, "whoever is probed finds the device free");
        match self.manner {
            Manner::Fails => return Err(ProbeError::errno_only(Errno::EIO)),
            Manner::Defers => return Err(ProbeError::Deferred(Awaits::Anything)),
            Manner::Opens => dev.manage(Arc::new(Users::new())),
            Manner::Takes => {}
        }
        account.probed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn remove(&self, dev: &mut BoundTo<'_, Stage, DmaApi>, _attempt: u32) -> Removal {
        let account = dev.description();
        assert_eq!(account.rights(), 1, "R7 comes before R8");
        let (probed, removed) = account.takings();
        assert_eq!(probed, removed + 1, "probe and remove take turns");
        if let Some(users) = dev.resource::<Arc<Users>>() {
            users.close();
            if users.inside() > 0 {
                return Removal::Waiting(users.clone());
            }
        }
        account.removed.fetch_add(1, Ordering::SeqCst);
        Removal::Done
    }
}

/// Every driver fits every device, so that the model needs no table.
struct Stage;

impl Bus for Stage {
    type Device = Account;
    type Id = ();
    type Driver = dyn AnyDriver<Self>;
    type Dma = Self;

    fn name(&self) -> &'static str {
        "stage"
    }

    fn dma(&self) -> &Self {
        self
    }

    fn matches(&self, dev: &Device, driver: &dyn AnyDriver<Self>) -> Match {
        match dev.override_verdict(driver.name()) {
            Override::Excludes => Match::No,
            Override::Demands | Override::Unset => Match::Yes,
        }
    }
}

impl DmaConfigure<Account> for Stage {
    type Slot = ();
    type Use = Right;
    type Error = ProbeError;

    fn device_removed(&self, dev: DmaDevice<'_, Account, ()>) {
        assert_eq!(dev.description.rights(), 0, "D13");
        assert_eq!(dev.description.gone.fetch_add(1, Ordering::SeqCst), 0, "once");
    }

    fn dma_configure(&self, _dev: DmaDevice<'_, Account, ()>) -> Result<(), ProbeError> {
        Ok(())
    }

    fn use_default_domain(&self, dev: DmaDevice<'_, Account, ()>, _driver: &Arc<str>) -> Result<Right, ProbeError> {
        let account = dev.description.clone();
        assert_eq!(account.rights.fetch_add(1, Ordering::SeqCst), 0, "never two drivers do DMA");
        Ok(Right(account))
    }
}

#[derive(Clone, Debug)]
enum Step {
    AddDevice(usize),
    RemoveDevice(usize),
    AddDriver(usize, Manner),
    RemoveDriver(usize),
    /// Unregisters a driver, but gives up when it waits.
    GiveUpDriver(usize),
    Bind(usize, usize),
    Unbind(usize, usize),
    /// Unbinds whatever is bound, but gives up when the driver waits.
    GiveUp(usize),
    DriversProbe(usize),
    Override(usize, Option<usize>),
    /// A user opens the device, if its driver lets it.
    Open(usize),
    /// The users of the device leave.
    Close(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let device = || 0..DEVICES;
    let driver = || 0..DRIVERS;
    let manner = prop_oneof![
        3 => Just(Manner::Takes),
        1 => Just(Manner::Fails),
        2 => Just(Manner::Defers),
        2 => Just(Manner::Opens),
    ];
    prop_oneof![
        3 => device().prop_map(Step::AddDevice),
        2 => device().prop_map(Step::RemoveDevice),
        3 => (driver(), manner).prop_map(|(driver, manner)| Step::AddDriver(driver, manner)),
        1 => driver().prop_map(Step::RemoveDriver),
        1 => driver().prop_map(Step::GiveUpDriver),
        3 => (driver(), device()).prop_map(|(driver, device)| Step::Bind(driver, device)),
        3 => (driver(), device()).prop_map(|(driver, device)| Step::Unbind(driver, device)),
        2 => device().prop_map(Step::GiveUp),
        2 => device().prop_map(Step::DriversProbe),
        2 => (device(), proptest::option::of(driver())).prop_map(|(device, driver)| Step::Override(device, driver)),
        2 => device().prop_map(Step::Open),
        2 => device().prop_map(Step::Close),
    ]
}

/// The reference model: what each device should be, without locks, lists and orders of steps.
#[derive(Default)]
struct Model {
    /// In the order of their registration.
    drivers: Vec<(usize, Manner)>,
    /// Drivers of these that take no device any more.
    leaving: BTreeSet<usize>,
    devices: BTreeMap<usize, ModelDevice>,
    /// Counts devices and bindings, to know which came first.
    clock: usize,
}

#[derive(Default, Clone)]
struct ModelDevice {
    arrival: usize,
    bound: Option<(usize, Manner)>,
    /// When it was bound.
    since: usize,
    /// Its driver has been asked to leave and waits for users.
    leaving: bool,
    only: Option<usize>,
    waits: bool,
}

impl ModelDevice {
    fn can_be_opened(&self) -> bool {
        matches!(self.bound, Some((_, Manner::Opens))) && !self.leaving
    }
}

impl Model {
    /// The search of one device for a driver (D25).
    fn search(&mut self, device: usize) {
        let drivers = self.drivers.clone();
        for (driver, manner) in drivers {
            self.attempt(device, driver, manner);
        }
    }

    /// One driver tried on one device, which waits if that defers (D24).
    fn attempt(&mut self, device: usize, driver: usize, manner: Manner) {
        let dev = self.devices.get_mut(&device).expect("it is there");
        if self.leaving.contains(&driver) || dev.bound.is_some() || dev.only.is_some_and(|only| only != driver) {
            return;
        }
        match manner {
            Manner::Fails => {}
            Manner::Defers => dev.waits = true,
            Manner::Takes | Manner::Opens => {
                self.clock += 1;
                (dev.bound, dev.since) = (Some((driver, manner)), self.clock);
                dev.waits = false;
            }
        }
    }

    /// After a success all that wait look again, until none finds anything (D54).
    fn repeat(&mut self, before: usize) {
        let mut before = before;
        while self.bound() > before {
            before = self.bound();
            let waiting = self.devices.iter().filter(|(_, dev)| dev.waits).map(|(n, dev)| (dev.arrival, *n));
            let in_order: BTreeMap<_, _> = waiting.collect();
            for n in in_order.into_values() {
                self.devices.get_mut(&n).expect("it is there").waits = false;
                self.search(n);
            }
        }
    }

    fn bound(&self) -> usize {
        self.devices.values().filter(|dev| dev.bound.is_some()).count()
    }
}

/// The core under test, with the model beside it.
struct World {
    core: DriverCore,
    bus: BusHandle<Stage>,
    _subscription: Subscription<Stage>,
    model: Model,
    users: BTreeMap<usize, Vec<UserGuard>>,
    accounts: Vec<Arc<Account>>,
    accounts_of: BTreeMap<DeviceId, Arc<Account>>,
    /// Between DEL and REMOVED.
    going: Arc<AtomicUsize>,
    events: Arc<Mutex<BTreeMap<String, Vec<&'static str>>>>,
}

fn device_name(device: usize) -> String {
    format!("dev{device}")
}

fn driver_name(driver: usize) -> String {
    format!("drv{driver}")
}

impl World {
    fn new() -> Self {
        let core = DriverCore::new();
        let bus = core.add_bus(Stage);
        let (going, events) = (Arc::new(AtomicUsize::new(0)), Arc::<Mutex<BTreeMap<_, Vec<_>>>>::default());
        let (count, book) = (going.clone(), events.clone());
        let subscription = bus.subscribe(move |event: &BusEvent<'_, Stage>| {
            let (name, word) = match event {
                BusEvent::Added(dev) => (dev.name(), "ADD"),
                BusEvent::Deleting(dev) => {
                    count.fetch_add(1, Ordering::SeqCst);
                    (dev.name(), "DEL")
                }
                BusEvent::Removed(dev) => {
                    count.fetch_sub(1, Ordering::SeqCst);
                    assert_eq!(dev.description().rights(), 0, "D13");
                    (dev.name(), "REMOVED")
                }
                BusEvent::Binding(dev) => (dev.device().name(), "BIND"),
                BusEvent::Bound(dev) => (dev.device().name(), "BOUND"),
                BusEvent::NotBound(dev) => (dev.device().name(), "NOT_BOUND"),
                BusEvent::Unbinding(dev) => (dev.device().name(), "UNBIND"),
                BusEvent::Unbound(dev) => (dev.device().name(), "UNBOUND"),
            };
            book.lock().entry(name.to_string()).or_default().push(word);
        });
        Self {
            core,
            bus,
            _subscription: subscription,
            model: Model::default(),
            users: BTreeMap::new(),
            accounts: Vec::new(),
            accounts_of: BTreeMap::new(),
            going,
            events,
        }
    }

    fn device(&self, device: usize) -> Arc<Device> {
        self.bus.device(&device_name(device)).expect("the model has it as well")
    }

    /// Drives to the end; a driver that waits lets its user leave first.
    fn finish(&mut self, mut unbind: Unbind) {
        while let Progress::Waiting { device, users } = unbind.try_finish() {
            let inside = users.inside();
            assert!(inside > 0, "nobody is waited for in vain");
            assert!(users.enter().is_none(), "a driver that waits lets nobody in");
            let account = self.accounts_of.get(&device.id()).expect("every device has an account");
            assert_eq!(account.rights(), 1, "a driver that waits may do DMA");
            let number: usize = device.name()[3..].parse().expect("devices are called dev0, dev1, ...");
            let left = self.users.remove(&number).unwrap_or_default();
            assert_eq!(left.len(), inside);
        }
    }

    fn play(&mut self, step: &Step) {
        let before = self.model.bound();
        match *step {
            Step::AddDevice(device) => self.add_device(device),
            Step::RemoveDevice(device) => {
                if self.model.devices.remove(&device).is_some() {
                    let dev = self.device(device);
                    self.finish(dev.remove());
                    self.users.remove(&device);
                }
            }
            Step::AddDriver(driver, manner) => self.add_driver(driver, manner),
            Step::RemoveDriver(driver) => {
                let handle = self.driver(driver);
                assert_eq!(handle.is_some(), self.model.drivers.iter().any(|(other, _)| *other == driver));
                if let Some(handle) = handle {
                    self.finish(self.bus.remove_driver(&handle));
                }
                self.model.drivers.retain(|(other, _)| *other != driver);
                self.model.leaving.remove(&driver);
                for (number, dev) in &mut self.model.devices {
                    if dev.bound.is_some_and(|(other, _)| other == driver) {
                        (dev.bound, dev.leaving) = (None, false);
                        self.users.remove(number);
                    }
                }
            }
            Step::GiveUpDriver(driver) => self.give_up_driver(driver),
            Step::Bind(driver, device) => self.bind(driver, device),
            Step::Unbind(driver, device) => self.unbind(driver, device),
            Step::GiveUp(device) => self.give_up(device),
            Step::DriversProbe(device) => {
                let done = self.bus.sysfs().drivers_probe(&device_name(device));
                assert_eq!(done.map_err(|error| error.errno()).err(), self.missing(device));
                if self.model.devices.contains_key(&device) {
                    self.model.search(device);
                }
            }
            Step::Override(device, only) => {
                if let Some(dev) = self.model.devices.get_mut(&device) {
                    dev.only = only;
                    self.device(device).set_driver_override(only.map(driver_name).as_deref());
                }
            }
            Step::Open(device) => {
                if self.model.devices.get(&device).is_some_and(ModelDevice::can_be_opened) {
                    let dev = self.device(device);
                    let user = dev.lock().resource::<Arc<Users>>().and_then(Users::enter);
                    self.users.entry(device).or_default().push(user.expect("nobody has closed the door"));
                }
            }
            Step::Close(device) => {
                self.users.remove(&device);
                self.complete(device);
            }
        }
        self.model.repeat(before);
    }

    fn driver(&self, driver: usize) -> Option<DriverHandle<Stage>> {
        self.bus.driver(&driver_name(driver))
    }

    /// The devices of the driver are let go, the last bound first, until one is in use.
    fn give_up_driver(&mut self, driver: usize) {
        let Some(handle) = self.driver(driver) else { return };
        let progress = self.bus.remove_driver(&handle).try_finish();
        self.model.leaving.insert(driver);
        let of_driver = |dev: &ModelDevice| dev.bound.is_some_and(|(other, _)| other == driver);
        let mut bound: Vec<_> = self.model.devices.iter_mut().filter(|(_, dev)| of_driver(dev)).collect();
        bound.sort_by_key(|(_, dev)| core::cmp::Reverse(dev.since));
        for (number, dev) in bound {
            dev.leaving = self.users.get(number).is_some_and(|users| !users.is_empty());
            if dev.leaving {
                assert!(
                    matches!(progress, Progress::Waiting { device, .. } if **device.name() == *device_name(*number))
                );
                return;
            }
            dev.bound = None;
        }
        assert!(matches!(progress, Progress::Done));
        self.model.drivers.retain(|(other, _)| *other != driver);
        self.model.leaving.remove(&driver);
    }

    fn give_up(&mut self, device: usize) {
        let Some((driver, _)) = self.model.devices.get(&device).and_then(|dev| dev.bound) else { return };
        let mut unbind = self.bus.sysfs().unbind(&driver_name(driver), &device_name(device)).expect("it is bound");
        let held = self.users.get(&device).is_some_and(|users| !users.is_empty());
        assert_eq!(matches!(unbind.try_finish(), Progress::Waiting { .. }), held);
        let dev = self.model.devices.get_mut(&device).expect("it was bound");
        dev.leaving = held;
        if !held {
            dev.bound = None;
        }
    }

    /// The users have left: whoever next takes the lock completes the unbind.
    fn complete(&mut self, device: usize) {
        let Some(dev) = self.model.devices.get_mut(&device).filter(|dev| dev.leaving) else { return };
        (dev.bound, dev.leaving) = (None, false);
        drop(self.device(device).lock());
    }

    /// The next step takes the locks of these devices, and would wait.
    fn let_users_go(&mut self, devices: impl Iterator<Item = usize>) {
        for device in devices {
            if self.model.devices.get(&device).is_some_and(|dev| dev.leaving) {
                self.users.remove(&device);
                self.complete(device);
            }
        }
    }

    fn missing(&self, device: usize) -> Option<Errno> {
        (!self.model.devices.contains_key(&device)).then_some(Errno::ENODEV)
    }

    fn add_device(&mut self, device: usize) {
        let account = Arc::new(Account::default());
        let added = self.bus.add_device(DeviceSpec::new(device_name(device), account.clone()));
        assert_eq!(added.is_err(), self.model.devices.contains_key(&device));
        if let Ok(dev) = added {
            self.accounts_of.insert(dev.id(), account.clone());
            self.accounts.push(account);
            self.model.clock += 1;
            let arrival = self.model.clock;
            self.model.devices.insert(device, ModelDevice { arrival, ..ModelDevice::default() });
            self.model.search(device);
        }
    }

    fn add_driver(&mut self, driver: usize, manner: Manner) {
        let added = self.bus.add_driver(Arc::new(Actor { name: driver_name(driver).into(), manner }));
        let taken = self.model.drivers.iter().any(|(other, _)| *other == driver);
        assert_eq!(added.map(drop).map_err(|error| error.errno()).err(), taken.then_some(Errno::EBUSY));
        if !taken {
            self.model.drivers.push((driver, manner));
            // Device by device, and after each success those that wait look again (D28, D54).
            let mut devices: Vec<_> = self.model.devices.iter().map(|(n, dev)| (dev.arrival, *n)).collect();
            devices.sort_unstable();
            for (_, device) in devices {
                let before = self.model.bound();
                self.model.attempt(device, driver, manner);
                self.model.repeat(before);
            }
        }
    }

    fn bind(&mut self, driver: usize, device: usize) {
        self.let_users_go(std::iter::once(device));
        let before = self.model.bound();
        let expected = self.expected_bind(driver, device);
        let result = self.bus.sysfs().bind(&driver_name(driver), &device_name(device));
        assert_eq!(result.map_err(|error| error.errno()), expected);
        if expected.is_ok() {
            // Binding by hand does not queue, so only the success counts (D30).
            let manner = self.model.drivers.iter().find(|(other, _)| *other == driver).expect("it bound").1;
            self.model.attempt(device, driver, manner);
            self.model.repeat(before);
        }
    }

    /// Table Dt9.
    fn expected_bind(&self, driver: usize, device: usize) -> Result<(), Errno> {
        let driver = self.model.drivers.iter().find(|(other, _)| *other == driver).ok_or(Errno::ENOENT)?;
        let dev = self.model.devices.get(&device).ok_or(Errno::ENODEV)?;
        if dev.only.is_some_and(|only| only != driver.0) {
            return Err(Errno::ENODEV);
        }
        if dev.bound.is_some() {
            return Err(Errno::EBUSY);
        }
        if self.model.leaving.contains(&driver.0) {
            return Err(Errno::ENODEV);
        }
        match driver.1 {
            Manner::Fails => Err(Errno::EIO),
            Manner::Defers => Err(Errno::EAGAIN),
            Manner::Takes | Manner::Opens => Ok(()),
        }
    }

    fn unbind(&mut self, driver: usize, device: usize) {
        let bound = self.model.devices.get(&device).and_then(|dev| dev.bound);
        let right = bound.is_some_and(|(other, _)| other == driver);
        match self.bus.sysfs().unbind(&driver_name(driver), &device_name(device)) {
            Ok(unbind) => {
                assert!(right);
                self.finish(unbind);
                self.users.remove(&device);
                let dev = self.model.devices.get_mut(&device).expect("it was bound");
                (dev.bound, dev.leaving) = (None, false);
            }
            Err(error) => assert_eq!((right, error.errno()), (false, Errno::ENODEV)),
        }
    }

    /// What is to be seen agrees with the model.
    fn check(&self) {
        assert_eq!(self.going.load(Ordering::SeqCst), 0);
        let mut by_arrival: Vec<_> = self.model.devices.iter().map(|(n, dev)| (dev.arrival, device_name(*n))).collect();
        by_arrival.sort_unstable();
        let names: Vec<_> = self.bus.devices().iter().map(|dev| dev.name().to_string()).collect();
        assert_eq!(names, by_arrival.into_iter().map(|(_, name)| name).collect::<Vec<_>>());
        for (number, expected) in &self.model.devices {
            let dev = self.device(*number);
            let account = dev.description();
            if expected.leaving {
                assert_eq!((dev.driver_hint(), account.rights()), (None, 1), "{dev:?} waits");
                continue;
            }
            let name = expected.bound.map(|(driver, _)| driver_name(driver));
            let guard = dev.lock();
            assert_eq!(dev.driver_hint().as_deref(), name.as_deref(), "the hint of {dev:?}");
            assert_eq!(guard.driver_name().map(ToString::to_string), name, "the driver of {dev:?}");
            assert_eq!(guard.is_bound(), name.is_some());
            assert_eq!(account.rights(), usize::from(name.is_some()), "the right to DMA of {dev:?}");
            let (probed, removed) = account.takings();
            assert_eq!(probed - removed, usize::from(name.is_some()));
        }
        let mut waiting: Vec<_> = self.core.deferred().iter().map(|dev| dev.name().to_string()).collect();
        waiting.sort();
        let expected = self.model.devices.iter().filter(|(_, dev)| dev.waits).map(|(n, _)| device_name(*n));
        assert_eq!(waiting, expected.collect::<Vec<_>>(), "who waits");
    }

    /// The events of each device are whole lives, one after the other (D66).
    fn check_events(&self) {
        for (name, words) in self.events.lock().iter() {
            let mut at = "nowhere";
            for word in words {
                at = match (at, *word) {
                    ("nowhere", "ADD") | ("binding", "NOT_BOUND") | ("unbinding", "UNBOUND") => "free",
                    ("free", "BIND") => "binding",
                    ("binding", "BOUND") => "bound",
                    ("bound", "UNBIND") => "unbinding",
                    ("bound", "DEL") => "going bound",
                    ("going bound", "UNBIND") => "going unbinding",
                    ("free", "DEL") | ("going unbinding", "UNBOUND") => "going",
                    ("going", "REMOVED") => "nowhere",
                    (at, word) => unreachable!("{name} is {at} and hears {word}: {words:?}"),
                };
            }
        }
    }

    /// All goes; nothing is left.
    fn end(mut self) {
        self.users.clear();
        self.accounts_of.clear();
        for number in 0..DEVICES {
            self.play(&Step::RemoveDevice(number));
        }
        self.check();
        self.check_events();
        for account in &self.accounts {
            let (probed, removed) = account.takings();
            assert_eq!((account.rights(), probed), (0, removed));
            assert_eq!(account.gone.load(Ordering::SeqCst), 1);
            assert_eq!(Arc::strong_count(account), 1, "nobody keeps a device that is gone");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// D2, D12, D13, D24 to D30, D42, D46, D54, D57, D66, tables Dt3, Dt4, Dt8 to Dt11.
    #[test]
    fn a_random_life_follows_the_model(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.play(step);
            world.check();
        }
        world.end();
    }

    /// Closing the bus in the middle ends every right, whatever the state and whoever uses what.
    #[test]
    fn a_bus_that_is_closed_in_the_middle_leaves_nothing(steps in proptest::collection::vec(step(), 1..40)) {
        let mut world = World::new();
        for step in &steps {
            world.play(step);
        }
        let World { core, bus, accounts, accounts_of, users, .. } = world;
        drop((bus, accounts_of));
        prop_assert!(core.deferred().is_empty());
        for account in &accounts {
            prop_assert_eq!((account.rights(), account.gone.load(Ordering::SeqCst)), (0, 1));
            prop_assert_eq!(Arc::strong_count(account), 1);
        }
        drop(users);
    }
}
