//! A bus, drivers, a notifier and a DMA hook that write down what happens to them.

use std::collections::BTreeSet;

use device_model::sync::{Arc, Mutex, UserGuard, Users};
use device_model::{
    AnyDriver, Awaits, Bound, Bus, BusEvent, BusHandle, DeviceSpec, DmaConfigure, DmaDevice, DriverCore, Errno, Match,
    Override, ProbeError, Removal, Subscription, Unbind,
};

/// What happened, in order.
#[derive(Clone, Default)]
pub(crate) struct Trace(Arc<Mutex<Vec<String>>>);

impl Trace {
    pub(crate) fn write(&self, line: String) {
        self.0.lock().push(line);
    }

    /// What happened since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }

    /// How often this happened since the last [`take`](Self::take).
    pub(crate) fn count(&self, line: &str) -> usize {
        self.0.lock().iter().filter(|other| *other == line).count()
    }
}

/// Writes a line when it is dropped.
pub(crate) struct Tombstone(Trace, String);

impl Tombstone {
    pub(crate) fn new(trace: &Trace, text: &str) -> Self {
        Self(trace.clone(), text.to_owned())
    }
}

impl Drop for Tombstone {
    fn drop(&mut self) {
        self.0.write(self.1.clone());
    }
}

pub(crate) type Device = device_model::Device<Stage>;

type ProbeScript = dyn Fn(&mut Bound<'_, Stage>) -> Result<(), ProbeError> + Send + Sync;
type RemoveScript = dyn Fn(&mut Bound<'_, Stage>, u32) -> Removal + Send + Sync;
type MatchScript = dyn Fn(&Device) -> Match + Send + Sync;

/// A driver that does what the test says.
pub(crate) struct Actor {
    name: Arc<str>,
    trace: Trace,
    fits: Box<MatchScript>,
    driver_managed_dma: bool,
    probe: Box<ProbeScript>,
    remove: Box<RemoveScript>,
}

impl Actor {
    pub(crate) fn fits(mut self, devices: &[&str]) -> Self {
        let devices: BTreeSet<String> = devices.iter().map(ToString::to_string).collect();
        self.fits = Box::new(move |dev| if devices.contains(&**dev.name()) { Match::Yes } else { Match::No });
        self
    }

    pub(crate) fn matching(mut self, fits: impl Fn(&Device) -> Match + Send + Sync + 'static) -> Self {
        self.fits = Box::new(fits);
        self
    }

    pub(crate) fn managed(mut self) -> Self {
        self.driver_managed_dma = true;
        self
    }

    pub(crate) fn probing(
        mut self,
        probe: impl Fn(&mut Bound<'_, Stage>) -> Result<(), ProbeError> + Send + Sync + 'static,
    ) -> Self {
        self.probe = Box::new(probe);
        self
    }

    pub(crate) fn failing(self, errno: Errno) -> Self {
        self.probing(move |_| Err(ProbeError::errno_only(errno)))
    }

    pub(crate) fn removing(
        mut self,
        remove: impl Fn(&mut Bound<'_, Stage>, u32) -> Removal + Send + Sync + 'static,
    ) -> Self {
        self.remove = Box::new(remove);
        self
    }

    /// Each device can be held open; the driver waits for whoever does.
    pub(crate) fn open_to_users(self) -> Self {
        self.probing(|dev| {
            dev.manage(Arc::new(Users::new()));
            Ok(())
        })
        .removing(|dev, _| match dev.resource::<Arc<Users>>() {
            None => Removal::Done,
            Some(users) => {
                users.close();
                if users.inside() == 0 { Removal::Done } else { Removal::Waiting(users.clone()) }
            }
        })
    }
}

impl AnyDriver<Stage> for Actor {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn ids(&self) -> &[()] {
        &[]
    }

    fn driver_managed_dma(&self) -> bool {
        self.driver_managed_dma
    }

    fn probe(&self, dev: &mut Bound<'_, Stage>) -> Result<(), ProbeError> {
        self.trace.write(format!("probe {} {}", dev.device().name(), self.name));
        (self.probe)(dev)
    }

    fn remove(&self, dev: &mut Bound<'_, Stage>, attempt: u32) -> Removal {
        let again = if attempt == 0 { String::new() } else { format!(" again {attempt}") };
        self.trace.write(format!("remove {} {}{again}", dev.device().name(), self.name));
        (self.remove)(dev, attempt)
    }
}

/// A driver of a stage says itself what it fits.
pub(crate) trait StageDriver: AnyDriver<Stage> {
    fn fits(&self, dev: &Device) -> Match;
}

impl StageDriver for Actor {
    fn fits(&self, dev: &Device) -> Match {
        (self.fits)(dev)
    }
}

/// A bus that asks the driver what it matches.
pub(crate) struct Stage {
    name: &'static str,
    dma: Dma,
}

impl Bus for Stage {
    type Device = ();
    type Id = ();
    type Driver = dyn StageDriver;
    type Dma = Dma;

    fn name(&self) -> &str {
        self.name
    }

    fn dma(&self) -> &Dma {
        &self.dma
    }

    fn matches(&self, dev: &Device, driver: &dyn StageDriver) -> Match {
        match dev.override_verdict(driver.name()) {
            Override::Demands => Match::Yes,
            Override::Excludes => Match::No,
            Override::Unset => driver.fits(dev),
        }
    }
}

/// Asks the test whether DMA is allowed.
#[derive(Clone)]
pub(crate) struct Dma {
    trace: Trace,
    answer: Arc<Mutex<Option<ProbeError>>>,
}

impl DmaConfigure<()> for Dma {
    type Slot = ();
    type Use = Tombstone;
    type Error = ProbeError;

    fn dma_configure(&self, dev: DmaDevice<'_, (), ()>) -> Result<(), ProbeError> {
        self.trace.write(format!("dma_configure {}", dev.name()));
        Ok(())
    }

    fn use_default_domain(&self, dev: DmaDevice<'_, (), ()>, driver: &Arc<str>) -> Result<Tombstone, ProbeError> {
        let name = dev.name();
        self.trace.write(format!("use {name} {driver}"));
        match self.answer.lock().clone() {
            Some(error) => Err(error),
            None => Ok(Tombstone(self.trace.clone(), format!("unuse {name}"))),
        }
    }
}

/// A core with one such bus.
pub(crate) struct Rig {
    pub(crate) core: DriverCore,
    pub(crate) bus: BusHandle<Stage>,
    pub(crate) trace: Trace,
    dma: Dma,
    subscriptions: Mutex<Vec<Subscription<Stage>>>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::of(DriverCore::new())
    }

    pub(crate) fn of(core: DriverCore) -> Self {
        let trace = Trace::default();
        let dma = Dma { trace: trace.clone(), answer: Arc::default() };
        let bus = core.add_bus(Stage { name: "stage", dma: dma.clone() });
        let rig = Self { core, bus, trace, dma, subscriptions: Mutex::default() };
        rig.listen(&rig.bus);
        rig
    }

    /// A further bus in the same core.
    pub(crate) fn another_bus(&self, name: &'static str) -> BusHandle<Stage> {
        let bus = self.core.add_bus(Stage { name, dma: self.dma.clone() });
        self.listen(&bus);
        bus
    }

    /// Drops the handle of the bus; the notifier stays.
    pub(crate) fn close(self) -> Vec<Subscription<Stage>> {
        drop(self.bus);
        std::mem::take(&mut *self.subscriptions.lock())
    }

    fn listen(&self, bus: &BusHandle<Stage>) {
        let trace = self.trace.clone();
        let subscription = bus.subscribe(move |event: &BusEvent<'_, Stage>| trace.write(line(event)));
        self.subscriptions.lock().push(subscription);
    }

    /// A driver that fits every device and takes it.
    pub(crate) fn actor(&self, name: &str) -> Actor {
        Actor {
            name: name.into(),
            trace: self.trace.clone(),
            fits: Box::new(|_| Match::Yes),
            driver_managed_dma: false,
            probe: Box::new(|_| Ok(())),
            remove: Box::new(|_, _| Removal::Done),
        }
    }

    pub(crate) fn driver(&self, actor: Actor) {
        self.bus.add_driver(Arc::new(actor)).expect("the name is free");
    }

    /// Unregisters the driver of this name.
    pub(crate) fn remove_driver(&self, name: &str) -> Option<Unbind> {
        self.bus.driver(name).map(|driver| self.bus.remove_driver(&driver))
    }

    pub(crate) fn device(&self, name: &str) -> Arc<Device> {
        self.bus.add_device(DeviceSpec::new(name, ())).expect("the name is free")
    }

    pub(crate) fn child(&self, name: &str, parent: &Arc<Device>) -> Arc<Device> {
        self.bus.add_device(DeviceSpec::new(name, ()).below(parent.clone())).expect("the name is free")
    }

    /// Every use from now on.
    pub(crate) fn refuse_dma(&self, error: Option<ProbeError>) {
        *self.dma.answer.lock() = error;
    }

    pub(crate) fn driver_of(&self, device: &str) -> Option<String> {
        let dev = self.bus.device(device).expect("the device is there");
        let guard = dev.lock();
        guard.driver_name().map(ToString::to_string)
    }

    /// Names of the devices that wait for something, sorted.
    pub(crate) fn deferred(&self) -> Vec<String> {
        let mut names: Vec<_> = self.core.deferred().iter().map(|dev| dev.name().to_string()).collect();
        names.sort();
        names
    }

    /// What happened since the last look is exactly this.
    #[track_caller]
    pub(crate) fn expect(&self, lines: &[&str]) {
        assert_eq!(self.trace.take(), lines);
    }
}

/// A user who holds the device open, which must be bound to a driver that is [`open_to_users`](Actor::open_to_users).
pub(crate) fn open(dev: &Arc<Device>) -> UserGuard {
    dev.lock().resource::<Arc<Users>>().expect("the driver is bound").enter().expect("the door is open")
}

pub(crate) fn supplier(name: &str) -> ProbeError {
    ProbeError::Deferred(Awaits::Supplier(name.into()))
}

pub(crate) fn anything() -> ProbeError {
    ProbeError::Deferred(Awaits::Anything)
}

fn line(event: &BusEvent<'_, Stage>) -> String {
    let (what, dev) = match event {
        BusEvent::Added(dev) => return format!("ADD {}", dev.name()),
        BusEvent::Deleting(dev) => return format!("DEL {}", dev.name()),
        BusEvent::Removed(dev) => return format!("REMOVED {}", dev.name()),
        BusEvent::Binding(dev) => ("BIND", dev),
        BusEvent::Bound(dev) => ("BOUND", dev),
        BusEvent::NotBound(dev) => ("NOT_BOUND", dev),
        BusEvent::Unbinding(dev) => ("UNBIND", dev),
        BusEvent::Unbound(dev) => ("UNBOUND", dev),
    };
    let driver = dev.driver_name().map_or("-", |name| name);
    format!("{what} {} {driver}", dev.device().name())
}
