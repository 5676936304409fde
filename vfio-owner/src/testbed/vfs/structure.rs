//! What decides which files there are, and where links lead.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::device_model::pci::PciFunction;
use iommu_core::device_model::{Device, DeviceId};
use iommu_core::hardware::{Description, IommuDriver};
use iommu_core::{GroupId, Member};

use super::super::machine::{Machine, Pci};
use super::device_text::reset_methods;
use crate::{DeviceNode, GroupNode};

/// A look at the lists of a machine. While it is the same, so are its files.
#[derive(Debug)]
pub(super) struct Survey {
    devices: Vec<Surveyed>,
    drivers: Vec<Arc<str>>,
    group_nodes: Vec<GroupNode>,
    device_nodes: Vec<DeviceNode>,
}

#[derive(Debug)]
struct Surveyed {
    dev: Arc<Device<Pci>>,
    driver: Option<Arc<str>>,
    member: Option<Arc<Member>>,
}

/// What of a survey is kept to tell another from it: it keeps no device that is gone.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Outline {
    devices: Vec<(DeviceId, Option<Arc<str>>, Option<GroupId>)>,
    drivers: Vec<Arc<str>>,
    group_nodes: Vec<GroupNode>,
    device_nodes: Vec<DeviceNode>,
}

impl Survey {
    pub(super) fn of(machine: &Machine) -> Self {
        let surveyed =
            |dev: Arc<Device<Pci>>| Surveyed { driver: dev.driver_hint(), member: dev.dma_slot().member(), dev };
        Self {
            devices: machine.pci().devices().into_iter().map(surveyed).collect(),
            drivers: machine.pci().drivers().iter().map(|driver| driver.name().clone()).collect(),
            group_nodes: machine.vfio().group_nodes(),
            device_nodes: machine.vfio().device_nodes(),
        }
    }

    pub(super) fn outline(&self) -> Outline {
        Outline {
            devices: self.devices.iter().map(|seen| (seen.dev.id(), seen.driver.clone(), seen.group())).collect(),
            drivers: self.drivers.clone(),
            group_nodes: self.group_nodes.clone(),
            device_nodes: self.device_nodes.clone(),
        }
    }
}

impl Outline {
    pub(super) fn is_of(&self, survey: &Survey) -> bool {
        let same = |seen: &Surveyed, (id, driver, group): &(DeviceId, Option<Arc<str>>, Option<GroupId>)| {
            seen.dev.id() == *id && seen.driver == *driver && seen.group() == *group
        };
        self.devices.len() == survey.devices.len()
            && survey.devices.iter().zip(&self.devices).all(|(seen, known)| same(seen, known))
            && self.drivers == survey.drivers
            && self.group_nodes == survey.group_nodes
            && self.device_nodes == survey.device_nodes
    }
}

impl Surveyed {
    fn group(&self) -> Option<GroupId> {
        self.member.as_ref().map(|member| member.group().id())
    }
}

/// The devices, drivers and groups of a machine at one moment. A device names only what is there.
#[derive(Debug)]
pub(super) struct Structure {
    /// Parents before what is below them.
    pub(super) devices: Vec<PciDevice>,
    pub(super) drivers: BTreeSet<Arc<str>>,
    pub(super) groups: BTreeSet<GroupId>,
    pub(super) group_nodes: Vec<GroupNode>,
    /// The IOMMUs, with what they say of themselves.
    pub(super) iommus: BTreeMap<Arc<str>, Description>,
    /// Whether there are files to inject faults.
    pub(super) injects_faults: bool,
}

#[derive(Debug)]
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
    pub(super) reset_methods: Vec<&'static str>,
}

impl Structure {
    pub(super) fn of(machine: &Machine, survey: Survey) -> Self {
        let Survey { devices: surveyed, drivers, mut group_nodes, device_nodes } = survey;
        let drivers: BTreeSet<Arc<str>> = drivers.into_iter().collect();
        let numbers: BTreeMap<Arc<str>, u32> =
            device_nodes.into_iter().map(|node| (node.device, node.number)).collect();
        let mut paths: BTreeMap<Arc<str>, String> = BTreeMap::new();
        let mut devices = Vec::with_capacity(surveyed.len());
        for Surveyed { dev, driver, member } in surveyed {
            let name = dev.name();
            let function = dev.description();
            let above = dev.parent().and_then(|parent| paths.get(parent.name()).cloned());
            let path = format!("{}/{name}", above.unwrap_or_else(|| root_bus(function)));
            paths.insert(name.clone(), path.clone());
            devices.push(PciDevice {
                name: name.clone(),
                id: dev.id(),
                path,
                function: function.clone(),
                driver: driver.filter(|driver| drivers.contains(driver)),
                group: member.as_ref().map(|member| member.group().id()),
                iommu: member.as_ref().and_then(|member| member.iommu()).map(|iommu| iommu.name().into()),
                vfio: numbers.get(name).copied(),
                reset_methods: reset_methods(&dev),
            });
        }
        let groups: BTreeSet<GroupId> = devices.iter().filter_map(|dev| dev.group).collect();
        group_nodes.retain(|node| groups.contains(&node.group));
        let iommus = machine.iommus().map(|iommu| (iommu.name().into(), iommu.config().description.clone())).collect();
        Self { devices, drivers, groups, group_nodes, iommus, injects_faults: machine.tests_iommufd() }
    }
}

/// The directory of a bus that is below no bridge.
fn root_bus(function: &PciFunction) -> String {
    format!("/sys/devices/pci{:04x}:{:02x}", function.address.domain(), function.address.bus())
}
