//! A bus, drivers, a notifier and a DMA hook that write down what happens to them.

use std::any::Any;
use std::collections::BTreeSet;

use device_model::sync::{Arc, Mutex, UserGuard, Users};
use device_model::{
    Awaits, Bus, BusEvent, BusHandle, Device, DeviceGuard, DeviceSpec, DmaApi, DmaUse, Driver, DriverCore, Errno,
    Match, Override, ProbeError, Removal,
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

type ProbeScript = dyn Fn(&mut DeviceGuard<'_>) -> Result<(), ProbeError> + Send + Sync;
type RemoveScript = dyn Fn(&mut DeviceGuard<'_>, u32) -> Removal + Send + Sync;
type MatchScript = dyn Fn(&Device) -> Match + Send + Sync;

/// A driver that does what the test says.
pub(crate) struct Actor {
    name: Arc<str>,
    trace: Trace,
    fits: Box<MatchScript>,
    api: DmaApi,
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
        self.api = DmaApi::Managed;
        self
    }

    pub(crate) fn probing(
        mut self,
        probe: impl Fn(&mut DeviceGuard<'_>) -> Result<(), ProbeError> + Send + Sync + 'static,
    ) -> Self {
        self.probe = Box::new(probe);
        self
    }

    pub(crate) fn failing(self, errno: Errno) -> Self {
        self.probing(move |_| Err(ProbeError::errno_only(errno)))
    }

    pub(crate) fn removing(
        mut self,
        remove: impl Fn(&mut DeviceGuard<'_>, u32) -> Removal + Send + Sync + 'static,
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

impl Driver for Actor {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn probe(&self, dev: &mut DeviceGuard<'_>) -> Result<(), ProbeError> {
        self.trace.write(format!("probe {} {}", dev.device().name(), self.name));
        (self.probe)(dev)
    }

    fn remove(&self, dev: &mut DeviceGuard<'_>, attempt: u32) -> Removal {
        let again = if attempt == 0 { String::new() } else { format!(" again {attempt}") };
        self.trace.write(format!("remove {} {}{again}", dev.device().name(), self.name));
        (self.remove)(dev, attempt)
    }
}

/// A bus that asks the driver what it matches, and the test whether DMA is allowed.
struct Stage {
    name: &'static str,
    trace: Trace,
    dma: Arc<Mutex<Option<ProbeError>>>,
}

fn actor(driver: &dyn Driver) -> Option<&Actor> {
    (driver as &dyn Any).downcast_ref()
}

impl Bus for Stage {
    fn name(&self) -> &str {
        self.name
    }

    fn matches(&self, dev: &Device, driver: &dyn Driver) -> Match {
        match dev.override_verdict(driver.name()) {
            Override::Demands => Match::Yes,
            Override::Excludes => Match::No,
            Override::Unset => actor(driver).map_or(Match::No, |actor| (actor.fits)(dev)),
        }
    }

    fn dma_configure(&self, dev: &DeviceGuard<'_>) -> Result<DmaUse, ProbeError> {
        // D32: the driver is there to be asked for its DmaApi.
        let driver = dev.driver().expect("dev->driver is set before dma_configure");
        let name = dev.device().name();
        if actor(&**driver).is_some_and(|actor| actor.api == DmaApi::Managed) {
            self.trace.write(format!("dma_configure {name} {} managed", driver.name()));
            return Ok(DmaUse::unguarded());
        }
        self.trace.write(format!("dma_configure {name} {}", driver.name()));
        match self.dma.lock().clone() {
            Some(error) => Err(error),
            None => Ok(DmaUse::holding(Tombstone(self.trace.clone(), format!("dma_cleanup {name}")))),
        }
    }
}

/// A core with one such bus.
pub(crate) struct Rig {
    pub(crate) core: DriverCore,
    pub(crate) bus: BusHandle,
    pub(crate) trace: Trace,
    dma: Arc<Mutex<Option<ProbeError>>>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let (core, trace, dma) = (DriverCore::new(), Trace::default(), Arc::default());
        let bus = Self::stage(&core, "stage", &trace, &dma);
        Self { core, bus, trace, dma }
    }

    /// A further bus in the same core.
    pub(crate) fn another_bus(&self, name: &'static str) -> BusHandle {
        Self::stage(&self.core, name, &self.trace, &self.dma)
    }

    fn stage(core: &DriverCore, name: &'static str, trace: &Trace, dma: &Arc<Mutex<Option<ProbeError>>>) -> BusHandle {
        let bus = core.add_bus(Stage { name, trace: trace.clone(), dma: dma.clone() });
        let trace = trace.clone();
        bus.subscribe(move |event: &BusEvent<'_>| trace.write(line(event)));
        bus
    }

    /// A driver that fits every device and takes it.
    pub(crate) fn actor(&self, name: &str) -> Actor {
        Actor {
            name: name.into(),
            trace: self.trace.clone(),
            fits: Box::new(|_| Match::Yes),
            api: DmaApi::Kernel,
            probe: Box::new(|_| Ok(())),
            remove: Box::new(|_, _| Removal::Done),
        }
    }

    pub(crate) fn driver(&self, actor: Actor) {
        self.bus.add_driver(Arc::new(actor)).expect("the name is free");
    }

    pub(crate) fn device(&self, name: &str) -> Arc<Device> {
        self.bus.add_device(DeviceSpec::new(name)).expect("the name is free")
    }

    pub(crate) fn child(&self, name: &str, parent: &Arc<Device>) -> Arc<Device> {
        self.bus.add_device(DeviceSpec::new(name).below(parent)).expect("the name is free")
    }

    /// Every `dma_configure` from now on.
    pub(crate) fn refuse_dma(&self, error: Option<ProbeError>) {
        *self.dma.lock() = error;
    }

    pub(crate) fn tombstone(&self, text: &str) -> Tombstone {
        Tombstone::new(&self.trace, text)
    }

    pub(crate) fn driver_of(&self, device: &str) -> Option<String> {
        let dev = self.bus.device(device).expect("the device is there");
        let guard = dev.lock();
        guard.driver().map(|driver| driver.name().to_string())
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

fn line(event: &BusEvent<'_>) -> String {
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
    let driver = dev.driver().map_or("-", |driver| driver.name());
    format!("{what} {} {driver}", dev.device().name())
}
