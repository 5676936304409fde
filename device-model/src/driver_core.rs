//! The core: what all its buses have in common.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

use crate::any_device::AnyDevice;
use crate::bus::Bus;
use crate::bus_handle::BusHandle;
use crate::deferred::{Deferral, ProbeHold};
use crate::device_id::DeviceId;
use crate::registry::BusShared;
use crate::sync::Mutex;

/// The driver core: a value, of which a process may have many.
///
/// Clones are the same core. It lives for as long as one of them or of its buses does.
#[derive(Clone)]
pub struct DriverCore(Arc<CoreShared>);

pub(crate) struct CoreShared {
    /// Leaf lock, rather than an atomic, for 32-bit targets have none of this size.
    next_device: Mutex<u64>,
    /// Leaf lock.
    buses: Mutex<Vec<Weak<dyn AnyBus>>>,
    pub(crate) deferral: Deferral,
}

/// A bus of whatever kind.
pub(crate) trait AnyBus: Send + Sync {
    fn name(&self) -> &str;
    /// Whether the device of this name, if there is one, has a driver.
    fn has_driver(&self, device: &str) -> bool;
}

impl<B: Bus> AnyBus for BusShared<B> {
    fn name(&self) -> &str {
        self.bus.name()
    }

    fn has_driver(&self, device: &str) -> bool {
        self.device(device).is_some_and(|dev| dev.driver_hint().is_some())
    }
}

/// Who repeats deferred probes that have become due.
///
/// A probe that defers is due again when what it waits for has come: when a device binds, or a [`ProbeHold`] ends. The
/// device is put on a list then; this says who works it off.
#[derive(Default)]
pub enum Repeats {
    /// The call that finds devices on the list when it has done its own work and holds no device lock: it repeats
    /// each of the devices that are waiting once, and once more after each one that binds. What is due beyond that is
    /// left to the next call, or to [`DriverCore::repeat_probes`].
    #[default]
    Inline,
    /// The embedder, who is told that devices are due and calls [`DriverCore::repeat_probes`] from a work queue. Called
    /// with no lock of this crate held but for device locks of the caller.
    Queued(Box<dyn Fn() + Send + Sync>),
    /// The embedder, who calls [`DriverCore::repeat_probes`] when it likes.
    Manual,
}

impl fmt::Debug for Repeats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inline => "Inline",
            Self::Queued(_) => "Queued",
            Self::Manual => "Manual",
        })
    }
}

impl Default for DriverCore {
    fn default() -> Self {
        Self::new()
    }
}

impl DriverCore {
    /// Makes a core without buses, whose deferred probes are repeated inline.
    pub fn new() -> Self {
        Self::with_repeats(Repeats::Inline)
    }

    /// Makes a core without buses.
    pub fn with_repeats(repeats: Repeats) -> Self {
        Self(Arc::new(CoreShared::new(repeats)))
    }

    /// Adds a bus, which lives for as long as one of its handles; see [`BusHandle`].
    pub fn add_bus<B: Bus>(&self, bus: B) -> BusHandle<B> {
        let shared = Arc::new(BusShared::new(&self.0, bus));
        let any: Arc<dyn AnyBus> = shared.clone();
        self.0.buses.lock().push(Arc::downgrade(&any));
        BusHandle::new(shared)
    }

    /// Lets every probe defer until the returned value is dropped, which makes those that did due.
    pub fn hold_probes(&self) -> ProbeHold {
        ProbeHold::new(self.0.clone())
    }

    /// Returns the devices that wait for a supplier, or are due to be probed again, in the order in which they were
    /// added.
    pub fn deferred(&self) -> Vec<Arc<dyn AnyDevice>> {
        self.0.deferral.waiting()
    }

    /// Repeats the deferred probes that are due: of each device that waits once, and once more after each one that
    /// binds. Returns how many are due still. Call it with no device lock held.
    pub fn repeat_probes(&self) -> usize {
        self.0.deferral.repeat();
        self.0.deferral.due()
    }
}

impl fmt::Debug for DriverCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let buses: Vec<_> = self.0.buses.lock().iter().filter_map(Weak::upgrade).collect();
        f.debug_list().entries(buses.iter().map(|bus| bus.name())).finish()
    }
}

impl CoreShared {
    pub(crate) fn new(repeats: Repeats) -> Self {
        Self { next_device: Mutex::new(1), buses: Mutex::new(Vec::new()), deferral: Deferral::new(repeats) }
    }

    /// The bus is closed: its devices may live on, but it is none of the core's buses any more.
    pub(crate) fn close_bus<B: Bus>(&self, bus: &Arc<BusShared<B>>) {
        self.buses.lock().retain(|other| !core::ptr::addr_eq(other.as_ptr(), Arc::as_ptr(bus)));
    }

    pub(crate) fn next_device_id(&self) -> DeviceId {
        let mut next = self.next_device.lock();
        *next += 1;
        DeviceId::new(*next - 1)
    }

    /// The driver link of the device of this name on any bus.
    pub(crate) fn has_driver(&self, device: &str) -> bool {
        let buses: Vec<_> = self.buses.lock().iter().filter_map(Weak::upgrade).collect();
        buses.iter().any(|bus| bus.has_driver(device))
    }
}
