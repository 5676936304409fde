//! The machine under every design: the driver core of `device-model`, with a bus, drivers and devices.
//!
//! Nothing else in the explorer but `probing` names the driver core's interface.

use std::sync::Arc;

use device_model::platform::{PlatformBus, PlatformDevice};
use device_model::sync::{UserGuard, Users};
use device_model::{
    AnyDriver, Bound, BusHandle, DeviceSpec, DmaConfigure, DmaDevice, DriverCore, Errno, ProbeError, Removal,
};

use crate::design::Kind;
use crate::questions::DEVICES;
use crate::stage;

/// A device as a design sees it.
pub(crate) type Prepared<'a, B> = DmaDevice<'a, PlatformDevice, <B as Binding>::Slot>;

/// What a design does while a driver binds.
///
/// Called with the device lock held. What [`configure`](Self::configure) returns is dropped with the device lock held,
/// once the driver has left or its probe has failed: there `dma_cleanup` and the end of `dev->driver` belong.
pub(crate) trait Binding: Send + Sync + 'static {
    /// What it keeps for each device.
    type Slot: Default + Send + Sync + 'static;

    /// A driver that is being bound, or is.
    type Bound: Send + Sync + 'static;

    fn device_added(&self, _dev: Prepared<'_, Self>) {}

    fn device_removed(&self, _dev: Prepared<'_, Self>) {}

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
    fn configure(&self, dev: Prepared<'_, Self>, device: &'static str, driver: Kind)
    -> Result<Self::Bound, ProbeError>;
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

impl<B: Binding> DmaConfigure<PlatformDevice> for Watched<B> {
    type Slot = B::Slot;
    type Use = B::Bound;
    type Error = ProbeError;

    fn device_added(&self, dev: Prepared<'_, B>) {
        self.0.device_added(dev);
    }

    fn device_removed(&self, dev: Prepared<'_, B>) {
        self.0.device_removed(dev);
    }

    fn dma_configure(&self, _dev: Prepared<'_, B>) -> Result<(), ProbeError> {
        Ok(())
    }

    fn use_default_domain(&self, dev: Prepared<'_, B>, driver: &Arc<str>) -> Result<B::Bound, ProbeError> {
        let device = known(dev.name());
        let driver = Kind::named(driver).ok_or(ProbeError::errno_only(Errno::ENODEV))?;
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

struct Named {
    kind: Kind,
    name: Arc<str>,
    ids: Vec<Arc<str>>,
}

type Bus<B> = PlatformBus<Watched<B>>;

impl<B: Binding> AnyDriver<Bus<B>> for Named {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn ids(&self) -> &[Arc<str>] {
        &self.ids
    }

    /// Every design hears of every driver, and judges by its [`Kind`].
    fn driver_managed_dma(&self) -> bool {
        false
    }

    fn probe(&self, dev: &mut Bound<'_, Bus<B>>) -> Result<(), ProbeError> {
        let device = dev.device().name();
        let _lock = holding(device);
        if self.kind.fails() {
            stage::step(format!("{} fails to probe {device}", self.name));
            return Err(ProbeError::errno_only(Errno::EIO));
        }
        stage::step(format!("{} is bound to {device}", self.name));
        if self.kind.manages_dma() {
            dev.manage(Arc::new(Users::new()));
        }
        Ok(())
    }

    fn remove(&self, dev: &mut Bound<'_, Bus<B>>, _attempt: u32) -> Removal {
        let device = dev.device().name().clone();
        let _lock = holding(&device);
        if let Some(users) = dev.resource::<Arc<Users>>().cloned() {
            users.close();
            if users.inside() > 0 {
                stage::step(format!("{} waits for the user of {device}", self.name));
                return Removal::Waiting(users);
            }
        }
        stage::step(format!("{} leaves {device}", self.name));
        Removal::Done
    }
}

/// A bus with its drivers and devices. Clones are the same.
pub(crate) struct Machine<B: Binding>(BusHandle<Bus<B>>);

impl<B: Binding> Clone for Machine<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Binding> Machine<B> {
    /// A bus with all drivers registered and no device.
    pub(crate) fn new(binding: B) -> Self {
        let bus = DriverCore::new().add_bus(PlatformBus::new(Watched(binding)));
        bus.set_drivers_autoprobe(false);
        for kind in Kind::ALL {
            let driver = Named { kind, name: kind.name().into(), ids: DEVICES.map(Into::into).into() };
            stage::must(bus.add_driver(Arc::new(driver)).is_ok(), "a driver can be registered");
        }
        Self(bus)
    }

    /// Adds a device to the bus.
    pub(crate) fn plug(&self, device: &'static str) -> bool {
        self.0.add_device(DeviceSpec::new(device, PlatformDevice::default())).is_ok()
    }

    /// What the design keeps for a device.
    pub(crate) fn slot<R>(&self, device: &'static str, look: impl FnOnce(&B::Slot) -> R) -> Option<R> {
        Some(look(self.0.device(device)?.dma_slot()))
    }

    /// Removes a device, once its users have left.
    pub(crate) fn unplug(&self, device: &'static str) {
        if let Some(device) = self.0.device(device) {
            device.remove().wait();
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
        self.0.sysfs().bind(driver.name(), device).is_ok()
    }

    pub(crate) fn unbind(&self, driver: Kind, device: &'static str) {
        if let Ok(unbind) = self.0.sysfs().unbind(driver.name(), device) {
            let _lock = holding(device);
            stage::awaits(format!("user to close {device}"));
            unbind.wait();
            stage::got();
        }
    }

    pub(crate) fn unload(&self, driver: Kind) {
        if let Some(driver) = self.0.driver(driver.name()) {
            self.0.remove_driver(&driver).wait();
        }
    }

    pub(crate) fn open(&self, device: &'static str) -> Option<UserGuard> {
        self.0.device(device)?.lock().resource::<Arc<Users>>()?.enter()
    }
}
