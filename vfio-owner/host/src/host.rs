//! A machine, as far as it is known.

use std::collections::BTreeMap;

use vfio_owner::iommu_core::device_model::pci::{PciAddress, PciTopology};
use vfio_owner::iommu_core::sysfs::{Snapshot, SysfsDevice};

use crate::read::{HeldFile, Holder, Holders, Lifeline, Purpose, Source, Trial, Unseen};

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
    /// What of this the source does not show.
    pub unseen: Vec<Unseen>,
    /// Who has files of VFIO open.
    pub holders: Holders,
    /// What opening the files of groups came to, where it was tried.
    pub trials: BTreeMap<u32, Trial>,
    /// Whether containers can be used; `None` if it is not shown, or VFIO is not there at all.
    pub type1: Option<Type1>,
    /// The files that VFIO has for devices themselves (`vfio3`), by device.
    pub device_files: BTreeMap<PciAddress, String>,
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

    /// The processes that hold the device, its group, or a device of which it is not shown which it is.
    pub(crate) fn holders_of(&self, device: PciAddress) -> impl Iterator<Item = &Holder> {
        let group = self.pci.device(device).and_then(|device| device.group);
        let own = self.device_files.get(&device);
        self.holders.known().iter().filter(move |holder| match &holder.file {
            HeldFile::Group(number) => Some(*number) == group,
            HeldFile::Device(name) => Some(name) == own,
            HeldFile::SomeDevice => true,
        })
    }
}

/// Whether `vfio_iommu_type1`, which every container needs, is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type1 {
    /// It is.
    Loaded,
    /// It is not, though VFIO is.
    NotLoaded,
}

/// There is no device at the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no device {device}")]
pub struct NoSuchDevice {
    /// The address.
    pub device: PciAddress,
}
