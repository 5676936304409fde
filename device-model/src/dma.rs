//! DMA configuration: the hooks that a bus calls, and the rights that they grant.

use alloc::sync::Arc;
use core::convert::Infallible;
use core::fmt;

use crate::any_device::AnyDevice;
use crate::device_id::DeviceId;
use crate::driver::{Awaits, ProbeError};
use crate::errno::Errno;

/// Configures the DMA of the devices of a bus; `T` is the bus-specific data of a device.
///
/// Owned by the bus, so that no driver can bind without it. Its hooks are called with no lock of this crate held,
/// except for the device lock where a hook says so.
pub trait DmaConfigure<T>: Send + Sync + 'static {
    /// Data kept for each device, inside the device.
    type Slot: Default + Send + Sync + 'static;

    /// The right of a bound driver to do DMA through the DMA API. Dropping it ends the right.
    type Use: Send + Sync + 'static;

    /// Why a driver was not allowed to bind.
    type Error: DmaError;

    /// Called for a device that was added to its bus, before the notifiers and before any driver.
    fn device_added(&self, dev: DmaDevice<'_, T, Self::Slot>) {
        let _ = dev;
    }

    /// Called for a device that was removed, after the notifiers. It has no driver and no right to DMA.
    fn device_removed(&self, dev: DmaDevice<'_, T, Self::Slot>) {
        let _ = dev;
    }

    /// Prepares `dev` for DMA by any driver. Called with the device lock held, before a driver is probed.
    ///
    /// # Errors
    /// Fails if DMA is not allowed: the driver is not probed, and no other is tried. An implementation must undo its
    /// changes before it fails.
    fn dma_configure(&self, dev: DmaDevice<'_, T, Self::Slot>) -> Result<(), Self::Error>;

    /// Begins the use of `dev` by `driver` through the DMA API. Not called for a driver that manages its own DMA
    /// (`driver_managed_dma`). Called with the device lock held, after [`dma_configure`](Self::dma_configure).
    ///
    /// # Errors
    /// Fails if the driver must not use the device: it is not probed, and no other is tried. An implementation must
    /// undo its changes before it fails.
    fn use_default_domain(
        &self,
        dev: DmaDevice<'_, T, Self::Slot>,
        driver: &Arc<str>,
    ) -> Result<Self::Use, Self::Error>;
}

/// A device as [`DmaConfigure`] sees it.
pub struct DmaDevice<'a, T, S> {
    /// Its identity, its name and its place in the tree.
    pub device: &'a dyn AnyDevice,
    /// What the bus knows of it.
    pub description: &'a Arc<T>,
    /// What whoever guards DMA keeps for it.
    pub slot: &'a S,
}

impl<T, S> Clone for DmaDevice<'_, T, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, S> Copy for DmaDevice<'_, T, S> {}

impl<T, S> DmaDevice<'_, T, S> {
    /// Returns the identity.
    pub fn id(&self) -> DeviceId {
        self.device.id()
    }

    /// Returns the name.
    pub fn name(&self) -> &Arc<str> {
        self.device.name()
    }
}

impl<T, S> fmt::Debug for DmaDevice<'_, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaDevice({})", self.device.name())
    }
}

/// Why DMA was refused.
pub trait DmaError: core::error::Error + Send + Sync + 'static {
    /// Returns the error number that Linux gives.
    fn errno(&self) -> Errno;

    /// Returns what the driver has to wait for, if its probe is to be deferred.
    fn awaits(&self) -> Option<&Awaits> {
        None
    }
}

impl DmaError for Infallible {
    fn errno(&self) -> Errno {
        match *self {}
    }
}

impl DmaError for ProbeError {
    fn errno(&self) -> Errno {
        self.errno()
    }

    fn awaits(&self) -> Option<&Awaits> {
        match self {
            Self::Deferred(awaits) => Some(awaits),
            Self::Failed { .. } => None,
        }
    }
}

/// Grants unrestricted DMA to every driver, as on a machine without an IOMMU.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unprotected;

/// The right to DMA on a bus without an IOMMU.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unguarded;

impl<T> DmaConfigure<T> for Unprotected {
    type Slot = ();
    type Use = Unguarded;
    type Error = Infallible;

    fn dma_configure(&self, _dev: DmaDevice<'_, T, ()>) -> Result<(), Infallible> {
        Ok(())
    }

    fn use_default_domain(&self, _dev: DmaDevice<'_, T, ()>, _driver: &Arc<str>) -> Result<Unguarded, Infallible> {
        Ok(Unguarded)
    }
}

impl<T, G: DmaConfigure<T>> DmaConfigure<T> for Arc<G> {
    type Slot = G::Slot;
    type Use = G::Use;
    type Error = G::Error;

    fn device_added(&self, dev: DmaDevice<'_, T, Self::Slot>) {
        (**self).device_added(dev);
    }

    fn device_removed(&self, dev: DmaDevice<'_, T, Self::Slot>) {
        (**self).device_removed(dev);
    }

    fn dma_configure(&self, dev: DmaDevice<'_, T, Self::Slot>) -> Result<(), Self::Error> {
        (**self).dma_configure(dev)
    }

    fn use_default_domain(
        &self,
        dev: DmaDevice<'_, T, Self::Slot>,
        driver: &Arc<str>,
    ) -> Result<Self::Use, Self::Error> {
        (**self).use_default_domain(dev, driver)
    }
}

/// The right to DMA of a bound driver of either kind.
#[derive(Debug)]
pub enum DmaRight<U> {
    /// The driver uses the DMA API, and this is its right to.
    DmaApi(U),
    /// The driver does no DMA, or claims ownership itself (`driver_managed_dma`).
    DriverManaged(DriverManaged),
}

/// How a [`Driver`](crate::Driver) does DMA, which determines the right that its callbacks get.
///
/// Implemented by [`DmaApi`] and [`DriverManaged`] only.
pub trait DriverDma: sealed::Sealed + 'static {
    /// The right that callbacks get; `U` is the right to use the DMA API.
    type Right<U: 'static>: 'static;

    /// Whether the driver manages its own DMA.
    const DRIVER_MANAGED_DMA: bool;

    /// Returns the right of this kind.
    #[doc(hidden)]
    fn right<U: 'static>(right: &DmaRight<U>) -> Option<&Self::Right<U>>;
}

/// Marks a driver that does DMA through the DMA API. Binding it is a kernel use of the device's group.
#[derive(Debug, Clone, Copy)]
pub enum DmaApi {}

/// Marks a driver that does no DMA, or that claims ownership itself before any: `driver_managed_dma` in Linux.
///
/// Binding it does not take DMA ownership. vfio-pci, pci-stub and pcieport are such drivers. It is also what their
/// callbacks get in place of a right to DMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverManaged;

impl DriverDma for DmaApi {
    type Right<U: 'static> = U;

    const DRIVER_MANAGED_DMA: bool = false;

    fn right<U: 'static>(right: &DmaRight<U>) -> Option<&U> {
        match right {
            DmaRight::DmaApi(right) => Some(right),
            DmaRight::DriverManaged(_) => None,
        }
    }
}

impl DriverDma for DriverManaged {
    type Right<U: 'static> = Self;

    const DRIVER_MANAGED_DMA: bool = true;

    fn right<U: 'static>(right: &DmaRight<U>) -> Option<&Self> {
        match right {
            DmaRight::DmaApi(_) => None,
            DmaRight::DriverManaged(managed) => Some(managed),
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::DmaApi {}
    impl Sealed for super::DriverManaged {}
}
