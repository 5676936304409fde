//! Handles of a bus.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

use crate::any_device::AnyDevice;
use crate::binding::{self, ProbeFailure, SearchError};
use crate::bus::{Bus, DmaErrorOf};
use crate::device::{Device, DeviceSpec, Life};
use crate::device_id::DeviceId;
use crate::dma::{DmaConfigure, DmaError};
use crate::errno::Errno;
use crate::notifier::{BusEvent, Notifier, Subscription};
use crate::registration::DriverHandle;
use crate::registry::BusShared;
use crate::sync::Users;
use crate::sync::atomic::Ordering;
use crate::unbind::{self, Unbind};

/// A bus of a core, with its devices and drivers. Clones are the same bus.
///
/// Dropping the last handle closes the bus: its devices are removed, the youngest first, and the notifiers are called.
/// The [`remove`](crate::Driver::remove) of each bound driver is called once, without waiting for users, and the driver
/// is unbound whatever it returns. No right to DMA outlives the handle, except for a device whose lock another thread
/// holds at that moment: that thread unbinds the driver when it unlocks.
///
/// A driver that keeps a handle of its own bus keeps the bus open; use [`downgrade`](Self::downgrade).
pub struct BusHandle<B: Bus>(Arc<Keeper<B>>);

/// Closes the bus when the last handle goes.
struct Keeper<B: Bus>(Arc<BusShared<B>>);

impl<B: Bus> Drop for Keeper<B> {
    fn drop(&mut self) {
        let _clear = scopeguard::guard(&self.0, |bus| {
            bus.core.close_bus(bus);
            bus.clear();
        });
        close_before(&self.0, None);
    }
}

/// Closes the devices that came before this one, the youngest first; all of them, even if a callback unwinds.
fn close_before<B: Bus>(bus: &Arc<BusShared<B>>, id: Option<DeviceId>) {
    let mut at = scopeguard::guard(id, |id| close_before(bus, id));
    while let Some(dev) = bus.device_before(*at) {
        *at = Some(dev.id());
        unbind::close(&dev);
    }
    scopeguard::ScopeGuard::into_inner(at);
}

/// A handle that does not keep the bus open.
pub struct WeakBusHandle<B: Bus>(Weak<Keeper<B>>);

impl<B: Bus> Clone for BusHandle<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Bus> Clone for WeakBusHandle<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Bus> WeakBusHandle<B> {
    /// Returns a handle, or `None` when the bus has been closed.
    pub fn upgrade(&self) -> Option<BusHandle<B>> {
        self.0.upgrade().map(BusHandle)
    }
}

impl<B: Bus> fmt::Debug for WeakBusHandle<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakBusHandle")
    }
}

impl<B: Bus> BusHandle<B> {
    pub(crate) fn new(bus: Arc<BusShared<B>>) -> Self {
        Self(Arc::new(Keeper(bus)))
    }

    pub(crate) fn shared(&self) -> &Arc<BusShared<B>> {
        &self.0.0
    }

    /// Returns a handle that does not keep the bus open, for drivers and notifiers of the bus itself.
    pub fn downgrade(&self) -> WeakBusHandle<B> {
        WeakBusHandle(Arc::downgrade(&self.0))
    }

    /// Returns the bus.
    pub fn bus(&self) -> &B {
        &self.shared().bus
    }

    /// Returns the bus's name.
    pub fn name(&self) -> &str {
        self.bus().name()
    }

    /// Returns the device of this name.
    pub fn device(&self, name: &str) -> Option<Arc<Device<B>>> {
        self.shared().device(name)
    }

    /// Returns all devices, in the order in which they were added.
    pub fn devices(&self) -> Vec<Arc<Device<B>>> {
        self.shared().devices()
    }

    /// Returns the driver of this name; it may be [leaving](DriverHandle::is_leaving).
    pub fn driver(&self, name: &str) -> Option<DriverHandle<B>> {
        self.shared().driver(name).map(DriverHandle)
    }

    /// Returns all drivers in the order of registration, which is the order in which they are tried for a device.
    /// Includes those that are [leaving](DriverHandle::is_leaving).
    pub fn drivers(&self) -> Vec<DriverHandle<B>> {
        self.shared().drivers().into_iter().map(DriverHandle).collect()
    }

    /// Calls `notifier` for every event of this bus until the returned value is dropped. A call in progress still
    /// completes then. Allocates for each device.
    pub fn subscribe(&self, notifier: impl Notifier<B>) -> Subscription<B> {
        self.shared().subscribe(Arc::new(notifier))
    }

    /// Sets whether adding devices and drivers binds them, as `drivers_autoprobe` in sysfs does; enabled at first.
    /// [`bind`](Self::bind) and [`drivers_probe`](Self::drivers_probe) work in either case.
    pub fn set_drivers_autoprobe(&self, autoprobe: bool) {
        self.shared().autoprobe.store(autoprobe, Ordering::Relaxed);
    }

    /// Returns whether adding devices and drivers binds them.
    pub fn drivers_autoprobe(&self) -> bool {
        self.shared().autoprobes()
    }

    /// Adds a device: puts it on the bus, calls [`DmaConfigure`](crate::DmaConfigure) and the notifiers, then tries
    /// drivers. Succeeds even if no driver binds. Takes the device lock, and no lock of another device while the
    /// parent's is held; call it with no device lock held but the parent's. A driver that adds devices from a callback
    /// puts them below its own.
    ///
    /// # Errors
    /// Fails if the name is taken, or the parent is being removed. Nothing has changed then.
    pub fn add_device(&self, spec: DeviceSpec<B::Device>) -> Result<Arc<Device<B>>, AddDeviceError> {
        let bus = self.shared();
        let dev = Device::new(bus.core.next_device_id(), bus, spec);
        let turn = dev.take_turn();
        if !bus.remember(&dev) {
            return Err(AddDeviceError::NameTaken { name: dev.name().clone() });
        }
        if let Some(parent) = dev.parent() {
            let any: Arc<dyn AnyDevice> = dev.clone();
            if !parent.adopt(dev.id(), Arc::downgrade(&any)) {
                bus.forget(&dev);
                return Err(AddDeviceError::ParentGone { name: dev.name().clone(), parent: parent.name().clone() });
            }
        }
        bus.renew_notifiers_of(&dev);
        let take_back = scopeguard::guard((), |()| unbind::take_back(&dev));
        bus.bus.dma().device_added(dev.dma_device());
        dev.notify(&BusEvent::Added(&dev));
        scopeguard::ScopeGuard::into_inner(take_back);
        {
            let mut guard = dev.raw_lock();
            if guard.state().life == Life::Arriving {
                guard.state_mut().life = Life::Ready;
            }
        }
        drop(turn);
        if bus.autoprobes() {
            binding::search_initially(&mut dev.raw_lock());
        }
        bus.core.deferral.settle(&*dev);
        Ok(dev)
    }

    /// Registers a driver and tries it on every device that it matches. Failures to bind do not fail the registration.
    /// Takes the locks of these devices one after the other, and may wait for probes in progress; skips a device whose
    /// driver waits for a user.
    ///
    /// # Errors
    /// Fails if a driver of that name is registered, or is still being unregistered.
    pub fn add_driver(&self, driver: Arc<B::Driver>) -> Result<DriverHandle<B>, AddDriverError> {
        let driver = self.shared().register(driver).map_err(|name| AddDriverError { name })?;
        if self.shared().autoprobes() {
            binding::try_on_all(&driver);
        }
        Ok(DriverHandle(driver))
    }

    /// Unregisters a driver: it binds no device any more, and is unbound from its devices, the last bound first; then
    /// its name is free. Nothing happens until the returned value is driven. An unregistration whose [`Unbind`] was
    /// dropped is continued by another call.
    pub fn remove_driver(&self, driver: &DriverHandle<B>) -> Unbind {
        Unbind::of_driver(&driver.0)
    }

    /// Binds `driver` to `dev`, if the driver matches, regardless of autoprobe. A deferred probe is not repeated later.
    /// Waits for the device lock, and for the users of a driver that is leaving.
    ///
    /// # Errors
    /// Fails if the driver does not match or is being unregistered, the device has a driver or is being removed, or the
    /// probe is refused, deferred or fails. The device is unchanged.
    pub fn bind(&self, driver: &DriverHandle<B>, dev: &Arc<Device<B>>) -> Result<(), BindError<DmaErrorOf<B>>> {
        self.same_bus(driver, dev)?;
        self.shared().bind(&driver.0, dev).map_err(|refused| BindError::of(driver, dev, refused))
    }

    /// Binds as [`bind`](Self::bind) does, but without waiting for the users of a driver that is leaving.
    ///
    /// # Errors
    /// Returns the users of the driver that is leaving; nothing was done. The inner error is that of [`bind`](Self::bind).
    pub fn try_bind(
        &self,
        driver: &DriverHandle<B>,
        dev: &Arc<Device<B>>,
    ) -> Result<Result<(), BindError<DmaErrorOf<B>>>, Arc<Users>> {
        if let Err(error) = self.same_bus(driver, dev) {
            return Ok(Err(error));
        }
        let result = self.shared().try_bind(&driver.0, dev)?;
        Ok(result.map_err(|refused| BindError::of(driver, dev, refused)))
    }

    fn same_bus(&self, driver: &DriverHandle<B>, dev: &Arc<Device<B>>) -> Result<(), BindError<DmaErrorOf<B>>> {
        if self.has(driver, dev) {
            return Ok(());
        }
        Err(BindError::OtherBus { device: dev.name().clone(), driver: driver.name().clone() })
    }

    /// Unbinds `driver` from `dev`. Nothing happens until the returned value is driven.
    ///
    /// # Errors
    /// Fails if another driver or none is bound.
    pub fn unbind(&self, driver: &DriverHandle<B>, dev: &Arc<Device<B>>) -> Result<Unbind, UnbindError> {
        // D49: a hint. That the driver is still this one is seen again under the lock.
        if self.has(driver, dev) && dev.shows(driver.name()) && !driver.0.is_gone() {
            return Ok(Unbind::of_binding(dev, &driver.0));
        }
        Err(UnbindError::NotBound { device: dev.name().clone(), driver: driver.name().clone() })
    }

    /// Looks for a driver for `dev`, whatever autoprobe says. A device that has one, or for which none fits, is let be.
    /// Waits for the device lock.
    ///
    /// # Errors
    /// The core refused a driver that matches, or a match could not be told.
    pub fn drivers_probe(&self, dev: &Arc<Device<B>>) -> Result<(), SearchError<DmaErrorOf<B>>> {
        // Dt11.2.
        if dev.driver_field().is_some() {
            return Ok(());
        }
        let result = binding::search(&mut dev.lock());
        self.shared().core.deferral.settle(&**dev);
        result
    }

    fn has(&self, driver: &DriverHandle<B>, dev: &Device<B>) -> bool {
        Arc::ptr_eq(&driver.0.bus, self.shared()) && Arc::ptr_eq(dev.bus(), self.shared())
    }
}

impl<B: Bus> fmt::Debug for BusHandle<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BusHandle({})", self.name())
    }
}

/// Why a device was not added.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddDeviceError {
    /// A device of that name is on the bus.
    #[error("a device called {name} is on the bus already")]
    NameTaken {
        /// The name.
        name: Arc<str>,
    },
    /// The device that it was to sit below is being removed.
    #[error("{parent}, which {name} was to sit below, is being removed")]
    ParentGone {
        /// The device.
        name: Arc<str>,
        /// Its parent.
        parent: Arc<str>,
    },
}

impl AddDeviceError {
    /// Returns `EEXIST` for a name taken, `ENODEV` without a parent.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NameTaken { .. } => Errno::EEXIST,
            Self::ParentGone { .. } => Errno::ENODEV,
        }
    }
}

/// A driver of that name is registered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a driver called {name} is registered already")]
pub struct AddDriverError {
    /// The name.
    pub name: Arc<str>,
}

impl AddDriverError {
    /// Returns `EBUSY`.
    pub const fn errno(&self) -> Errno {
        Errno::EBUSY
    }
}

/// Why a driver was not bound; `E` is why DMA was refused.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError<E: DmaError> {
    /// The driver or the device is of another bus.
    #[error("{driver} and {device} are not of one bus")]
    OtherBus {
        /// The device.
        device: Arc<str>,
        /// The driver.
        driver: Arc<str>,
    },
    /// The driver does not match the device.
    #[error("{driver} does not match {device}")]
    NoMatch {
        /// The device.
        device: Arc<str>,
        /// The driver.
        driver: Arc<str>,
    },
    /// The driver matches, but was not bound.
    #[error("cannot bind {driver} to {device}")]
    Refused {
        /// The device.
        device: Arc<str>,
        /// The driver.
        driver: Arc<str>,
        /// Why.
        #[source]
        cause: ProbeFailure<E>,
    },
}

impl<E: DmaError> BindError<E> {
    /// `None` for a driver that does not match.
    fn of<B: Bus>(driver: &DriverHandle<B>, dev: &Device<B>, refused: Option<ProbeFailure<E>>) -> Self {
        let (device, driver) = (dev.name().clone(), driver.name().clone());
        match refused {
            None => Self::NoMatch { device, driver },
            Some(cause) => Self::Refused { device, driver, cause },
        }
    }

    /// Returns the number that the write to `bind` of sysfs gives.
    pub fn errno(&self) -> Errno {
        match self {
            Self::OtherBus { .. } | Self::NoMatch { .. } => Errno::ENODEV,
            Self::Refused { cause, .. } => cause.errno(),
        }
    }
}

/// Why nothing was unbound.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnbindError {
    /// That driver is not bound to the device.
    #[error("{device} is not bound to {driver}")]
    NotBound {
        /// The device.
        device: Arc<str>,
        /// The driver.
        driver: Arc<str>,
    },
}

impl UnbindError {
    /// Returns `ENODEV`.
    pub const fn errno(&self) -> Errno {
        Errno::ENODEV
    }
}
