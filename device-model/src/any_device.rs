//! Devices of whatever bus.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use crate::device_id::DeviceId;

/// A device of any bus, as parents, lists over several buses and guards of DMA see it. Implemented by
/// [`Device`](crate::Device) only.
pub trait AnyDevice: Any + internal::Internal {
    /// Returns the identity; never used again.
    fn id(&self) -> DeviceId;

    /// Returns the name, unique on its bus while the device is there.
    fn name(&self) -> &Arc<str>;

    /// Returns the name of its bus.
    fn bus_name(&self) -> &str;

    /// Returns the device that it sits below. Takes a leaf lock.
    fn parent(&self) -> Option<Arc<dyn AnyDevice>>;

    /// Returns the devices directly below that have not been removed, oldest first. Takes a leaf lock.
    fn children(&self) -> Vec<Arc<dyn AnyDevice>>;

    /// Returns a hint of which driver is bound; see [`Device::driver_hint`](crate::Device::driver_hint).
    fn driver_hint(&self) -> Option<Arc<str>>;
}

impl fmt::Debug for dyn AnyDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name())
    }
}

/// The devices below one, oldest first; `None` once that one is being removed.
pub(crate) type Children = Option<alloc::collections::BTreeMap<DeviceId, Weak<dyn AnyDevice>>>;

/// Drops a chain of parents one by one, each once nobody else holds it: a long chain must not use up the stack.
pub(crate) fn drop_upwards(child: DeviceId, parent: Option<Arc<dyn AnyDevice>>) {
    let (mut child, mut next) = (child, parent);
    while let Some(dev) = next {
        dev.disown(child);
        child = dev.id();
        next = if Arc::strong_count(&dev) == 1 { dev.take_parent() } else { None };
    }
}

pub(crate) mod internal {
    use super::{Arc, DeviceId, Weak};
    use crate::sync::Users;
    use crate::unbind::Removed;

    /// What the core asks of a device whose bus it does not know.
    pub trait Internal: Send + Sync {
        /// Puts `child` below this device, unless this one is being removed.
        fn adopt(&self, id: DeviceId, child: Weak<dyn super::AnyDevice>) -> bool;

        fn disown(&self, child: DeviceId);

        fn take_parent(&self) -> Option<Arc<dyn super::AnyDevice>>;

        fn depth(&self) -> u16;

        /// Whether somebody holds the device lock; if so, that one repeats deferred probes once it lets go.
        fn leaves_repeats_to_holder(self: Arc<Self>) -> bool;

        /// Repeats a deferred probe, without waiting for anybody.
        fn repeat(self: Arc<Self>);

        /// Lets the driver go and removes the device, for nobody has a handle of its bus any more.
        fn close(self: Arc<Self>);

        /// Goes one step towards the removal of this device.
        fn step_removal(self: Arc<Self>) -> Result<Removed, Arc<Users>>;

        /// Lets the driver of this registration go, if it is bound.
        fn step_release(self: Arc<Self>, registration: usize) -> Result<(), Arc<Users>>;

        /// Lets a driver that waits for users ask them again.
        fn ask_again(self: Arc<Self>);
    }
}
