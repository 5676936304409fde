//! What is dropped, abandoned, or comes in an order that nobody planned.
#![cfg(not(shuttle))]
#![expect(clippy::expect_used, reason = "a broken expectation is how a test fails")]

#[cfg(not(feature = "std"))]
dma_locks::provide!(dma_locks::Spinning);

use std::sync::atomic::{AtomicUsize, Ordering};

use device_model::sync::{Arc, Mutex, UserGuard, Users};
use device_model::{
    AnyDevice, AnyDriver, Awaits, BoundTo, Bus, BusEvent, BusHandle, DeviceSpec, DmaApi, DmaConfigure, DmaDevice,
    Driver, DriverCore, DriverHandle, Errno, Match, ProbeError, ProbeHold, Progress, Removal, Revocable, Subscription,
    Unbind,
};
use proptest::prelude::*;

type Device = device_model::Device<Stage>;

/// What became of one device.
#[derive(Default)]
struct Account {
    added: AtomicUsize,
    removed: AtomicUsize,
    rights: AtomicUsize,
    resources: AtomicUsize,
}

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

struct Stage;

struct Right(Arc<Account>);

impl Drop for Right {
    fn drop(&mut self) {
        self.0.rights.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Resource(Arc<Account>);

impl Resource {
    fn of(account: &Arc<Account>) -> Self {
        account.resources.fetch_add(1, Ordering::SeqCst);
        Self(account.clone())
    }
}

impl Drop for Resource {
    fn drop(&mut self) {
        assert_eq!(count(&self.0.rights), 0, "the right ends before the resources go");
        self.0.resources.fetch_sub(1, Ordering::SeqCst);
    }
}

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
        dev.name().starts_with(&**driver.name()).into()
    }
}

impl DmaConfigure<Account> for Stage {
    type Slot = ();
    type Use = Right;
    type Error = ProbeError;

    fn device_added(&self, dev: DmaDevice<'_, Account, ()>) {
        dev.description.added.fetch_add(1, Ordering::SeqCst);
    }

    fn device_removed(&self, dev: DmaDevice<'_, Account, ()>) {
        assert_eq!(count(&dev.description.rights), 0);
        dev.description.removed.fetch_add(1, Ordering::SeqCst);
    }

    fn dma_configure(&self, _dev: DmaDevice<'_, Account, ()>) -> Result<(), ProbeError> {
        Ok(())
    }

    fn use_default_domain(&self, dev: DmaDevice<'_, Account, ()>, _driver: &Arc<str>) -> Result<Right, ProbeError> {
        dev.description.rights.fetch_add(1, Ordering::SeqCst);
        Ok(Right(dev.description.clone()))
    }
}

/// Takes the devices whose names begin with its own; some can be held open.
struct Taker {
    name: Arc<str>,
    handles: Arc<Mutex<Vec<Revocable<Resource>>>>,
}

impl Driver<Stage> for Taker {
    type Dma = DmaApi;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn probe(&self, dev: &mut BoundTo<'_, Stage, DmaApi>) -> Result<(), ProbeError> {
        if dev.device().name().contains("waits") {
            return Err(ProbeError::Deferred(Awaits::Supplier("never".into())));
        }
        dev.manage(Arc::new(Users::new()));
        let resource = Resource::of(dev.description());
        self.handles.lock().push(dev.manage_revocable(resource));
        Ok(())
    }

    fn remove(&self, dev: &mut BoundTo<'_, Stage, DmaApi>, _attempt: u32) -> Removal {
        let Some(users) = dev.resource::<Arc<Users>>() else { return Removal::Done };
        users.close();
        if users.inside() == 0 { Removal::Done } else { Removal::Waiting(users.clone()) }
    }
}

fn taker(name: &str) -> Arc<Taker> {
    Arc::new(Taker { name: name.into(), handles: Arc::default() })
}

fn device(bus: &BusHandle<Stage>, name: &str) -> Arc<Device> {
    bus.add_device(DeviceSpec::new(name, Account::default())).expect("the name is free")
}

fn open(dev: &Arc<Device>) -> UserGuard {
    dev.lock().resource::<Arc<Users>>().expect("the driver is bound").enter().expect("it lets users in")
}

/// Everything that somebody may hold of a machine.
enum Handle {
    Core(DriverCore),
    Bus(BusHandle<Stage>),
    Device(Arc<Device>),
    Any(Arc<dyn AnyDevice>),
    Driver(DriverHandle<Stage>),
    User(UserGuard),
    Unbind(Unbind),
    Subscription(Subscription<Stage>),
    Revocable(Revocable<Resource>),
    Hold(ProbeHold),
}

impl Handle {
    /// Uses it once more, then drops it.
    fn drop_in_use(self) {
        match self {
            Self::Core(core) => drop(core.deferred()),
            Self::Bus(bus) => drop(bus.devices()),
            Self::Device(dev) => drop((dev.driver_hint(), dev.children(), dev.parent())),
            Self::Any(dev) => drop((dev.driver_hint(), dev.children(), dev.parent())),
            Self::Driver(driver) => assert_eq!(&**driver.name(), "k"),
            Self::User(user) => drop(user),
            Self::Unbind(mut unbind) => drop(unbind.try_finish()),
            Self::Subscription(subscription) => drop(subscription),
            Self::Revocable(revocable) => drop(revocable.try_access().map(|access| count(&access.0.resources))),
            Self::Hold(hold) => drop(hold),
        }
    }
}

/// A tree over two buses with devices in every state, and all that can be held of it.
fn machine() -> (Vec<Handle>, Vec<Arc<Account>>) {
    let core = DriverCore::new();
    let (bus, other) = (core.add_bus(Stage), core.add_bus(Stage));
    let k = taker("k");
    let driver = bus.add_driver(k.clone()).expect("the name is free");
    let heard = bus.clone();
    let subscription = bus.subscribe(move |_: &BusEvent<'_, Stage>| drop(heard.devices()));
    let [root, used, leaving, waits, free] =
        ["k.root", "k.used", "k.leaving", "k.waits", "free"].map(|name| device(&bus, name));
    let spec = DeviceSpec::new("child", Account::default()).below(root.clone());
    let child = other.add_device(spec).expect("the name is free");
    let users = [open(&used), open(&leaving)];
    let mut unbind = bus.unbind(&driver, &leaving).expect("it is bound");
    assert!(matches!(unbind.try_finish(), Progress::Waiting { .. }));
    let devices = [root, used, leaving, waits, free, child];
    let accounts = devices.iter().map(|dev| dev.description().clone()).collect();
    let mut handles = vec![
        Handle::Unbind(unbind),
        Handle::Unbind(bus.remove_driver(&driver)),
        Handle::Unbind(devices[1].remove()),
        Handle::Any(devices[0].clone()),
        Handle::Hold(core.hold_probes()),
        Handle::Core(core),
        Handle::Bus(other),
        Handle::Bus(bus),
        Handle::Driver(driver),
        Handle::Subscription(subscription),
    ];
    handles.extend(k.handles.lock().drain(..).map(Handle::Revocable));
    handles.extend(users.map(Handle::User));
    handles.extend(devices.map(Handle::Device));
    (handles, accounts)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever is dropped, used once more or not, in whatever order: nothing is left, and each step came once.
    #[test]
    fn handles_are_dropped_in_any_order(
        order in Just((0..22_usize).collect::<Vec<_>>()).prop_shuffle(),
        used in proptest::collection::vec(any::<bool>(), 22),
    ) {
        let (handles, accounts) = machine();
        prop_assert!(handles.len() <= order.len());
        let mut handles: Vec<_> = handles.into_iter().map(Some).collect();
        for (place, used) in order.into_iter().zip(used) {
            let Some(handle) = handles.get_mut(place).and_then(Option::take) else { continue };
            if used { handle.drop_in_use() } else { drop(handle) }
            let buses = handles.iter().flatten().any(|handle| matches!(handle, Handle::Bus(_) | Handle::Subscription(_)));
            if !buses {
                prop_assert!(accounts.iter().all(|account| count(&account.rights) == 0), "no bus, no right");
            }
        }
        for account in &accounts {
            prop_assert_eq!((count(&account.added), count(&account.removed)), (1, 1));
            prop_assert_eq!((count(&account.rights), count(&account.resources)), (0, 0));
            prop_assert_eq!(Arc::strong_count(account), 1, "somebody keeps a device");
        }
    }
}

#[test]
fn a_notifier_that_holds_its_bus_goes_with_its_subscription() {
    let core = DriverCore::new();
    let bus = core.add_bus(Stage);
    let (heard, calls) = (bus.clone(), Arc::new(AtomicUsize::new(0)));
    let counter = calls.clone();
    let subscription = bus.subscribe(move |_: &BusEvent<'_, Stage>| {
        counter.fetch_add(heard.devices().len(), Ordering::SeqCst);
    });
    let a = device(&bus, "a");
    assert_eq!(count(&calls), 1);
    drop(subscription);
    assert_eq!(Arc::strong_count(&calls), 1, "nobody keeps the notifier");
    a.remove().wait();
    assert_eq!(count(&calls), 1);
    drop(bus);
    assert_eq!(format!("{core:?}"), "[]");
}

#[test]
fn waiting_for_a_supplier_keeps_nobody_alive() {
    let core = DriverCore::new();
    let bus = core.add_bus(Stage);
    bus.add_driver(taker("k")).expect("the name is free");
    let dev = Arc::downgrade(&device(&bus, "k.waits"));
    assert_eq!(core.deferred().len(), 1);
    drop(bus);
    assert!(dev.upgrade().is_none() && core.deferred().is_empty());
}

#[test]
fn dead_children_do_not_stay_with_their_parent() {
    let core = DriverCore::new();
    let bus = core.add_bus(Stage);
    let parent = device(&bus, "parent");
    let mut dead = Vec::new();
    for _ in 0..100 {
        let spec = DeviceSpec::new("child", Account::default()).below(parent.clone());
        dead.push(Arc::downgrade(&core.add_bus(Stage).add_device(spec).expect("the name is free")));
    }
    assert!(parent.children().is_empty());
    // Not even a weak reference, which would keep the memory.
    assert!(dead.iter().all(|dev| dev.strong_count() == 0 && dev.weak_count() == 0));
}

#[test]
fn a_long_chain_of_devices_goes_without_a_deep_stack() {
    const LENGTH: usize = 100_000;
    let small_stack = std::thread::Builder::new().stack_size(64 * 1024);
    let chain = || {
        let bus = DriverCore::new().add_bus(Stage);
        bus.set_drivers_autoprobe(false);
        let account = Arc::new(Account::default());
        let mut last = bus.add_device(DeviceSpec::new("0", account.clone())).expect("the name is free");
        for n in 1..LENGTH {
            let spec = DeviceSpec::new(n.to_string(), account.clone()).below(last);
            last = bus.add_device(spec).expect("the name is free");
        }
        // The lowest keeps all above it, after the bus has forgotten them.
        drop(bus);
        assert_eq!(Arc::strong_count(&account), LENGTH + 1);
        drop(last);
        assert_eq!(Arc::strong_count(&account), 1);
    };
    small_stack.spawn(chain).expect("a thread can be had").join().expect("the stack is deep enough");
}

#[test]
fn a_driver_that_waits_for_nobody_is_let_go() {
    struct Stubborn(Arc<str>, AtomicUsize);
    impl Driver<Stage> for Stubborn {
        type Dma = DmaApi;
        fn name(&self) -> &Arc<str> {
            &self.0
        }
        fn probe(&self, _: &mut BoundTo<'_, Stage, DmaApi>) -> Result<(), ProbeError> {
            Ok(())
        }
        fn remove(&self, _: &mut BoundTo<'_, Stage, DmaApi>, attempt: u32) -> Removal {
            assert_eq!(attempt as usize, self.1.fetch_add(1, Ordering::SeqCst));
            Removal::Waiting(Arc::new(Users::new()))
        }
    }
    let bus = DriverCore::new().add_bus(Stage);
    let stubborn = Arc::new(Stubborn("s".into(), AtomicUsize::new(0)));
    let driver = bus.add_driver(stubborn.clone()).expect("the name is free");
    let dev = device(&bus, "s");
    bus.unbind(&driver, &dev).expect("it is bound").wait();
    assert_eq!(stubborn.1.load(Ordering::SeqCst), 100);
    assert_eq!(count(&dev.description().rights), 0);
}

#[test]
fn a_removed_device_is_let_be() {
    let bus = DriverCore::new().add_bus(Stage);
    bus.add_driver(taker("k")).expect("the name is free");
    let dev = device(&bus, "k");
    for _ in 0..2 {
        dev.remove().wait();
        assert_eq!((count(&dev.description().removed), count(&dev.description().rights)), (1, 0));
    }
    let driver = bus.driver("k").expect("it is registered");
    assert_eq!(bus.bind(&driver, &dev).expect_err("it is gone").errno(), Errno::ENODEV);
}
