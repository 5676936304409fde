//! Registered drivers, and the devices that each has.

use alloc::sync::{Arc, Weak};
use core::fmt;

use slab::Slab;

use crate::bus::Bus;
use crate::device::Device;
use crate::registry::BusShared;
use crate::sync::Mutex;

/// A registered driver. Clones are the same registration; they do not keep the driver registered.
pub struct DriverHandle<B: Bus>(pub(crate) Arc<Registration<B>>);

impl<B: Bus> Clone for DriverHandle<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Bus> DriverHandle<B> {
    /// Returns the name.
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// Returns the driver.
    pub fn driver(&self) -> &Arc<B::Driver> {
        &self.0.driver
    }

    /// Returns whether the driver is being unregistered or has been: it takes no device any more.
    pub fn is_leaving(&self) -> bool {
        self.0.devices.lock().stage != Stage::Open
    }
}

impl<B: Bus> fmt::Debug for DriverHandle<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DriverHandle({})", self.name())
    }
}

/// Aligned so that drivers that are busy with different devices share no cache line.
#[repr(align(64))]
pub(crate) struct Registration<B: Bus> {
    /// Place in the order of registration; never used again on this bus.
    pub(crate) serial: usize,
    pub(crate) name: Arc<str>,
    pub(crate) driver: Arc<B::Driver>,
    pub(crate) driver_managed_dma: bool,
    pub(crate) bus: Arc<BusShared<B>>,
    /// Leaf lock.
    devices: Mutex<Devices<B>>,
}

/// The devices of a driver as a list in a slab, so that binding again allocates nothing. Weak, for a device holds its
/// driver; the bus keeps both.
struct Devices<B: Bus> {
    stage: Stage,
    nodes: Slab<Node<B>>,
    /// The device that was bound last.
    last: Option<Place>,
}

struct Node<B: Bus> {
    device: Weak<Device<B>>,
    before: Option<Place>,
    after: Option<Place>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Leaving,
    Gone,
}

/// Where a device is in its driver's list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(usize);

impl<B: Bus> Registration<B> {
    pub(crate) fn new(
        bus: &Arc<BusShared<B>>,
        serial: usize,
        name: Arc<str>,
        driver: Arc<B::Driver>,
        driver_managed_dma: bool,
    ) -> Self {
        let devices = Devices { stage: Stage::Open, nodes: Slab::new(), last: None };
        Self { serial, name, driver, driver_managed_dma, bus: bus.clone(), devices: Mutex::new(devices) }
    }

    /// Puts a device at the end of the list, or `None` when the driver is being unregistered.
    pub(crate) fn enlist(&self, dev: &Arc<Device<B>>) -> Option<Place> {
        let mut devices = self.devices.lock();
        if devices.stage != Stage::Open {
            return None;
        }
        let before = devices.last;
        let place = Place(devices.nodes.insert(Node { device: Arc::downgrade(dev), before, after: None }));
        devices.link(before, |node| node.after = Some(place));
        devices.last = Some(place);
        Some(place)
    }

    pub(crate) fn strike(&self, place: Place) {
        let mut devices = self.devices.lock();
        let Some(Node { before, after, .. }) = devices.nodes.try_remove(place.0) else { return };
        devices.link(before, |node| node.after = after);
        devices.link(after, |node| node.before = before);
        if devices.last == Some(place) {
            devices.last = before;
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.devices.lock().stage == Stage::Gone
    }

    /// From now on the driver takes no device.
    pub(crate) fn close(&self) {
        let mut devices = self.devices.lock();
        if devices.stage == Stage::Open {
            devices.stage = Stage::Leaving;
        }
    }

    /// The device that was bound last, or nothing, and then the driver is gone; whether by this call.
    pub(crate) fn last_device(&self) -> Last<B> {
        let mut devices = self.devices.lock();
        let mut place = devices.last;
        while let Some(Node { device, before, .. }) = place.and_then(|place| devices.nodes.get(place.0)) {
            if let Some(dev) = device.upgrade() {
                return Last::Device(dev);
            }
            place = *before;
        }
        if devices.stage == Stage::Leaving {
            devices.stage = Stage::Gone;
            return Last::NoneAnyMore;
        }
        Last::GoneBefore
    }
}

pub(crate) enum Last<B: Bus> {
    Device(Arc<Device<B>>),
    NoneAnyMore,
    GoneBefore,
}

impl<B: Bus> Devices<B> {
    fn link(&mut self, place: Option<Place>, change: impl FnOnce(&mut Node<B>)) {
        if let Some(node) = place.and_then(|place| self.nodes.get_mut(place.0)) {
            change(node);
        }
    }
}
