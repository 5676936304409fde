//! A machine, as far as it is known.

use std::collections::BTreeMap;

use vfio_owner::iommu_core::device_model::pci::{PciAddress, PciTopology};
use vfio_owner::iommu_core::sysfs::{Snapshot, SysfsDevice};

use crate::read::{Holders, Lifeline, Purpose, Source};

/// A machine, as far as its source shows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Host {
    /// Its PCI functions, drivers and groups.
    pub pci: Snapshot,
    /// The same functions, joined by bridges.
    pub(crate) topology: PciTopology,
    /// How many virtual functions each has that has any.
    pub(crate) virtual_functions: BTreeMap<PciAddress, usize>,
    /// Where this is known from.
    pub source: Source,
    /// What the machine lives on; `None` if the source does not tell.
    pub lifelines: Option<Vec<Lifeline>>,
    /// Who has files of VFIO open.
    pub holders: Holders,
    /// The files that VFIO has for devices themselves (`vfio3`), by device.
    pub device_files: BTreeMap<PciAddress, String>,
    /// The interfaces and disks by name, and the device that each is on.
    pub(crate) names: BTreeMap<String, PciAddress>,
}

impl Host {
    /// A host of which no more is known than a tree says.
    pub fn of_snapshot(pci: Snapshot) -> Self {
        let topology = pci.topology();
        let mut virtual_functions = BTreeMap::new();
        for owner in pci.devices.iter().filter_map(|device| device.function.physical_function) {
            *virtual_functions.entry(owner).or_default() += 1;
        }
        Self { pci, topology, virtual_functions, ..Self::default() }
    }

    /// The device at `address`.
    ///
    /// # Errors
    /// There is none.
    pub fn device(&self, address: PciAddress) -> Result<&SysfsDevice, NoSuchDevice> {
        self.pci.device(address).ok_or(NoSuchDevice { device: address })
    }

    /// How many virtual functions a device has.
    pub fn virtual_functions(&self, device: PciAddress) -> usize {
        self.virtual_functions.get(&device).copied().unwrap_or(0)
    }

    /// What the machine has this device for, as far as it is known.
    pub fn purposes(&self, device: PciAddress) -> impl Iterator<Item = &Purpose> {
        let lifelines = self.lifelines.iter().flatten();
        lifelines.filter(move |lifeline| lifeline.device == device).map(|lifeline| &lifeline.purpose)
    }
}

/// There is no device at the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no device {device}")]
pub struct NoSuchDevice {
    /// The address.
    pub device: PciAddress,
}
