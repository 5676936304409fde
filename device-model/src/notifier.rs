//! Bus notifiers.

use alloc::sync::Arc;
use core::fmt;

use crate::bus::Bus;
use crate::device::{Device, DeviceGuard};
use crate::registry::{BusShared, NotifierId};

/// Events of a device on a bus, in the order in which they occur.
///
/// Events that are delivered with the device lock held carry its guard, through which the driver can be read.
pub enum BusEvent<'a, B: Bus> {
    /// The device is on its bus; drivers cannot bind yet.
    Added(&'a Arc<Device<B>>),
    /// The device is about to be removed; its driver is still bound.
    Deleting(&'a Arc<Device<B>>),
    /// The device has been removed and has no driver.
    Removed(&'a Arc<Device<B>>),
    /// The driver may do DMA and is about to be probed.
    Binding(&'a DeviceGuard<'a, B>),
    /// The driver is bound.
    Bound(&'a DeviceGuard<'a, B>),
    /// Binding failed; the driver's right to DMA has not ended yet.
    NotBound(&'a DeviceGuard<'a, B>),
    /// The driver is about to be removed.
    Unbinding(&'a DeviceGuard<'a, B>),
    /// The driver is unbound.
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

/// Receives the events of a bus.
///
/// Called during binding and unbinding, with the device lock held if the event carries its guard, and no other lock of
/// this crate. A notifier cannot veto, and must not bind, unbind or remove the device of the event. If it unwinds, the
/// operation is undone, or completed where it cannot be undone.
pub trait Notifier<B: Bus>: Send + Sync + 'static {
    /// Receives `event`, which happens now.
    fn notify(&self, event: &BusEvent<'_, B>);
}

impl<B: Bus, F: Fn(&BusEvent<'_, B>) + Send + Sync + 'static> Notifier<B> for F {
    fn notify(&self, event: &BusEvent<'_, B>) {
        self(event);
    }
}

/// Keeps a [`Notifier`] subscribed to the events of a bus. Dropping it unsubscribes.
///
/// A notifier may hold a handle of its bus: the bus is kept alive until the subscription is dropped.
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
