//! The platform bus: D21, Dt13.2.

use device_model::platform::{PlatformBus, PlatformDriver, PlatformKind};
use device_model::sync::{Arc, Mutex};
use device_model::{
    BusHandle, DeviceGuard, DeviceSpec, DmaApi, DmaConfigure, DmaUse, DriverCore, Errno, ProbeError, Unprotected,
};

use crate::rig::Rig;

/// Refuses whoever uses the kernel's DMA API, and writes down who asked.
#[derive(Clone, Default)]
struct Refusing(Arc<Mutex<Vec<String>>>);

impl DmaConfigure for Refusing {
    fn dma_configure(&self, dev: &DeviceGuard<'_>, api: DmaApi) -> Result<DmaUse, ProbeError> {
        self.0.lock().push(format!("{} {:?} {api:?}", dev.device().name(), dev.driver()));
        match api {
            DmaApi::Kernel => Err(ProbeError::errno_only(Errno::EBUSY)),
            DmaApi::Managed => Ok(DmaUse::unguarded()),
        }
    }
}

fn platform() -> (Rig, BusHandle) {
    let rig = Rig::new();
    let bus = DriverCore::new().add_bus(PlatformBus::new(Arc::new(Unprotected)));
    (rig, bus)
}

fn driver_of(bus: &BusHandle, device: &str) -> Option<String> {
    let dev = bus.device(device).expect("the device is there");
    dev.lock().driver().map(|driver| driver.name().to_string())
}

#[test]
fn without_ids_the_name_decides() {
    let (rig, bus) = platform();
    bus.add_driver(Arc::new(PlatformDriver::new(Arc::new(rig.actor("serial8250")), DmaApi::Kernel))).expect("free");
    for (name, driver) in [("serial8250", true), ("serial8250.0", true), ("serial8250.0.1", false), ("serial", false)] {
        bus.add_device(DeviceSpec::new(name)).expect("the name is free");
        assert_eq!(driver_of(&bus, name).is_some(), driver, "{name}");
    }
}

#[test]
fn with_ids_only_they_decide() {
    // D21: if the driver has an id table the result is final, even where the names are equal.
    let (rig, bus) = platform();
    let driver = PlatformDriver::new(Arc::new(rig.actor("uart")), DmaApi::Kernel).with_ids(["arm,pl011", "ns16550"]);
    bus.add_driver(Arc::new(driver)).expect("the name is free");
    let kind = |name: &str, kind: &str| DeviceSpec::new(name).with(PlatformKind(kind.into()));
    for (spec, fits) in [
        (kind("9000000.serial", "arm,pl011"), true),
        (kind("ns16550.0", "other"), false),
        (DeviceSpec::new("ns16550.1"), true),
        (DeviceSpec::new("uart"), false),
    ] {
        let dev = bus.add_device(spec).expect("the name is free");
        assert_eq!(driver_of(&bus, dev.name()).is_some(), fits, "{dev:?}");
    }
}

#[test]
fn the_override_comes_first() {
    // D21, D16.
    let (rig, bus) = platform();
    let plain = |name: &str| Arc::new(PlatformDriver::new(Arc::new(rig.actor(name)), DmaApi::Kernel));
    let dev = bus.add_device(DeviceSpec::new("uart.0")).expect("the name is free");
    dev.set_driver_override(Some("vfio-platform"));
    bus.add_driver(plain("uart")).expect("the name is free");
    assert_eq!(driver_of(&bus, "uart.0"), None);
    bus.add_driver(plain("vfio-platform")).expect("the name is free");
    assert_eq!(driver_of(&bus, "uart.0").as_deref(), Some("vfio-platform"));
    bus.unbind("vfio-platform", "uart.0").expect("it is bound").wait();
    rig.expect(&["probe uart.0 vfio-platform", "remove uart.0 vfio-platform"]);
}

#[test]
fn a_driver_of_another_kind_matches_nothing() {
    let (rig, bus) = platform();
    bus.add_driver(Arc::new(rig.actor("K"))).expect("the name is free");
    bus.add_device(DeviceSpec::new("K")).expect("the name is free");
    assert_eq!(bus.bind("K", "K").expect_err("it is no platform driver").errno(), Errno::ENODEV);
}

#[test]
fn the_dma_hook_hears_how_the_driver_uses_dma() {
    // Dt13.2, D63.
    let rig = Rig::new();
    let hook = Refusing::default();
    let bus = DriverCore::new().add_bus(PlatformBus::new(Arc::new(hook.clone())));
    let typed = |name: &str, api| Arc::new(PlatformDriver::new(Arc::new(rig.actor(name)), api).with_ids(["uart"]));
    bus.add_driver(typed("kernel", DmaApi::Kernel)).expect("the name is free");
    bus.add_driver(typed("vfio", DmaApi::Managed)).expect("the name is free");
    bus.add_device(DeviceSpec::new("uart.0")).expect("the name is free");
    assert_eq!(bus.bind("kernel", "uart.0").expect_err("refused").errno(), Errno::EBUSY);
    bus.bind("vfio", "uart.0").expect("it manages its own");
    let asked = std::mem::take(&mut *hook.0.lock());
    assert_eq!(
        asked,
        [
            "uart.0 Some(Driver(\"kernel\")) Kernel",
            "uart.0 Some(Driver(\"kernel\")) Kernel",
            "uart.0 Some(Driver(\"vfio\")) Managed",
        ]
    );
}
