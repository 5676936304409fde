//! PCI functions behind one IOMMU, grouped by topology.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::fmt;

use device_model::Device;
use device_model::pci::{PciAddress, PciFunction, PciTopology};
use device_model::sync::Mutex;

use super::{GroupKey, Placement, Placing};
use crate::grouping;
use crate::hardware::IommuDriver;

/// Places PCI functions as [`grouping`] says, following hot-plug: a function that comes joins the group of whichever
/// function it cannot be told apart from, else it founds one.
///
/// A device must carry its [`PciFunction`] as its details; any other is served by no IOMMU.
pub struct PciPlacing {
    iommu: Arc<dyn IommuDriver>,
    /// Leaf lock, inside the probe lock.
    present: Mutex<Present>,
}

#[derive(Default)]
struct Present {
    topology: PciTopology,
    keys: BTreeMap<PciAddress, u64>,
    next: u64,
}

impl PciPlacing {
    /// All functions are behind `iommu`.
    pub fn new(iommu: Arc<dyn IommuDriver>) -> Self {
        Self { iommu, present: Mutex::default() }
    }
}

impl Placing for PciPlacing {
    fn place(&self, dev: &Device) -> Option<Placement> {
        let function = dev.details::<PciFunction>()?;
        let mut present = self.present.lock();
        present.topology.insert(function.clone());
        let anchors = grouping::anchors(&present.topology, function.address);
        let known = anchors.iter().find_map(|anchor| present.keys.get(anchor)).copied();
        let key = known.unwrap_or_else(|| {
            present.next += 1;
            present.next
        });
        present.keys.insert(function.address, key);
        Some(Placement { iommu: self.iommu.clone(), key: GroupKey::Pci(key) })
    }

    fn forget(&self, dev: &Device) {
        let Some(function) = dev.details::<PciFunction>() else { return };
        let mut present = self.present.lock();
        present.topology.remove(function.address);
        present.keys.remove(&function.address);
    }
}

impl fmt::Debug for PciPlacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciPlacing").field("iommu", &self.iommu).finish_non_exhaustive()
    }
}
