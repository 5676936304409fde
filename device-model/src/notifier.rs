//! Events of a bus.

use alloc::sync::Arc;

use crate::device::{Device, DeviceGuard};

/// What happens to a device of a bus, in the order D66.
///
/// The events that come under the device's lock carry its guard, and only they: the driver can be read there and
/// nowhere else.
#[derive(Debug)]
pub enum BusEvent<'a> {
    /// The device is on its bus, not yet open to drivers.
    Added(&'a Arc<Device>),
    /// The device is about to go; its driver is still bound.
    Deleting(&'a Arc<Device>),
    /// The device is gone and has no driver.
    Removed(&'a Arc<Device>),
    /// The driver may do DMA and is about to be probed (P7).
    Binding(&'a DeviceGuard<'a>),
    /// The driver is bound (P14).
    Bound(&'a DeviceGuard<'a>),
    /// The driver was not bound after all; its right to DMA has not ended yet (E2).
    NotBound(&'a DeviceGuard<'a>),
    /// The driver is about to be removed (R5).
    Unbinding(&'a DeviceGuard<'a>),
    /// The driver is gone (R13).
    Unbound(&'a DeviceGuard<'a>),
}

/// Hears of the events of a bus.
///
/// Called in the middle of binding, with the lock of the device held where the event carries its guard, and with no
/// other lock of this crate. It cannot veto, and must not bind, unbind or remove the device it hears of.
pub trait Notifier: Send + Sync {
    /// `event` happens now.
    fn notify(&self, event: &BusEvent<'_>);
}

impl<F: Fn(&BusEvent<'_>) + Send + Sync> Notifier for F {
    fn notify(&self, event: &BusEvent<'_>) {
        self(event);
    }
}
