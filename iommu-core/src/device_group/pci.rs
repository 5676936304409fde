//! PCI functions, grouped by topology.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use device_model::DeviceId;
use device_model::pci::{AcsQuirk, PciAddress, PciFunction, PciTopology};
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
    arrival: Arrival,
}

/// What is known of a function when it is grouped.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// Whether its device has others, for all were found before the first is grouped.
    #[default]
    AllFound,
    /// What it says itself.
    OneByOne,
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
        let function = dev.shared_description::<PciFunction>()?;
        let mut present = self.present.lock();
        let anchors = present.anchors(&function);
        let known = anchors.iter().find_map(|anchor| present.founders.get(anchor)).copied();
        let founder = known.unwrap_or(dev.id);
        present.founders.insert(function.address, founder);
        Some(DeviceGroup::founded_by(iommu, founder))
    }

    /// Says that all functions are there that the machine found when it started. From now on they are grouped one by one,
    /// as a running kernel finds them: a function that does not say itself that its device has several is taken for its
    /// only one, and does not join the others.
    pub fn boot_ended(&self) {
        self.present.lock().arrival = Arrival::OneByOne;
    }

    /// Takes a function out of the topology.
    pub fn pci_device_removed(&self, dev: &Endpoint) {
        let Some(function) = dev.description::<PciFunction>() else { return };
        let mut present = self.present.lock();
        present.topology.remove(function.address);
        present.founders.remove(&function.address);
    }
}

impl Present {
    /// Takes a function into the topology, and returns the anchors of its group.
    fn anchors(&mut self, function: &Arc<PciFunction>) -> Vec<PciAddress> {
        let address = function.address;
        let looks_alone =
            address.function() != 0 && function.physical_function.is_none() && !function.config.has_multifunction_bit();
        if self.arrival == Arrival::OneByOne && looks_alone {
            let alone = PciFunction { acs_quirk: Some(AcsQuirk::Isolated), ..PciFunction::clone(function) };
            self.topology.insert(alone);
            let anchors = grouping::anchors(&self.topology, address);
            self.topology.insert(function.clone());
            return anchors;
        }
        self.topology.insert(function.clone());
        grouping::anchors(&self.topology, address)
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
