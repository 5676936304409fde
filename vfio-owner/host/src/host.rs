//! A machine, as far as it is known.

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
    /// Its PCI functions, drivers and groups, as far as they are shown. That a driver or a group is missing here may
    /// mean that it is not shown: [`driver`](Self::driver) and [`group`](Self::group) tell the two apart.
    pub pci: Snapshot,
    /// The members of its groups that are no PCI functions, by group.
    pub other_members: Vec<OtherMember>,
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
    /// The interfaces and disks by name, and the device that each is on.
    pub(crate) names: BTreeMap<String, PciAddress>,
    /// Where the drivers come from whose modules tell.
    pub origins: BTreeMap<String, Origin>,
    /// The NUMA node of each device that is near one.
    pub numa_nodes: BTreeMap<PciAddress, u32>,
    /// Whether an IOMMU is switched on, as far as firmware, command line and log show.
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

    /// Returns the driver that a device is bound to.
    pub fn driver(&self, device: PciAddress) -> Fact<&str> {
        match self.pci.device(device).map(|found| found.driver.as_deref()) {
            Some(Some(driver)) => Fact::Is(driver),
            Some(None) if !self.gaps.drivers.contains(&device) => Fact::Absent,
            Some(None) | None => Fact::Unknown,
        }
    }

    /// Returns the number of the group that a device is in.
    pub fn group(&self, device: PciAddress) -> Fact<u32> {
        match self.pci.device(device).map(|found| found.group) {
            Some(Some(group)) => Fact::Is(group),
            Some(None) if !self.gaps.groups.contains(&device) => Fact::Absent,
            Some(None) | None => Fact::Unknown,
        }
    }

    /// Returns how a PCI driver stands to DMA ownership: by its name, and by where its module comes from.
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
        self.driver(device).known().is_some_and(|driver| self.dma_of(driver) == DriverDma::UserSpace)
    }

    /// Returns the members of a group that are no PCI functions.
    pub fn other_members(&self, group: u32) -> &[OtherMember] {
        let [start, end] = [group, group.saturating_add(1)]
            .map(|number| self.other_members.partition_point(|member| member.group < number));
        self.other_members.get(start..end).unwrap_or_default()
    }

    /// How many lines of a listing were not understood.
    pub fn skipped_lines(&self) -> usize {
        self.gaps.skipped_lines
    }

    /// The lines of a listing that were not understood although they may be about a device or a group, counted from 1.
    pub fn doubtful_lines(&self) -> &[usize] {
        &self.gaps.doubtful_lines
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
