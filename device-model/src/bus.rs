//! Buses: matching of drivers and devices, and DMA configuration.

use crate::device::Device;
use crate::dma::DmaConfigure;
use crate::driver::{AnyDriver, Awaits};
use crate::errno::Errno;

/// A kind of bus.
///
/// Drivers and devices are typed by their bus: registering a driver with another bus does not compile.
/// `examples/own_bus.rs` is a whole bus.
pub trait Bus: Sized + Send + Sync + 'static {
    /// Bus-specific data of a device: a [`PciFunction`](crate::pci::PciFunction), for instance.
    type Device: Send + Sync + 'static;

    /// An entry of a driver's id table.
    type Id: Send + Sync + 'static;

    /// The drivers of the bus: `dyn AnyDriver<Self>`, or a trait of the bus's own with more callbacks, of which
    /// [`AnyDriver<Self>`](AnyDriver) is a supertrait.
    type Driver: AnyDriver<Self> + ?Sized;

    /// DMA configuration of its devices; [`Unprotected`](crate::Unprotected) grants unrestricted DMA.
    type Dma: DmaConfigure<Self::Device>;

    /// Returns the name: `"pci"`, `"platform"`.
    fn name(&self) -> &str;

    /// Returns the DMA configuration.
    fn dma(&self) -> &Self::Dma;

    /// Returns whether `driver` matches `dev`. Called with or without the device lock, so the answer must depend only
    /// on what does not change, and on [`Device::override_verdict`].
    fn matches(&self, dev: &Device<Self>, driver: &Self::Driver) -> Match;

    /// Called for a driver that has been unregistered and has no devices any more.
    fn driver_removed(&self, driver: &Self::Driver) {
        let _ = driver;
    }
}

/// The right to use the DMA API on a bus.
pub type UseOf<B> = <<B as Bus>::Dma as DmaConfigure<<B as Bus>::Device>>::Use;

/// Why DMA is refused on a bus.
pub type DmaErrorOf<B> = <<B as Bus>::Dma as DmaConfigure<<B as Bus>::Device>>::Error;

/// Data that DMA configuration keeps for each device of a bus.
pub type SlotOf<B> = <<B as Bus>::Dma as DmaConfigure<<B as Bus>::Device>>::Slot;

/// Whether a driver matches a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Match {
    /// It does not match.
    No,
    /// It matches.
    Yes,
    /// Not known yet; the probe is deferred.
    Deferred(Awaits),
    /// The match failed.
    Failed(Errno),
}

impl From<bool> for Match {
    fn from(fits: bool) -> Self {
        if fits { Self::Yes } else { Self::No }
    }
}
