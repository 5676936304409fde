//! What guards DMA: the hooks that a bus calls, and the rights that they give out.

use alloc::sync::Arc;
use core::convert::Infallible;
use core::fmt;

use crate::any_device::AnyDevice;
use crate::device_id::DeviceId;
use crate::driver::{Awaits, ProbeError};
use crate::errno::Errno;

/// Guards the DMA of the devices of a bus; `T` is what the bus knows of a device.
///
/// The bus owns it, so that no driver can bind without it having been asked. None of its hooks is called with a lock
/// of this crate held, but for the lock of the device where a hook says so.
pub trait DmaConfigure<T>: Send + Sync + 'static {
    /// What it keeps for each device, inside the device: found without a look-up, changed as it likes.
    type Slot: Default + Send + Sync + 'static;

    /// The right of a bound driver to do DMA through the DMA API. Dropping it ends the right.
    type Use: Send + Sync + 'static;

    /// Why a driver may not bind.
    type Error: DmaError;

    /// Hears of a device that is on its bus, before the notifiers and before any driver.
    fn device_added(&self, dev: DmaDevice<'_, T, Self::Slot>) {
        let _ = dev;
    }

    /// Hears of a device that is gone, after the notifiers. It has no driver, and no right of it is left.
    fn device_removed(&self, dev: DmaDevice<'_, T, Self::Slot>) {
        let _ = dev;
    }

    /// Prepares `dev` for DMA by whatever driver. Called with the lock of the device held, before a driver is probed.
    ///
    /// # Errors
    /// The driver is not probed, and no other is tried. Nothing may be left behind.
    fn dma_configure(&self, dev: DmaDevice<'_, T, Self::Slot>) -> Result<(), Self::Error>;

    /// Begins the use of `dev` by `driver` through the DMA API. Not called for a driver that manages its own DMA
    /// (`driver_managed_dma`). Called with the lock of the device held, after [`dma_configure`](Self::dma_configure).
    ///
    /// # Errors
    /// The driver is not probed, and no other is tried. Nothing may be left behind.
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

/// Why DMA was refused, in the words of whoever guards it.
pub trait DmaError: core::error::Error + Send + Sync + 'static {
    /// Returns the error number that Linux gives.
    fn errno(&self) -> Errno;

    /// Returns what the driver has to wait for, if it may be tried again later.
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

/// Lets every driver do DMA at any time, as on a machine without an IOMMU.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unprotected;

/// The right to DMA where nobody guards it.
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

/// The right to DMA of a bound driver, whatever driver it is.
#[derive(Debug)]
pub enum DmaRight<U> {
    /// It uses the DMA API, and this is its right to.
    DmaApi(U),
    /// It does no DMA, or claims ownership itself before any.
    DriverManaged(DriverManaged),
}

/// Says of a [`Driver`](crate::Driver) how it does DMA, so that its callbacks get the right that goes with it.
///
/// Implemented by [`DmaApi`] and [`DriverManaged`] only.
pub trait DriverDma: sealed::Sealed + 'static {
    /// The right that its callbacks get; `U` is the right to use the DMA API.
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
