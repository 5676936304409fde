//! A device as its driver sees it.

use alloc::sync::Arc;
use core::any::Any;
use core::fmt;

use crate::bus::{Bus, UseOf};
use crate::device::Device;
use crate::dma::DmaRight;
use crate::resources::{Resources, Revocable};

/// A device that is bound to the driver whose callback gets this, with the driver's right to DMA `R`.
///
/// Only the core creates one, so functions that need a bound device take this: DMA through a default domain, and
/// resources that end with the binding. It cannot be kept, since it borrows from the device lock.
///
/// Neither an unbound device nor one whose driver manages its own DMA has a right to use the DMA API:
/// ```compile_fail,E0599
/// # use device_model::{Device, platform::PlatformBus, Unprotected};
/// # fn example(dev: &std::sync::Arc<Device<PlatformBus<Unprotected>>>) {
/// let right = dev.lock().dma();
/// # }
/// ```
/// ```compile_fail,E0308
/// # use device_model::{BoundTo, DriverManaged, Unguarded, platform::PlatformBus, Unprotected};
/// # fn example(dev: &BoundTo<'_, PlatformBus<Unprotected>, DriverManaged>) {
/// let right: &Unguarded = dev.dma();
/// # }
/// ```
pub struct Bound<'a, B: Bus, R = DmaRight<UseOf<B>>> {
    device: &'a Arc<Device<B>>,
    resources: &'a mut Resources,
    right: &'a R,
}

impl<'a, B: Bus, R> Bound<'a, B, R> {
    pub(crate) fn new(device: &'a Arc<Device<B>>, resources: &'a mut Resources, right: &'a R) -> Self {
        Self { device, resources, right }
    }

    /// Returns the device.
    pub fn device(&self) -> &'a Arc<Device<B>> {
        self.device
    }

    /// Returns the bus-specific data of the device.
    pub fn description(&self) -> &'a Arc<B::Device> {
        self.device.description()
    }

    /// Returns the right to DMA. It ends before the driver's resources are dropped.
    pub fn dma(&self) -> &'a R {
        self.right
    }

    /// Keeps `resource` until the driver is unbound, or fails to bind. Resources are dropped last to first, after the
    /// right to DMA has ended.
    pub fn manage(&mut self, resource: impl Any + Send) {
        self.resources.push(resource);
    }

    /// Keeps `resource` as [`manage`](Self::manage) does, and returns a handle to share. The handle gives access to the
    /// resource until the driver is unbound.
    pub fn manage_revocable<T: Any + Send + Sync>(&mut self, resource: T) -> Revocable<T> {
        self.resources.push_revocable(resource)
    }

    /// Returns the resource of this type that was managed last.
    pub fn resource<T: Any>(&self) -> Option<&T> {
        self.resources.get()
    }

    /// Returns the resource of this type that was managed last, mutably.
    pub fn resource_mut<T: Any>(&mut self) -> Option<&mut T> {
        self.resources.get_mut()
    }

    pub(crate) fn resources(&self) -> &Resources {
        self.resources
    }

    /// The same with another view of the right.
    pub(crate) fn with_right<S>(&mut self, view: impl FnOnce(&R) -> Option<&S>) -> Option<Bound<'_, B, S>> {
        Some(Bound { device: self.device, right: view(self.right)?, resources: self.resources })
    }
}

impl<B: Bus, R> fmt::Debug for Bound<'_, B, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bound({})", self.device.name())
    }
}
