//! The PCI bus.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::config::ConfigSpace;
use super::function::PciFunction;
use super::id::PciId;
use crate::binding;
use crate::bus::{Bus, Match};
use crate::bus_handle::BusHandle;
use crate::device::Device;
use crate::dma::DmaConfigure;
use crate::driver::AnyDriver;
use crate::driver_override::Override;
use crate::errno::Errno;
use crate::registration::DriverHandle;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// The PCI bus; `G` configures the DMA of its devices.
pub struct PciBus<G> {
    dma: G,
    /// How many drivers have dynamic ids; lets a match without any pass without the lock.
    drivers: AtomicUsize,
    /// Leaf lock: the ids that were added to each driver, by its name.
    dynamic_ids: Mutex<BTreeMap<Arc<str>, Vec<PciId>>>,
}

impl<G: DmaConfigure<PciFunction>> PciBus<G> {
    /// Creates a PCI bus whose drivers do DMA as `dma` allows.
    pub fn new(dma: G) -> Self {
        Self { dma, drivers: AtomicUsize::new(0), dynamic_ids: Mutex::new(BTreeMap::new()) }
    }

    /// Whether an id fits: dynamic ones first, then those of the table that count without an override.
    // D19.
    fn fits(&self, driver: &dyn AnyDriver<Self>, config: &ConfigSpace) -> bool {
        let fits = |id: &PciId| !id.override_only && id.matches(config);
        let dynamic = || self.dynamic_ids.lock().get(driver.name()).is_some_and(|ids| ids.iter().any(fits));
        (self.drivers.load(Ordering::Acquire) > 0 && dynamic()) || driver.ids().iter().any(fits)
    }

    fn change_ids<R>(&self, change: impl FnOnce(&mut BTreeMap<Arc<str>, Vec<PciId>>) -> R) -> R {
        let mut ids = self.dynamic_ids.lock();
        let result = change(&mut ids);
        ids.retain(|_, ids| !ids.is_empty());
        self.drivers.store(ids.len(), Ordering::Release);
        result
    }
}

impl<G> fmt::Debug for PciBus<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PciBus")
    }
}

impl<G: DmaConfigure<PciFunction>> Bus for PciBus<G> {
    type Device = PciFunction;
    type Id = PciId;
    type Driver = dyn AnyDriver<Self>;
    type Dma = G;

    fn name(&self) -> &'static str {
        "pci"
    }

    fn dma(&self) -> &G {
        &self.dma
    }

    /// An override always matches, whatever the ids.
    fn matches(&self, dev: &Device<Self>, driver: &dyn AnyDriver<Self>) -> Match {
        let fits = match dev.override_verdict(driver.name()) {
            Override::Demands => true,
            Override::Excludes => false,
            Override::Unset => self.fits(driver, &dev.description().config),
        };
        fits.into()
    }

    fn driver_removed(&self, driver: &dyn AnyDriver<Self>) {
        self.change_ids(|ids| ids.remove(driver.name()));
    }
}

impl<G: DmaConfigure<PciFunction>> BusHandle<PciBus<G>> {
    /// Adds a dynamic id to a driver and probes the driver for every device, as a write to `new_id` in sysfs does.
    /// Takes device locks as [`add_driver`](Self::add_driver) does.
    ///
    /// # Errors
    /// Fails if the driver has an id already that [covers](PciId::covers) it and counts without an override, or is being
    /// unregistered.
    pub fn new_id(&self, driver: &DriverHandle<PciBus<G>>, id: PciId) -> Result<(), DynamicIdError> {
        let name = driver.name();
        if driver.is_leaving() {
            return Err(DynamicIdError::DriverGone { driver: name.clone() });
        }
        let covers = |known: &PciId| !known.override_only && known.covers(&id);
        let known = driver.driver().ids().iter().any(covers);
        let added = !known
            && self.bus().change_ids(|ids| {
                let ids = ids.entry(name.clone()).or_default();
                let new = !ids.iter().any(covers);
                if new {
                    ids.push(id);
                }
                new
            });
        if !added {
            return Err(DynamicIdError::Known { driver: name.clone() });
        }
        binding::try_on_all(&driver.0);
        Ok(())
    }

    /// Removes the first id that [`new_id`](Self::new_id) added and `id` names, as a write to `remove_id` in sysfs does.
    /// Vendor and device are compared as they are; where the subsystem is any, and in the bits of the class that are not
    /// in its mask, every id is named. Unbinds nothing.
    ///
    /// # Errors
    /// Fails if the driver has no such dynamic id.
    pub fn remove_id(&self, driver: &DriverHandle<PciBus<G>>, id: PciId) -> Result<(), DynamicIdError> {
        let name = driver.name();
        let removed = self.bus().change_ids(|ids| {
            let ids = ids.get_mut(name)?;
            let at = ids.iter().position(|known| is_named(known, &id))?;
            Some(ids.remove(at))
        });
        removed.map(drop).ok_or_else(|| DynamicIdError::Unknown { driver: name.clone() })
    }
}

fn is_named(known: &PciId, id: &PciId) -> bool {
    (known.vendor, known.device) == (id.vendor, id.device) && id.covers(known)
}

/// Why the dynamic ids of a driver were not changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DynamicIdError {
    /// The driver has the id already.
    #[error("{driver} has this id already")]
    Known {
        /// The driver.
        driver: Arc<str>,
    },
    /// The driver has no such dynamic id.
    #[error("{driver} has no such dynamic id")]
    Unknown {
        /// The driver.
        driver: Arc<str>,
    },
    /// The driver is being unregistered.
    #[error("{driver} is being unregistered")]
    DriverGone {
        /// The driver.
        driver: Arc<str>,
    },
}

impl DynamicIdError {
    /// Returns the error number of the write: `EEXIST` for an id that is known, else `ENODEV`.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Known { .. } => Errno::EEXIST,
            Self::Unknown { .. } | Self::DriverGone { .. } => Errno::ENODEV,
        }
    }
}
