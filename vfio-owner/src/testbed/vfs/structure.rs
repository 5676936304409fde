//! What decides which files there are, and where links lead.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::GroupId;
use iommu_core::device_model::DeviceId;
use iommu_core::device_model::pci::PciFunction;

use super::super::machine::Machine;
use crate::GroupNode;

/// The devices, drivers and groups of a machine at one moment. A device names only what is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Structure {
    /// Parents before what is below them.
    pub(super) devices: Vec<PciDevice>,
    pub(super) drivers: BTreeSet<Arc<str>>,
    pub(super) groups: BTreeSet<GroupId>,
    pub(super) group_nodes: Vec<GroupNode>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PciDevice {
    pub(super) name: Arc<str>,
    pub(super) id: DeviceId,
    /// Directory of the device, from the root.
    pub(super) path: String,
    pub(super) function: Arc<PciFunction>,
    pub(super) driver: Option<Arc<str>>,
    pub(super) group: Option<GroupId>,
    pub(super) iommu: Option<Arc<str>>,
    /// The X of `vfioX`.
    pub(super) vfio: Option<u32>,
}

impl Structure {
    pub(super) fn of(machine: &Machine) -> Self {
        let drivers = machine.pci().drivers().iter().map(|driver| driver.name().clone()).collect();
        let mut structure =
            Self { devices: Vec::new(), drivers, groups: BTreeSet::new(), group_nodes: machine.vfio().group_nodes() };
        let numbers: BTreeMap<Arc<str>, u32> =
            machine.vfio().device_nodes().into_iter().map(|node| (node.device, node.number)).collect();
        let mut paths: BTreeMap<Arc<str>, String> = BTreeMap::new();
        for dev in machine.pci().devices() {
            let name = dev.name();
            let function = dev.description();
            let above = dev.parent().and_then(|parent| paths.get(parent.name()).cloned());
            let above = above.unwrap_or_else(|| root_bus(function));
            let path = format!("{above}/{name}");
            paths.insert(name.clone(), path.clone());
            let member = dev.dma_slot().member();
            structure.devices.push(PciDevice {
                name: name.clone(),
                id: dev.id(),
                path,
                function: function.clone(),
                driver: dev.driver_hint().filter(|driver| structure.drivers.contains(driver)),
                group: member.as_ref().map(|member| member.group().id()),
                iommu: member.as_ref().and_then(|member| member.iommu()).map(|iommu| iommu.name().into()),
                vfio: numbers.get(name).copied(),
            });
        }
        structure.groups = structure.devices.iter().filter_map(|dev| dev.group).collect();
        structure.group_nodes.retain(|node| structure.groups.contains(&node.group));
        structure
    }
}

/// The directory of a bus that is below no bridge.
fn root_bus(function: &PciFunction) -> String {
    format!("/sys/devices/pci{:04x}:{:02x}", function.address.domain(), function.address.bus())
}
