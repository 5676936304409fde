//! A machine, as far as its source shows it.

use std::collections::{BTreeMap, BTreeSet};

use vfio_owner::iommu_core::device_model::pci::{PciAddress, PciTopology};
use vfio_owner::iommu_core::sysfs::{Snapshot, SysfsDevice};
use vfio_owner::viability::{DriverDma, dma_of};

use crate::Fact;
use crate::read::{
    HeldFile, Holder, Holders, IommuState, Lifeline, Origin, OtherMember, Purpose, Source, Trial, Unseen,
};

/// A machine, as far as its source shows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Host {
    /// PCI functions, drivers and groups, as far as shown. A driver or a group that is missing here may exist unseen:
    /// [`driver`](Self::driver) and [`group`](Self::group) distinguish the two. A group whose members are shown and whose
    /// number is not has a number here that no group of a machine has.
    pub pci: Snapshot,
    /// Members of groups that are not PCI functions, by group.
    pub other_members: Vec<OtherMember>,
    /// The same functions, joined by bridges.
    pub(crate) topology: PciTopology,
    /// How many virtual functions each has that has any.
    pub(crate) virtual_functions: BTreeMap<PciAddress, usize>,
    /// Where the facts come from.
    pub source: Source,
    /// Devices in use by the host; `None` if the source does not show them.
    pub lifelines: Option<Vec<Lifeline>>,
    /// What the source does not show about devices in use by the host.
    pub unseen: Vec<Unseen>,
    /// Processes that have VFIO files open.
    pub holders: Holders,
    /// Results of trying to open group files, where it was tried.
    pub trials: BTreeMap<u32, Trial>,
    /// Whether containers can be used; `None` if it is not shown, or VFIO is not loaded.
    pub type1: Option<Type1>,
    /// VFIO device files (`vfio3`), by device.
    pub device_files: BTreeMap<PciAddress, String>,
    /// The interfaces and disks by name, and the device that each is on.
    pub(crate) names: BTreeMap<String, PciAddress>,
    /// Origins of the drivers whose modules show it.
    pub origins: BTreeMap<String, Origin>,
    /// NUMA nodes, by device.
    pub numa_nodes: BTreeMap<PciAddress, u32>,
    /// Whether an IOMMU is enabled, as far as firmware, command line and log show.
    pub iommu: IommuState,
    /// What the source does not show of the devices that it names.
    pub(crate) gaps: Gaps,
    /// What a listing calls its devices.
    pub(crate) words: BTreeMap<PciAddress, Words>,
    /// Devices that the kernel's log says it refuses to user space, for firmware needs them mapped.
    // I33.
    pub(crate) refused: BTreeSet<PciAddress>,
    /// The functions of which each virtual function is one, when it is known only that it must be one of these.
    pub(crate) parents: BTreeMap<PciAddress, Vec<PciAddress>>,
    /// The same, the other way round.
    pub(crate) children: BTreeMap<PciAddress, Vec<PciAddress>>,
}

/// What a source does not show.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Gaps {
    /// The devices whose drivers are not shown.
    pub(crate) drivers: BTreeSet<PciAddress>,
    /// The devices whose groups are not shown.
    pub(crate) groups: BTreeSet<PciAddress>,
    /// The groups whose numbers are not shown.
    pub(crate) unnumbered: BTreeSet<u32>,
    /// The groups that may have members besides those that are shown.
    pub(crate) members: BTreeSet<u32>,
    /// How many lines were not understood.
    pub(crate) skipped_lines: usize,
    /// The lines among those that may be about a device or a group.
    pub(crate) doubtful_lines: Vec<usize>,
}

/// What a listing calls a device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Words {
    /// The kind of device.
    pub(crate) class: String,
    /// Its maker and name.
    pub(crate) name: String,
}

impl Host {
    /// Creates a host of which only a tree is known.
    pub fn of_snapshot(pci: Snapshot) -> Self {
        let topology = pci.topology();
        let mut virtual_functions = BTreeMap::new();
        for owner in pci.devices.iter().filter_map(|device| device.function.physical_function) {
            *virtual_functions.entry(owner).or_default() += 1;
        }
        Self { pci, topology, virtual_functions, ..Self::default() }
    }

    /// Returns the device at `address`.
    ///
    /// # Errors
    /// Fails if there is none.
    pub fn device(&self, address: PciAddress) -> Result<&SysfsDevice, NoSuchDevice> {
        self.pci.device(address).ok_or(NoSuchDevice { device: address })
    }

    /// Returns the driver that is bound to a device.
    pub fn driver(&self, device: PciAddress) -> Fact<&str> {
        self.pci.device(device).map_or(Fact::Unknown, |found| self.driver_of(found))
    }

    /// The same of a device that has been looked up.
    pub(crate) fn driver_of<'a>(&self, device: &'a SysfsDevice) -> Fact<&'a str> {
        match device.driver.as_deref() {
            Some(driver) => Fact::Is(driver),
            None if self.gaps.drivers.contains(&device.function.address) => Fact::Unknown,
            None => Fact::Absent,
        }
    }

    /// Returns the number of the group that a device is in.
    pub fn group(&self, device: PciAddress) -> Fact<u32> {
        self.numbered(self.pci.device(device).map_or(Fact::Unknown, |found| self.group_of(found)))
    }

    /// The number of a group, if it is shown.
    pub(crate) fn numbered(&self, group: Fact<u32>) -> Fact<u32> {
        match group {
            Fact::Is(number) if self.gaps.unnumbered.contains(&number) => Fact::Unknown,
            group => group,
        }
    }

    /// The group of a device that has been looked up, also where its number is not shown.
    pub(crate) fn group_of(&self, device: &SysfsDevice) -> Fact<u32> {
        match device.group {
            Some(group) => Fact::Is(group),
            None if self.gaps.groups.contains(&device.function.address) => Fact::Unknown,
            None => Fact::Absent,
        }
    }

    /// Returns what a PCI driver means for DMA ownership, from its name and the origin of its module.
    pub fn dma_of(&self, driver: &str) -> DriverDma {
        match (dma_of(driver), self.origins.get(driver)) {
            // Any name can be given to a driver.
            (_, Some(Origin::OutOfTree)) => DriverDma::Unknown,
            // It is newer than the list; and of Linux's own, only the variants of vfio-pci manage their DMA.
            (DriverDma::Unknown, Some(Origin::InTree)) if !driver.contains("vfio") => DriverDma::Kernel,
            (known, _) => known,
        }
    }

    /// Returns whether a device is bound to a driver that hands it to user space.
    pub(crate) fn is_handed_out(&self, device: PciAddress) -> bool {
        self.pci.device(device).is_some_and(|found| self.hands_out(found))
    }

    /// The same of a device that has been looked up.
    pub(crate) fn hands_out(&self, device: &SysfsDevice) -> bool {
        device.driver.as_deref().is_some_and(|driver| self.dma_of(driver) == DriverDma::UserSpace)
    }

    /// Returns the members of a group that are not PCI functions.
    pub fn other_members(&self, group: u32) -> &[OtherMember] {
        let [start, end] = [group, group.saturating_add(1)]
            .map(|number| self.other_members.partition_point(|member| member.group < number));
        self.other_members.get(start..end).unwrap_or_default()
    }

    /// Returns how many lines of a listing were not understood.
    pub fn skipped_lines(&self) -> usize {
        self.gaps.skipped_lines
    }

    /// Returns the lines of a listing that were not understood although they may concern a device or a group, counted
    /// from 1.
    pub fn doubtful_lines(&self) -> &[usize] {
        &self.gaps.doubtful_lines
    }

    /// Returns how many virtual functions a device has.
    pub fn virtual_functions(&self, device: PciAddress) -> usize {
        self.virtual_functions.get(&device).copied().unwrap_or(0)
    }

    /// Returns what the host uses this device for, as far as known.
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

/// Whether `vfio_iommu_type1`, which every container needs, is loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type1 {
    /// It is loaded.
    Loaded,
    /// It is not loaded, though VFIO is.
    NotLoaded,
}

/// There is no device at the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no device {device}")]
pub struct NoSuchDevice {
    /// The address.
    pub device: PciAddress,
}
