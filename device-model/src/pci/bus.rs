//! The PCI bus of the driver core.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use super::config::ConfigSpace;
use super::function::PciFunction;
use super::id::{Applies, PciId};
use crate::bus::{Bus, Match};
use crate::device::{Device, DeviceGuard, Override};
use crate::dma::{DmaConfigure, DmaUse};
use crate::driver::{DmaApi, Driver, ProbeError, Removal};
use crate::sync::Mutex;

/// The PCI bus. Its devices carry a [`PciFunction`] as their [details](Device::details).
pub struct PciBus {
    dma: Arc<dyn DmaConfigure>,
}

impl PciBus {
    /// A PCI bus whose drivers do DMA as `dma` allows.
    pub fn new(dma: Arc<dyn DmaConfigure>) -> Self {
        Self { dma }
    }
}

impl fmt::Debug for PciBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PciBus")
    }
}

/// A driver for PCI functions.
#[derive(Debug)]
pub struct PciDriver {
    driver: Arc<dyn Driver>,
    ids: Vec<PciId>,
    dma_api: DmaApi,
    /// Leaf lock.
    dynamic_ids: Mutex<Vec<PciId>>,
}

impl PciDriver {
    /// `driver`, for the functions that one of `ids` fits.
    pub fn new(driver: Arc<dyn Driver>, ids: impl Into<Vec<PciId>>, dma_api: DmaApi) -> Self {
        Self { driver, ids: ids.into(), dma_api, dynamic_ids: Mutex::new(Vec::new()) }
    }

    /// Adds an id, as a write to the driver's `new_id` does (D20), but for trying it on devices; for that, look for
    /// drivers by hand.
    pub fn add_id(&self, id: PciId) {
        self.dynamic_ids.lock().push(id);
    }

    /// Whether it does DMA through the DMA API.
    pub fn dma_api(&self) -> DmaApi {
        self.dma_api
    }

    /// Whether an id fits: dynamic ones first, then those of the table that count without an override (D19).
    fn fits(&self, config: &ConfigSpace) -> bool {
        let fits = |id: &PciId| id.applies == Applies::Always && id.matches(config);
        self.dynamic_ids.lock().iter().any(fits) || self.ids.iter().any(fits)
    }
}

impl Driver for PciDriver {
    fn name(&self) -> &Arc<str> {
        self.driver.name()
    }

    fn probe(&self, dev: &mut DeviceGuard<'_>) -> Result<(), ProbeError> {
        self.driver.probe(dev)
    }

    fn remove(&self, dev: &mut DeviceGuard<'_>, attempt: u32) -> Removal {
        self.driver.remove(dev, attempt)
    }
}

fn typed(driver: &dyn Driver) -> Option<&PciDriver> {
    (driver as &dyn Any).downcast_ref()
}

impl Bus for PciBus {
    fn name(&self) -> &'static str {
        "pci"
    }

    /// An override always matches, whatever the ids (D19).
    fn matches(&self, dev: &Device, driver: &dyn Driver) -> Match {
        let (Some(driver), Some(function)) = (typed(driver), dev.details::<PciFunction>()) else { return Match::No };
        let fits = match dev.override_verdict(driver.name()) {
            Override::Demands => true,
            Override::Excludes => false,
            Override::Unset => driver.fits(&function.config),
        };
        if fits { Match::Yes } else { Match::No }
    }

    /// A driver that manages its own DMA begins no use (Dt13.1, D63).
    fn dma_configure(&self, dev: &DeviceGuard<'_>) -> Result<DmaUse, ProbeError> {
        let api = dev.driver().and_then(|driver| typed(&**driver)).map_or(DmaApi::Kernel, PciDriver::dma_api);
        self.dma.dma_configure(dev, api)
    }
}
