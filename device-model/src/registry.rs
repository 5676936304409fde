//! The core, its buses, and what is registered on them.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

use crate::binding;
use crate::bus::Bus;
use crate::deferred::{Deferral, ProbeHold};
use crate::device::{Device, DeviceSpec, Life};
use crate::device_id::DeviceId;
use crate::driver::Driver;
use crate::errno::Errno;
use crate::notifier::{BusEvent, Notifier};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::unbind::Unbind;

/// The driver core: a value, of which a process may have many.
///
/// Clones are the same core. It lives for as long as one of them or of its buses does.
#[derive(Clone)]
pub struct DriverCore(pub(crate) Arc<CoreShared>);

pub(crate) struct CoreShared {
    next_device: AtomicU64,
    /// Leaf lock.
    buses: Mutex<Vec<Weak<BusShared>>>,
    pub(crate) deferral: Deferral,
}

impl Default for DriverCore {
    fn default() -> Self {
        Self::new()
    }
}

impl DriverCore {
    /// A core without buses.
    pub fn new() -> Self {
        Self(Arc::new(CoreShared {
            next_device: AtomicU64::new(1),
            buses: Mutex::new(Vec::new()),
            deferral: Deferral::new(),
        }))
    }

    /// Adds a bus, which lives for as long as one of its handles. With the last handle its devices and drivers go
    /// without ceremony: rights to DMA end, but no driver is asked to remove.
    pub fn add_bus(&self, bus: impl Bus + 'static) -> BusHandle {
        let shared = Arc::new(BusShared {
            core: self.0.clone(),
            bus: Box::new(bus),
            devices: Mutex::new(DeviceList::default()),
            drivers: Mutex::new(Arc::from([])),
            notifiers: Mutex::new(Arc::from([])),
            autoprobe: AtomicBool::new(true),
        });
        let mut buses = self.0.buses.lock();
        buses.retain(|bus| bus.strong_count() > 0);
        buses.push(Arc::downgrade(&shared));
        BusHandle(shared)
    }

    /// Lets every probe defer until the returned value is dropped, which repeats those that did (P1).
    pub fn hold_probes(&self) -> ProbeHold {
        ProbeHold::new(self.0.clone())
    }

    /// The devices that wait for a supplier, in no particular order.
    pub fn deferred(&self) -> Vec<Arc<Device>> {
        self.0.deferral.waiting()
    }
}

impl fmt::Debug for DriverCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let buses: Vec<_> = self.0.buses.lock().iter().filter_map(Weak::upgrade).collect();
        f.debug_list().entries(buses.iter().map(|bus| bus.bus.name())).finish()
    }
}

impl CoreShared {
    /// The driver link of the device of this name on any bus.
    pub(crate) fn has_driver(&self, device: &str) -> bool {
        let buses: Vec<_> = self.buses.lock().iter().filter_map(Weak::upgrade).collect();
        buses.iter().filter_map(|bus| bus.device(device)).any(|dev| dev.driver_hint().is_some())
    }
}

/// A bus of a core, with its devices and drivers. Clones are the same bus.
#[derive(Clone)]
pub struct BusHandle(pub(crate) Arc<BusShared>);

/// Lock order: none of these locks is held when another is taken, or across a callback.
pub(crate) struct BusShared {
    pub(crate) core: Arc<CoreShared>,
    pub(crate) bus: Box<dyn Bus>,
    devices: Mutex<DeviceList>,
    drivers: Mutex<Arc<[Arc<DriverEntry>]>>,
    notifiers: Mutex<Arc<[Arc<dyn Notifier>]>>,
    autoprobe: AtomicBool,
}

#[derive(Default)]
struct DeviceList {
    in_order: BTreeMap<DeviceId, Arc<Device>>,
    /// Found no more, but not gone: a driver may wait for users.
    leaving: BTreeMap<DeviceId, Arc<Device>>,
    /// Of both; a name is free again when the device is gone.
    by_name: BTreeMap<Arc<str>, DeviceId>,
}

impl BusShared {
    pub(crate) fn device(&self, name: &str) -> Option<Arc<Device>> {
        let devices = self.devices.lock();
        devices.in_order.get(devices.by_name.get(name)?).cloned()
    }

    pub(crate) fn drivers(&self) -> Arc<[Arc<DriverEntry>]> {
        self.drivers.lock().clone()
    }

    pub(crate) fn driver(&self, name: &str) -> Option<Arc<DriverEntry>> {
        self.drivers.lock().iter().find(|entry| &**entry.driver.name() == name).cloned()
    }

    pub(crate) fn autoprobes(&self) -> bool {
        self.autoprobe.load(Ordering::Relaxed)
    }

    pub(crate) fn notify(&self, event: &BusEvent<'_>) {
        let notifiers = self.notifiers.lock().clone();
        for notifier in notifiers.iter() {
            notifier.notify(event);
        }
    }

    /// Puts the device on the list, unless its name is taken.
    fn remember(&self, dev: &Arc<Device>) -> bool {
        let mut devices = self.devices.lock();
        if devices.by_name.contains_key(dev.name()) {
            return false;
        }
        devices.by_name.insert(dev.name().clone(), dev.id());
        devices.in_order.insert(dev.id(), dev.clone());
        true
    }

    /// Takes the device off the list; it is found no more, but keeps its name (Dt2, step 6).
    pub(crate) fn hide(&self, dev: &Arc<Device>) {
        let mut devices = self.devices.lock();
        if devices.in_order.remove(&dev.id()).is_some() {
            devices.leaving.insert(dev.id(), dev.clone());
        }
    }

    /// The device is gone, and its name free (Dt2, step 9).
    pub(crate) fn forget(&self, dev: &Device) {
        let mut devices = self.devices.lock();
        if devices.in_order.remove(&dev.id()).or(devices.leaving.remove(&dev.id())).is_some() {
            devices.by_name.remove(dev.name());
        }
    }
}

/// What happens to drivers when they, or devices, are registered (D52).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Autoprobe {
    /// They are bound where they match.
    On,
    /// They are bound only by hand.
    Off,
}

impl BusHandle {
    /// The bus's name.
    pub fn name(&self) -> &str {
        self.0.bus.name()
    }

    /// The device of this name.
    pub fn device(&self, name: &str) -> Option<Arc<Device>> {
        self.0.device(name)
    }

    /// All devices, in the order in which they came.
    pub fn devices(&self) -> Vec<Arc<Device>> {
        self.0.devices.lock().in_order.values().cloned().collect()
    }

    /// The names of all drivers, in the order in which they were registered, which is the order in which a device
    /// tries them.
    pub fn drivers(&self) -> Vec<Arc<str>> {
        self.0.drivers().iter().map(|entry| entry.driver.name().clone()).collect()
    }

    /// Whether a driver of this name is registered.
    pub fn has_driver(&self, name: &str) -> bool {
        self.0.driver(name).is_some()
    }

    /// Lets `notifier` hear of every event of this bus from now on.
    pub fn subscribe(&self, notifier: impl Notifier + 'static) {
        let mut notifiers = self.0.notifiers.lock();
        *notifiers = notifiers.iter().cloned().chain([Arc::new(notifier) as Arc<dyn Notifier>]).collect();
    }

    /// Says whether registering binds. It never hinders binding by hand (D48).
    pub fn set_autoprobe(&self, autoprobe: Autoprobe) {
        self.0.autoprobe.store(autoprobe == Autoprobe::On, Ordering::Relaxed);
    }

    /// Adds a device: it appears on the bus, the notifiers hear of it, then drivers are tried. That none takes it is
    /// no error (D8). Takes the device lock; call it with no lock of another device but the parent's.
    ///
    /// # Errors
    /// The name is taken, or the parent is being removed. Nothing has changed then.
    pub fn add_device(&self, spec: DeviceSpec) -> Result<Arc<Device>, AddDeviceError> {
        let id = DeviceId::new(self.0.core.next_device.fetch_add(1, Ordering::Relaxed));
        let dev = Device::new(id, Arc::downgrade(&self.0), spec);
        let turn = dev.take_turn();
        if !self.0.remember(&dev) {
            return Err(AddDeviceError::NameTaken { name: dev.name().clone() });
        }
        if let Some(parent) = dev.parent()
            && !parent.adopt(&dev)
        {
            self.0.forget(&dev);
            return Err(AddDeviceError::ParentGone { name: dev.name().clone(), parent: parent.name().clone() });
        }
        self.0.notify(&BusEvent::Added(&dev));
        {
            let mut guard = dev.raw_lock();
            if guard.life() == Life::Arriving {
                guard.state().life = Life::Ready;
            }
        }
        drop(turn);
        if self.0.autoprobes() {
            binding::probe_initially(&self.0, &dev);
        }
        Ok(dev)
    }

    /// Removes a device and all below it, the lowest first: no driver comes any more, the bound ones leave, then the
    /// device is gone for the notifiers. Nothing happens until the returned value is driven.
    ///
    /// A removal that was given up half-way is taken up by a further call. A device that is gone is let be.
    pub fn remove_device(&self, dev: &Arc<Device>) -> Unbind {
        Unbind::of_removal(dev)
    }

    /// Registers a driver and tries it on every device that it matches. Failures there are not failures of the
    /// registration (D28).
    ///
    /// # Errors
    /// A driver of that name is registered.
    pub fn add_driver(&self, driver: Arc<dyn Driver>) -> Result<(), AddDriverError> {
        let entry = Arc::new(DriverEntry { driver, devices: Mutex::new(DriverDevices::default()) });
        {
            let mut drivers = self.0.drivers.lock();
            if drivers.iter().any(|other| other.driver.name() == entry.driver.name()) {
                return Err(AddDriverError { name: entry.driver.name().clone() });
            }
            *drivers = drivers.iter().cloned().chain([entry.clone()]).collect();
        }
        if self.0.autoprobes() {
            for dev in self.devices() {
                binding::try_driver(&self.0, &entry, &dev);
            }
        }
        Ok(())
    }

    /// Unregisters a driver: it takes no device any more and leaves those it has, the last bound first (D46). Nothing
    /// happens until the returned value is driven; `None` if no such driver is registered.
    pub fn remove_driver(&self, name: &str) -> Option<Unbind> {
        let mut drivers = self.0.drivers.lock();
        let entry = drivers.iter().find(|entry| &**entry.driver.name() == name)?.clone();
        *drivers = drivers.iter().filter(|other| !Arc::ptr_eq(other, &entry)).cloned().collect();
        drop(drivers);
        Some(Unbind::of_driver(&entry))
    }
}

impl fmt::Debug for BusHandle {
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
    /// `EEXIST` for a name taken (Dt1, step 5), `ENODEV` without a parent.
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
    /// `EBUSY` (Dt8.2).
    pub const fn errno(&self) -> Errno {
        Errno::EBUSY
    }
}

/// A registered driver and the devices that it has or is being tried on.
pub(crate) struct DriverEntry {
    driver: Arc<dyn Driver>,
    /// Leaf lock.
    devices: Mutex<DriverDevices>,
}

#[derive(Default)]
struct DriverDevices {
    next_place: u64,
    registration: Registration,
    /// Weak, for a device holds its driver: the bus keeps both.
    in_order: BTreeMap<u64, Weak<Device>>,
}

#[derive(Default, PartialEq, Eq)]
enum Registration {
    #[default]
    Open,
    Closed,
}

impl DriverEntry {
    pub(crate) fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// Puts a device on the list, or `None` when the driver has been unregistered.
    pub(crate) fn enlist(&self, dev: &Arc<Device>) -> Option<u64> {
        let mut devices = self.devices.lock();
        if devices.registration == Registration::Closed {
            return None;
        }
        let place = devices.next_place;
        devices.next_place += 1;
        devices.in_order.insert(place, Arc::downgrade(dev));
        Some(place)
    }

    pub(crate) fn strike(&self, place: u64) {
        self.devices.lock().in_order.remove(&place);
    }

    /// Takes no device any more; those that it has, the first bound first.
    pub(crate) fn close(&self) -> Vec<Arc<Device>> {
        let mut devices = self.devices.lock();
        devices.registration = Registration::Closed;
        devices.in_order.values().filter_map(Weak::upgrade).collect()
    }
}

impl fmt::Debug for DriverEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.driver.fmt(f)
    }
}
