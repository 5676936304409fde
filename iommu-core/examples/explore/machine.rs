//! The machine under every design: the driver core of `device-model`, with a bus, drivers and devices.
//!
//! Nothing else in the explorer names the driver core's interface.

use std::sync::Arc;

use device_model::platform::{PlatformBus, PlatformDriver};
use device_model::sync::{UserGuard, Users};
use device_model::{
    Autoprobe, BusHandle, Device, DeviceGuard, DeviceSpec, DmaApi, DmaConfigure, DmaUse, Driver, DriverCore, Errno,
    ProbeError, Removal,
};

use crate::design::Kind;
use crate::questions::DEVICES;
use crate::stage;

/// What a design does while a driver binds.
///
/// Called with the device lock held. What [`configure`](Self::configure) returns is dropped with the device lock held,
/// once the driver has left or its probe has failed: there `dma_cleanup` and the end of `dev->driver` belong.
pub(crate) trait Binding: Send + Sync + 'static {
    /// `dev->driver` is set.
    fn driver_set(&self, _device: &'static str, _driver: Kind) {}

    /// The bind has failed before the driver could be probed: `dev->driver` is cleared.
    fn driver_cleared(&self, device: &'static str) {
        clears_driver(device);
    }

    /// The device is prepared for DMA (`dma_configure`).
    ///
    /// # Errors
    /// The driver may not do DMA.
    fn configure(&self, dev: &DeviceGuard<'_>, device: &'static str, driver: Kind) -> Result<DmaUse, ProbeError>;
}

/// Tells that `dev->driver` is no longer set.
pub(crate) fn clears_driver(device: &str) {
    stage::step(format!("{device}.driver = none"));
}

/// The running thread holds the lock of this device; see [`stage::holding`].
pub(crate) fn holding(device: &str) -> stage::Holding {
    stage::holding(format!("lock of {device}"))
}

struct Watched<B>(B);

impl<B: Binding> DmaConfigure for Watched<B> {
    fn dma_configure(&self, dev: &DeviceGuard<'_>, _api: DmaApi) -> Result<DmaUse, ProbeError> {
        let device = known(dev.device().name());
        let driver = dev.driver().and_then(|driver| Kind::named(driver.name()));
        let Some(driver) = driver else { return Err(ProbeError::errno_only(Errno::ENODEV)) };
        let _lock = holding(device);
        self.0.driver_set(device, driver);
        stage::step(format!("{device}.driver = {}", driver.name()));
        if driver == Kind::Unready {
            stage::step(format!("{device} cannot be prepared for DMA: the bind fails"));
            self.0.driver_cleared(device);
            return Err(ProbeError::errno_only(Errno::EIO));
        }
        self.0.configure(dev, device, driver).inspect_err(|_| self.0.driver_cleared(device))
    }
}

/// The names of devices live as long as the program, as the timeline wants them.
fn known(device: &str) -> &'static str {
    DEVICES.into_iter().find(|name| *name == device).unwrap_or("another device")
}

struct Named(Kind, Arc<str>);

impl Driver for Named {
    fn name(&self) -> &Arc<str> {
        &self.1
    }

    fn probe(&self, dev: &mut DeviceGuard<'_>) -> Result<(), ProbeError> {
        let device = dev.device().name();
        let _lock = holding(device);
        if self.0.fails() {
            stage::step(format!("{} fails to probe {device}", self.1));
            return Err(ProbeError::errno_only(Errno::EIO));
        }
        stage::step(format!("{} is bound to {device}", self.1));
        if self.0.manages_dma() {
            dev.manage(Arc::new(Users::new()));
        }
        Ok(())
    }

    fn remove(&self, dev: &mut DeviceGuard<'_>, _attempt: u32) -> Removal {
        let device = dev.device().name().clone();
        let _lock = holding(&device);
        if let Some(users) = dev.resource::<Arc<Users>>().cloned() {
            users.close();
            if users.inside() > 0 {
                stage::step(format!("{} waits for the user of {device}", self.1));
                return Removal::Waiting(users);
            }
        }
        stage::step(format!("{} leaves {device}", self.1));
        Removal::Done
    }
}

/// A bus with its drivers and devices. Clones are the same.
#[derive(Clone)]
pub(crate) struct Machine(BusHandle);

impl Machine {
    /// A bus with all drivers registered and no device.
    pub(crate) fn new(binding: impl Binding) -> Self {
        let bus = DriverCore::new().add_bus(PlatformBus::new(Arc::new(Watched(binding))));
        bus.set_autoprobe(Autoprobe::Off);
        for kind in Kind::ALL {
            let api = if kind.manages_dma() { DmaApi::Managed } else { DmaApi::Kernel };
            let driver = PlatformDriver::new(Arc::new(Named(kind, kind.name().into())), api);
            let added = bus.add_driver(Arc::new(driver.with_ids(DEVICES)));
            stage::must(added.is_ok(), "a driver can be registered");
        }
        Self(bus)
    }

    pub(crate) fn bus(&self) -> &BusHandle {
        &self.0
    }

    /// Adds a device to the bus.
    pub(crate) fn plug(&self, device: &'static str) -> Option<Arc<Device>> {
        self.0.add_device(DeviceSpec::new(device)).ok()
    }

    /// Removes a device, once its users have left.
    pub(crate) fn unplug(&self, device: &'static str) {
        if let Some(device) = self.0.device(device) {
            self.0.remove_device(&device).wait();
        }
    }

    /// Whether the device has a driver; takes its lock.
    pub(crate) fn is_bound(&self, device: &'static str) -> bool {
        self.0.device(device).is_some_and(|device| device.lock().is_bound())
    }

    /// Does `work` with the lock of a device held.
    pub(crate) fn locked<R>(&self, device: &'static str, work: impl FnOnce() -> R) -> R {
        let Some(device) = self.0.device(device) else { return work() };
        stage::awaits(format!("lock of {}", device.name()));
        let _guard = device.lock();
        stage::got();
        let _lock = holding(device.name());
        work()
    }

    pub(crate) fn bind(&self, driver: Kind, device: &'static str) -> bool {
        self.0.bind(driver.name(), device).is_ok()
    }

    pub(crate) fn unbind(&self, driver: Kind, device: &'static str) {
        if let Ok(unbind) = self.0.unbind(driver.name(), device) {
            let _lock = holding(device);
            stage::awaits(format!("user to close {device}"));
            unbind.wait();
            stage::got();
        }
    }

    pub(crate) fn unload(&self, driver: Kind) {
        if let Some(unbind) = self.0.remove_driver(driver.name()) {
            unbind.wait();
        }
    }

    pub(crate) fn open(&self, device: &'static str) -> Option<UserGuard> {
        self.0.device(device)?.lock().resource::<Arc<Users>>()?.enter()
    }
}
