//! The IOMMUs of a machine, and which functions are behind which.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use iommu_core::device_group::{DeviceGroup, PciGroups, Placement};
use iommu_core::device_model::pci::{PciAddress, PciFunction};
use iommu_core::failing::FailingIommu;
use iommu_core::hardware::{Endpoint, IommuDriver};
use iommu_core::software::{SoftIommu, SoftIommuConfig};

/// An IOMMU of a machine.
#[derive(Clone)]
pub(super) struct Iommu {
    pub(super) soft: Arc<SoftIommu>,
    /// Where failures can be injected.
    pub(super) failing: Option<Arc<FailingIommu>>,
}

/// Whether calls of the IOMMUs can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failures {
    None,
    OnCommand,
}

impl Iommu {
    fn new(name: &str, config: SoftIommuConfig, failures: Failures) -> Self {
        let soft = SoftIommu::new(name, config);
        let failing = (failures == Failures::OnCommand).then(|| FailingIommu::new(soft.clone()));
        Self { soft, failing }
    }

    fn driver(&self) -> Arc<dyn IommuDriver> {
        match &self.failing {
            Some(failing) => failing.clone(),
            None => self.soft.clone(),
        }
    }
}

/// All of them. `dmar0` serves what no other does.
#[derive(Debug, Clone)]
pub(super) struct Iommus {
    first: Iommu,
    others: Vec<Iommu>,
    served_by_others: BTreeMap<PciAddress, Iommu>,
}

impl Iommus {
    pub(super) fn new(
        first: SoftIommuConfig,
        others: impl IntoIterator<Item = (Vec<PciAddress>, SoftIommuConfig)>,
        failures: Failures,
    ) -> Self {
        let first = Iommu::new("dmar0", first, failures);
        let (mut units, mut served_by_others) = (Vec::new(), BTreeMap::new());
        for (number, (served, config)) in (1..).zip(others) {
            let unit = Iommu::new(&format!("dmar{number}"), config, failures);
            served_by_others.extend(served.into_iter().map(|address| (address, unit.clone())));
            units.push(unit);
        }
        Self { first, others: units, served_by_others }
    }

    pub(super) fn of(&self, address: PciAddress) -> &Iommu {
        self.served_by_others.get(&address).unwrap_or(&self.first)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Iommu> {
        core::iter::once(&self.first).chain(&self.others)
    }
}

/// How functions are grouped.
pub(super) enum Groups {
    /// By topology.
    Computed(Arc<PciGroups>),
    /// By the numbers that the tree gives.
    Listed(BTreeMap<PciAddress, u32>),
}

/// The groups of a machine's functions, each behind its IOMMU.
pub(super) struct Placed {
    pub(super) iommus: Iommus,
    pub(super) groups: Groups,
}

impl Placement for Placed {
    fn device_group(&self, dev: &Endpoint) -> Option<DeviceGroup> {
        let address = dev.description::<PciFunction>()?.address;
        let driver = self.iommus.of(address).driver();
        match &self.groups {
            Groups::Computed(groups) => groups.pci_device_group(&driver, dev),
            Groups::Listed(numbers) => Some(DeviceGroup::named(&driver, numbers.get(&address)?.to_string())),
        }
    }

    fn device_removed(&self, dev: &Endpoint) {
        if let Groups::Computed(groups) = &self.groups {
            groups.pci_device_removed(dev);
        }
    }
}

impl fmt::Debug for Iommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.soft.name())
    }
}
