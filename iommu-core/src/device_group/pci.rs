//! PCI functions, grouped by topology.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::fmt;

use device_model::DeviceId;
use device_model::pci::{PciAddress, PciFunction, PciTopology};
use device_model::sync::{LockClass, Mutex};

use super::{DeviceGroup, Placement};
use crate::grouping;
use crate::hardware::{Endpoint, IommuDriver};

const TOPOLOGY_LOCK: LockClass = LockClass::new("topology of PCI groups", 730);

/// Groups PCI functions as [`grouping`] says, following hot-plug: a function that comes joins the group of whichever
/// function it cannot be told apart from, else it founds one.
///
/// It holds the topology of any number of segments and IOMMUs; [`pci_device_group`](Self::pci_device_group) answers for a
/// function and the IOMMU that serves it. As a [`Placement`] it stands for functions that are all behind one IOMMU. A
/// device is a function if its [description](Endpoint::description) is a [`PciFunction`].
pub struct PciGroups {
    iommu: Option<Arc<dyn IommuDriver>>,
    present: Mutex<Present>,
}

#[derive(Default)]
struct Present {
    topology: PciTopology,
    founders: BTreeMap<PciAddress, DeviceId>,
}

impl PciGroups {
    /// Makes an empty topology, for functions behind several IOMMUs.
    pub fn new() -> Self {
        Self { iommu: None, present: Mutex::of(TOPOLOGY_LOCK, Present::default()) }
    }

    /// Makes an empty topology, for functions that are all behind `iommu`.
    pub fn behind(iommu: Arc<dyn IommuDriver>) -> Self {
        Self { iommu: Some(iommu), ..Self::new() }
    }

    /// Returns the group of a function that `iommu` serves, and takes the function into the topology; `None` for what is no
    /// PCI function.
    pub fn pci_device_group(&self, iommu: &Arc<dyn IommuDriver>, dev: &Endpoint) -> Option<DeviceGroup> {
        let function = dev.description::<PciFunction>()?;
        let mut present = self.present.lock();
        present.topology.insert(function.clone());
        let anchors = grouping::anchors(&present.topology, function.address);
        let known = anchors.iter().find_map(|anchor| present.founders.get(anchor)).copied();
        let founder = known.unwrap_or(dev.id);
        present.founders.insert(function.address, founder);
        Some(DeviceGroup::founded_by(iommu, founder))
    }

    /// Takes a function out of the topology.
    pub fn pci_device_removed(&self, dev: &Endpoint) {
        let Some(function) = dev.description::<PciFunction>() else { return };
        let mut present = self.present.lock();
        present.topology.remove(function.address);
        present.founders.remove(&function.address);
    }
}

impl Default for PciGroups {
    fn default() -> Self {
        Self::new()
    }
}

impl Placement for PciGroups {
    fn device_group(&self, dev: &Endpoint) -> Option<DeviceGroup> {
        self.pci_device_group(self.iommu.as_ref()?, dev)
    }

    fn device_removed(&self, dev: &Endpoint) {
        self.pci_device_removed(dev);
    }
}

impl fmt::Debug for PciGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciGroups").field("iommu", &self.iommu).finish_non_exhaustive()
    }
}
