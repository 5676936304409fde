//! Buses: which driver fits which device, and who may do DMA.

use crate::device::{Device, DeviceGuard};
use crate::dma::DmaUse;
use crate::driver::{Awaits, Driver, ProbeError};
use crate::errno::Errno;

pub(crate) use crate::registry::BusShared;

/// A kind of bus.
pub trait Bus: Send + Sync {
    /// The name: `"pci"`, `"platform"`.
    fn name(&self) -> &str;

    /// Whether `driver` fits `dev`. Called with or without the lock of the device (Lt2.3, Lt2.4), so it must rest on
    /// what does not change, and on [`Device::override_verdict`].
    fn matches(&self, dev: &Device, driver: &dyn Driver) -> Match;

    /// Configures DMA for the driver about to be probed, which [`DeviceGuard::driver`] names (P6).
    ///
    /// A bus without the notion lets every driver do DMA unguarded (D60).
    ///
    /// # Errors
    /// The driver is not probed, and no other is tried (D25). Nothing of the configuration is left behind (D34).
    fn dma_configure(&self, dev: &DeviceGuard<'_>) -> Result<DmaUse, ProbeError> {
        let _ = dev;
        Ok(DmaUse::unguarded())
    }
}

/// Whether a driver fits a device (D14).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Match {
    /// It does not.
    No,
    /// It does.
    Yes,
    /// It cannot be told yet.
    Deferred(Awaits),
    /// It cannot be told at all.
    Failed(Errno),
}
