//! A driver core that probes by itself: a driver for `A` that waits until `B` has its driver, and the driver of `B`.

use std::sync::Arc;

use device_model::platform::{PlatformBus, PlatformDevice};
use device_model::sync::atomic::{AtomicBool, Ordering};
use device_model::{
    Awaits, BoundTo, BusHandle, DeviceSpec, DmaApi, Driver, DriverCore, ProbeError, ProbeHold, Unprotected,
};

use crate::design::{A, B};
use crate::stage;

type Bus = PlatformBus<Unprotected>;

struct Prober {
    name: Arc<str>,
    ids: [Arc<str>; 1],
    part: Part,
}

enum Part {
    /// Makes what the other waits for.
    Supplier(Arc<AtomicBool>),
    Waiter(Arc<AtomicBool>),
}

impl Driver<Bus> for Prober {
    type Dma = DmaApi;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn ids(&self) -> &[Arc<str>] {
        &self.ids
    }

    fn probe(&self, dev: &mut BoundTo<'_, Bus, DmaApi>) -> Result<(), ProbeError> {
        let device = dev.device().name();
        match &self.part {
            Part::Supplier(there) => there.store(true, Ordering::SeqCst),
            Part::Waiter(there) if !there.load(Ordering::SeqCst) => {
                stage::step(format!("{} defers its probe of {device}", self.name));
                return Err(ProbeError::Deferred(Awaits::Anything));
            }
            Part::Waiter(_) => {}
        }
        stage::step(format!("{} is bound to {device}", self.name));
        Ok(())
    }
}

/// The core and its bus. Clones are the same.
#[derive(Clone)]
pub(crate) struct Probing {
    core: DriverCore,
    bus: BusHandle<Bus>,
}

impl Probing {
    /// Without a device.
    pub(crate) fn new() -> Self {
        let core = DriverCore::new();
        let bus = core.add_bus(PlatformBus::new(Unprotected));
        let there = Arc::new(AtomicBool::new(false));
        let waiter = Prober { name: "waiter".into(), ids: [A.into()], part: Part::Waiter(there.clone()) };
        let supplier = Prober { name: "supplier".into(), ids: [B.into()], part: Part::Supplier(there) };
        for prober in [waiter, supplier] {
            stage::must(bus.add_driver(Arc::new(prober)).is_ok(), "a driver can be registered");
        }
        Self { core, bus }
    }

    /// With both devices, neither of them probed yet.
    pub(crate) fn plugged() -> Self {
        let probing = Self::new();
        probing.bus.set_drivers_autoprobe(false);
        stage::must(probing.plug(A) && probing.plug(B), "a device can be added");
        probing.bus.set_drivers_autoprobe(true);
        probing
    }

    /// Adds a device; its driver is probed.
    pub(crate) fn plug(&self, device: &'static str) -> bool {
        stage::step(format!("adds {device}"));
        self.bus.add_device(DeviceSpec::new(device, PlatformDevice::default())).is_ok()
    }

    /// Probes the driver of a device.
    pub(crate) fn probe(&self, device: &str) {
        if let Some(device) = self.bus.device(device) {
            // A deferral is no failure here.
            let _ = self.bus.drivers_probe(&device);
        }
    }

    /// Repeats what is due and was left to the next call.
    pub(crate) fn repeat(&self) {
        self.core.repeat_probes();
    }

    pub(crate) fn is_bound(&self, device: &str) -> bool {
        self.bus.device(device).is_some_and(|device| device.lock().is_bound())
    }

    pub(crate) fn hold_probes(&self) -> ProbeHold {
        self.core.hold_probes()
    }

    pub(crate) fn stop_probing(&self) {
        self.bus.set_drivers_autoprobe(false);
    }
}
