//! What is on a bus: devices, drivers and notifiers, in the order in which they came.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound::{Excluded, Unbounded};

use hashbrown::HashMap;

use crate::bus::Bus;
use crate::device::{Device, Notifiers};
use crate::device_id::DeviceId;
use crate::driver::AnyDriver;
use crate::driver_core::CoreShared;
use crate::notifier::{Notifier, Subscription};
use crate::registration::Registration;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{LockClass, Mutex};

/// Held while the copies of the devices are renewed, which have leaf locks.
const NOTIFIERS: LockClass = LockClass::new("notifiers of a bus", u16::MAX - 1);

/// A bus with what is on it. Devices and drivers hold it, and it holds them until they go or the last handle does.
///
/// None of its locks is held across a callback.
pub(crate) struct BusShared<B: Bus> {
    pub(crate) core: Arc<CoreShared>,
    pub(crate) bus: B,
    pub(crate) autoprobe: AtomicBool,
    devices: Mutex<DeviceList<B>>,
    drivers: Mutex<DriverList<B>>,
    notifiers: Mutex<NotifierList<B>>,
}

struct DeviceList<B: Bus> {
    in_order: BTreeMap<DeviceId, (Presence, Arc<Device<B>>)>,
    /// A name is free again when the device is gone.
    by_name: HashMap<Arc<str>, DeviceId>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Present,
    /// Found no more, but not gone: its name is still taken.
    Leaving,
}

struct DriverList<B: Bus> {
    next: usize,
    /// Those that are leaving included.
    in_order: BTreeMap<usize, Arc<Registration<B>>>,
    by_name: BTreeMap<Arc<str>, usize>,
}

struct NotifierList<B: Bus> {
    next: usize,
    in_order: BTreeMap<usize, Arc<dyn Notifier<B>>>,
}

/// Identifies a subscription of one bus.
#[derive(Clone, Copy)]
pub(crate) struct NotifierId(usize);

impl<B: Bus> BusShared<B> {
    pub(crate) fn new(core: &Arc<CoreShared>, bus: B) -> Self {
        let devices = DeviceList { in_order: BTreeMap::new(), by_name: HashMap::new() };
        let drivers = DriverList { next: 0, in_order: BTreeMap::new(), by_name: BTreeMap::new() };
        let notifiers = NotifierList { next: 0, in_order: BTreeMap::new() };
        Self {
            core: core.clone(),
            bus,
            autoprobe: AtomicBool::new(true),
            devices: Mutex::new(devices),
            drivers: Mutex::new(drivers),
            notifiers: Mutex::of(NOTIFIERS, notifiers),
        }
    }

    pub(crate) fn autoprobes(&self) -> bool {
        self.autoprobe.load(Ordering::Relaxed)
    }

    // Devices.

    pub(crate) fn device(&self, name: &str) -> Option<Arc<Device<B>>> {
        let devices = self.devices.lock();
        let (presence, dev) = devices.in_order.get(devices.by_name.get(name)?)?;
        (*presence == Presence::Present).then(|| dev.clone())
    }

    pub(crate) fn devices(&self) -> Vec<Arc<Device<B>>> {
        let devices = self.devices.lock();
        let present = devices.in_order.values().filter(|(presence, _)| *presence == Presence::Present);
        present.map(|(_, dev)| dev.clone()).collect()
    }

    /// The device that came after this one, or the first; those included that are leaving.
    pub(crate) fn device_after(&self, id: Option<DeviceId>) -> Option<Arc<Device<B>>> {
        let from = id.map_or(Unbounded, Excluded);
        self.devices.lock().in_order.range((from, Unbounded)).next().map(|(_, (_, dev))| dev.clone())
    }

    /// The device that came before this one, or the last; those included that are leaving.
    pub(crate) fn device_before(&self, id: Option<DeviceId>) -> Option<Arc<Device<B>>> {
        let to = id.map_or(Unbounded, Excluded);
        self.devices.lock().in_order.range((Unbounded, to)).next_back().map(|(_, (_, dev))| dev.clone())
    }

    /// Puts the device on the list, unless its name is taken.
    pub(crate) fn remember(&self, dev: &Arc<Device<B>>) -> bool {
        let mut devices = self.devices.lock();
        if devices.by_name.contains_key(dev.name()) {
            return false;
        }
        devices.by_name.insert(dev.name().clone(), dev.id());
        devices.in_order.insert(dev.id(), (Presence::Present, dev.clone()));
        true
    }

    /// Lets the device be found no more; it keeps its name.
    // Dt2, step 6.
    pub(crate) fn hide(&self, dev: &Device<B>) {
        if let Some((presence, _)) = self.devices.lock().in_order.get_mut(&dev.id()) {
            *presence = Presence::Leaving;
        }
    }

    /// The device is gone, and its name free.
    // Dt2, step 9.
    pub(crate) fn forget(&self, dev: &Device<B>) {
        let known = {
            let mut devices = self.devices.lock();
            let known = devices.in_order.remove(&dev.id());
            if known.is_some() {
                devices.by_name.remove(dev.name());
            }
            known
        };
        drop(known);
    }

    // Drivers.

    pub(crate) fn driver(&self, name: &str) -> Option<Arc<Registration<B>>> {
        let drivers = self.drivers.lock();
        drivers.in_order.get(drivers.by_name.get(name)?).cloned()
    }

    pub(crate) fn drivers(&self) -> Vec<Arc<Registration<B>>> {
        self.drivers.lock().in_order.values().cloned().collect()
    }

    /// The driver that was registered after this one, or the first.
    pub(crate) fn driver_after(&self, serial: Option<usize>) -> Option<Arc<Registration<B>>> {
        let from = serial.map_or(Unbounded, Excluded);
        self.drivers.lock().in_order.range((from, Unbounded)).next().map(|(_, driver)| driver.clone())
    }

    /// Registers a driver, unless its name, which is the error then, is taken.
    pub(crate) fn register(self: &Arc<Self>, driver: Arc<B::Driver>) -> Result<Arc<Registration<B>>, Arc<str>> {
        // Asked before the lock is taken: a driver may do anything meanwhile.
        let (name, managed) = (driver.name().clone(), driver.driver_managed_dma());
        let mut drivers = self.drivers.lock();
        if drivers.by_name.contains_key(&name) {
            return Err(name);
        }
        let serial = drivers.next;
        let driver = Arc::new(Registration::new(self, serial, name.clone(), driver, managed));
        drivers.next += 1;
        drivers.by_name.insert(name, serial);
        drivers.in_order.insert(serial, driver.clone());
        Ok(driver)
    }

    pub(crate) fn unregister(&self, driver: &Registration<B>) {
        let known = {
            let mut drivers = self.drivers.lock();
            let known = drivers.in_order.remove(&driver.serial);
            if known.is_some() {
                drivers.by_name.remove(&driver.name);
            }
            known
        };
        drop(known);
    }

    /// Drops the drivers and the notifiers: nobody has a handle of the bus any more.
    pub(crate) fn clear(&self) {
        let drivers = {
            let mut drivers = self.drivers.lock();
            drivers.by_name.clear();
            core::mem::take(&mut drivers.in_order)
        };
        let notifiers = core::mem::take(&mut self.notifiers.lock().in_order);
        drop((drivers, notifiers));
    }

    // Notifiers.

    pub(crate) fn subscribe(self: &Arc<Self>, notifier: Arc<dyn Notifier<B>>) -> Subscription<B> {
        let id = {
            let mut notifiers = self.notifiers.lock();
            notifiers.next += 1;
            let id = notifiers.next;
            notifiers.in_order.insert(id, notifier);
            id
        };
        self.renew_notifiers();
        Subscription { bus: self.clone(), id: NotifierId(id) }
    }

    pub(crate) fn unsubscribe(&self, id: NotifierId) {
        let removed = self.notifiers.lock().in_order.remove(&id.0);
        self.renew_notifiers();
        drop(removed);
    }

    fn renew_notifiers(&self) {
        let mut at = None;
        while let Some(dev) = self.device_after(at) {
            at = Some(dev.id());
            self.renew_notifiers_of(&dev);
        }
    }

    /// Gives the device its copy of the list. Copied under the list's lock, so that an old copy never comes last.
    pub(crate) fn renew_notifiers_of(&self, dev: &Device<B>) {
        let before = {
            let notifiers = self.notifiers.lock();
            let copy: Notifiers<B> =
                if notifiers.in_order.is_empty() { None } else { Some(notifiers.in_order.values().cloned().collect()) };
            dev.exchange_notifiers(copy)
        };
        drop(before);
    }
}
