//! The DMA hook: where whoever guards DMA takes part in binding.

use alloc::boxed::Box;
use core::any::Any;
use core::fmt;

use crate::device::DeviceGuard;
use crate::driver::{DmaApi, ProbeError};

/// Lets a driver do DMA; a bus that takes part in DMA ownership calls it from [`Bus::dma_configure`](crate::Bus).
pub trait DmaConfigure: Send + Sync {
    /// Prepares `dev` for DMA by the driver that [`DeviceGuard::driver`] names, which uses the DMA API as `api` says.
    ///
    /// The lock of the device is held. The returned [`DmaUse`] lives exactly as long as the driver may do DMA.
    ///
    /// # Errors
    /// The driver must not bind. Nothing of the configuration is left behind (D34).
    fn dma_configure(&self, dev: &DeviceGuard<'_>, api: DmaApi) -> Result<DmaUse, ProbeError>;
}

/// No protection: every driver may do DMA at any time, as on a machine without an IOMMU (D62, I65).
#[derive(Debug, Clone, Copy, Default)]
pub struct Unprotected;

impl DmaConfigure for Unprotected {
    fn dma_configure(&self, _dev: &DeviceGuard<'_>, _api: DmaApi) -> Result<DmaUse, ProbeError> {
        Ok(DmaUse::unguarded())
    }
}

/// The right of a bound driver to do DMA. Dropping it is the `dma_cleanup` of the facts (E2, R8).
pub struct DmaUse(Option<Box<dyn Any + Send + Sync>>);

impl DmaUse {
    /// A right that nobody keeps account of.
    pub const fn unguarded() -> Self {
        Self(None)
    }

    /// A right that ends when `guard` is dropped.
    pub fn holding(guard: impl Any + Send + Sync) -> Self {
        Self(Some(Box::new(guard)))
    }

    /// Whether somebody keeps account of it.
    ///
    /// ```
    /// # use device_model::DmaUse;
    /// assert!(DmaUse::holding("a guard").is_guarded());
    /// assert!(!DmaUse::unguarded().is_guarded());
    /// ```
    pub const fn is_guarded(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for DmaUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_guarded() { "DmaUse(guarded)" } else { "DmaUse(unguarded)" })
    }
}
