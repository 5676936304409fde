//! Buses: which driver fits which device, and what guards their DMA.

use crate::device::Device;
use crate::dma::DmaConfigure;
use crate::driver::{AnyDriver, Awaits};
use crate::errno::Errno;

/// A kind of bus.
///
/// Drivers and devices are typed by it: a driver registers with the bus that it is for, or does not compile.
/// `examples/own_bus.rs` is a whole bus.
pub trait Bus: Sized + Send + Sync + 'static {
    /// What the bus knows of a device: a [`PciFunction`](crate::pci::PciFunction), for instance.
    type Device: Send + Sync + 'static;

    /// An entry of a driver's id table.
    type Id: Send + Sync + 'static;

    /// The drivers of the bus: `dyn AnyDriver<Self>`, or a trait of the bus's own with more callbacks, of which
    /// [`AnyDriver<Self>`](AnyDriver) is a supertrait.
    type Driver: AnyDriver<Self> + ?Sized;

    /// What guards the DMA of its devices; [`Unprotected`](crate::Unprotected) where nothing does.
    type Dma: DmaConfigure<Self::Device>;

    /// Returns the name: `"pci"`, `"platform"`.
    fn name(&self) -> &str;

    /// Returns what guards DMA.
    fn dma(&self) -> &Self::Dma;

    /// Returns whether `driver` fits `dev`. Called with or without the lock of the device, so it must rest on what
    /// does not change, and on [`Device::override_verdict`].
    fn matches(&self, dev: &Device<Self>, driver: &Self::Driver) -> Match;

    /// Hears of a driver that has been unregistered and has no device any more.
    fn driver_removed(&self, driver: &Self::Driver) {
        let _ = driver;
    }
}

/// The right to use the DMA API on a bus.
pub type UseOf<B> = <<B as Bus>::Dma as DmaConfigure<<B as Bus>::Device>>::Use;

/// Why DMA is refused on a bus.
pub type DmaErrorOf<B> = <<B as Bus>::Dma as DmaConfigure<<B as Bus>::Device>>::Error;

/// What whoever guards DMA keeps for each device of a bus.
pub type SlotOf<B> = <<B as Bus>::Dma as DmaConfigure<<B as Bus>::Device>>::Slot;

/// Whether a driver fits a device.
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

impl From<bool> for Match {
    fn from(fits: bool) -> Self {
        if fits { Self::Yes } else { Self::No }
    }
}
