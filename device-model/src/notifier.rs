//! Events of a bus.

use alloc::sync::Arc;
use core::fmt;

use crate::bus::Bus;
use crate::device::{Device, DeviceGuard};
use crate::registry::{BusShared, NotifierId};

/// What happens to a device of a bus, in the order in which it happens.
///
/// The events that come under the device's lock carry its guard, and only they: the driver can be read there and
/// nowhere else.
pub enum BusEvent<'a, B: Bus> {
    /// The device is on its bus, not yet open to drivers.
    Added(&'a Arc<Device<B>>),
    /// The device is about to go; its driver is still bound.
    Deleting(&'a Arc<Device<B>>),
    /// The device is gone and has no driver.
    Removed(&'a Arc<Device<B>>),
    /// The driver may do DMA and is about to be probed.
    Binding(&'a DeviceGuard<'a, B>),
    /// The driver is bound.
    Bound(&'a DeviceGuard<'a, B>),
    /// The driver was not bound after all; its right to DMA has not ended yet.
    NotBound(&'a DeviceGuard<'a, B>),
    /// The driver is about to be removed.
    Unbinding(&'a DeviceGuard<'a, B>),
    /// The driver is gone.
    Unbound(&'a DeviceGuard<'a, B>),
}

impl<B: Bus> fmt::Debug for BusEvent<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, dev) = match self {
            Self::Added(dev) => ("Added", *dev),
            Self::Deleting(dev) => ("Deleting", *dev),
            Self::Removed(dev) => ("Removed", *dev),
            Self::Binding(dev) => ("Binding", dev.device()),
            Self::Bound(dev) => ("Bound", dev.device()),
            Self::NotBound(dev) => ("NotBound", dev.device()),
            Self::Unbinding(dev) => ("Unbinding", dev.device()),
            Self::Unbound(dev) => ("Unbound", dev.device()),
        };
        write!(f, "{name}({})", dev.name())
    }
}

/// Hears of the events of a bus.
///
/// Called in the middle of binding, with the lock of the device held where the event carries its guard, and with no
/// other lock of this crate. It cannot veto, and must not bind, unbind or remove the device it hears of. If it unwinds,
/// what was going on is undone, or completed where it cannot be undone.
pub trait Notifier<B: Bus>: Send + Sync + 'static {
    /// Hears of `event`, which happens now.
    fn notify(&self, event: &BusEvent<'_, B>);
}

impl<B: Bus, F: Fn(&BusEvent<'_, B>) + Send + Sync + 'static> Notifier<B> for F {
    fn notify(&self, event: &BusEvent<'_, B>) {
        self(event);
    }
}

/// Keeps a [`Notifier`] subscribed to the events of a bus. Dropping it unsubscribes.
///
/// A notifier may hold a handle of its bus: the bus lives on until the subscription is dropped.
#[must_use = "dropping it unsubscribes at once"]
pub struct Subscription<B: Bus> {
    pub(crate) bus: Arc<BusShared<B>>,
    pub(crate) id: NotifierId,
}

impl<B: Bus> Drop for Subscription<B> {
    fn drop(&mut self) {
        self.bus.unsubscribe(self.id);
    }
}

impl<B: Bus> fmt::Debug for Subscription<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}
