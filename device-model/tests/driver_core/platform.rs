//! The platform bus: D21, Dt13.2.

use device_model::platform::{PlatformBus, PlatformDevice};
use device_model::sync::{Arc, Mutex};
use device_model::{
    BoundTo, BusHandle, DeviceSpec, DmaApi, DmaConfigure, DmaDevice, Driver, DriverCore, DriverDma, DriverManaged,
    Errno, ProbeError, Unprotected,
};

/// Takes every device.
struct Plain<D> {
    name: Arc<str>,
    ids: Vec<Arc<str>>,
    _dma: std::marker::PhantomData<fn() -> D>,
}

fn plain<D>(name: &str, ids: &[&str]) -> Arc<Plain<D>> {
    let ids = ids.iter().map(|id| Arc::from(*id)).collect();
    Arc::new(Plain { name: name.into(), ids, _dma: std::marker::PhantomData })
}

impl<G: DmaConfigure<PlatformDevice>, D: DriverDma> Driver<PlatformBus<G>> for Plain<D> {
    type Dma = D;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn ids(&self) -> &[Arc<str>] {
        &self.ids
    }

    fn probe(&self, _dev: &mut BoundTo<'_, PlatformBus<G>, D>) -> Result<(), ProbeError> {
        Ok(())
    }
}

/// Refuses whoever uses the DMA API, and writes down who asked.
#[derive(Clone, Default)]
struct Refusing(Arc<Mutex<Vec<String>>>);

impl DmaConfigure<PlatformDevice> for Refusing {
    type Slot = ();
    type Use = ();
    type Error = ProbeError;

    fn dma_configure(&self, dev: DmaDevice<'_, PlatformDevice, ()>) -> Result<(), ProbeError> {
        self.0.lock().push(format!("{} is configured", dev.name()));
        Ok(())
    }

    fn use_default_domain(&self, dev: DmaDevice<'_, PlatformDevice, ()>, driver: &Arc<str>) -> Result<(), ProbeError> {
        self.0.lock().push(format!("{} is used by {driver}", dev.name()));
        Err(ProbeError::errno_only(Errno::EBUSY))
    }
}

fn platform() -> BusHandle<PlatformBus<Unprotected>> {
    DriverCore::new().add_bus(PlatformBus::new(Unprotected))
}

fn device(name: &str) -> DeviceSpec<PlatformDevice> {
    DeviceSpec::new(name, PlatformDevice::default())
}

fn driver_of(bus: &BusHandle<PlatformBus<Unprotected>>, device: &str) -> Option<String> {
    let dev = bus.device(device).expect("the device is there");
    dev.lock().driver_name().map(ToString::to_string)
}

#[test]
fn without_ids_the_name_decides() {
    let bus = platform();
    bus.add_driver(plain::<DmaApi>("serial8250", &[])).expect("the name is free");
    for (name, driver) in [("serial8250", true), ("serial8250.0", true), ("serial8250.0.1", false), ("serial", false)] {
        bus.add_device(device(name)).expect("the name is free");
        assert_eq!(driver_of(&bus, name).is_some(), driver, "{name}");
    }
}

#[test]
fn with_ids_only_they_decide() {
    // D21: if the driver has an id table the result is final, even where the names are equal.
    let bus = platform();
    bus.add_driver(plain::<DmaApi>("uart", &["arm,pl011", "ns16550"])).expect("the name is free");
    let kind = |name: &str, kind: &str| DeviceSpec::new(name, PlatformDevice { kind: Some(kind.into()) });
    for (spec, fits) in [
        (kind("9000000.serial", "arm,pl011"), true),
        (kind("ns16550.0", "other"), false),
        (device("ns16550.1"), true),
        (device("uart"), false),
    ] {
        let dev = bus.add_device(spec).expect("the name is free");
        assert_eq!(driver_of(&bus, dev.name()).is_some(), fits, "{dev:?}");
    }
}

#[test]
fn the_override_comes_first() {
    // D21, D16.
    let bus = platform();
    let dev = bus.add_device(device("uart.0")).expect("the name is free");
    dev.set_driver_override(Some("vfio-platform"));
    bus.add_driver(plain::<DmaApi>("uart", &[])).expect("the name is free");
    assert_eq!(driver_of(&bus, "uart.0"), None);
    bus.add_driver(plain::<DriverManaged>("vfio-platform", &[])).expect("the name is free");
    assert_eq!(driver_of(&bus, "uart.0").as_deref(), Some("vfio-platform"));
    bus.sysfs().unbind("vfio-platform", "uart.0").expect("it is bound").wait();
    assert_eq!(driver_of(&bus, "uart.0"), None);
}

#[test]
fn whoever_guards_dma_is_asked_for_a_use_unless_the_driver_manages_its_own() {
    // Dt13.2, D63.
    let hook = Refusing::default();
    let bus = DriverCore::new().add_bus(PlatformBus::new(hook.clone()));
    bus.set_drivers_autoprobe(false);
    bus.add_driver(plain::<DmaApi>("kernel", &["uart"])).expect("the name is free");
    bus.add_driver(plain::<DriverManaged>("vfio", &["uart"])).expect("the name is free");
    bus.add_device(device("uart.0")).expect("the name is free");
    assert_eq!(bus.sysfs().bind("kernel", "uart.0").expect_err("refused").errno(), Errno::EBUSY);
    bus.sysfs().bind("vfio", "uart.0").expect("it manages its own");
    let asked = std::mem::take(&mut *hook.0.lock());
    assert_eq!(asked, ["uart.0 is configured", "uart.0 is used by kernel", "uart.0 is configured"]);
}
