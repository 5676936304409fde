//! The host that the facts of a listing describe, and what is concluded from what they leave out.

use std::collections::{BTreeMap, BTreeSet};

use vfio_owner::iommu_core::device_model::pci::{ConfigSpace, Devfn, PciAddress, PciFunction};
use vfio_owner::iommu_core::reserved::ReservedRegion;
use vfio_owner::iommu_core::sysfs::{Snapshot, SysfsDevice, SysfsDriver, SysfsGroup};

use super::{Facts, Log, Record};
use crate::Host;
use crate::host::{Gaps, Words};
use crate::read::{IommuState, Source};

/// The class of bridges between PCI buses, whose header is of a bridge.
const CLASS_PCI_BRIDGE: u32 = 0x0604;

/// A virtual function is said to be of one of so many functions at most.
const MOST_PARENTS: usize = 8;

impl Facts {
    /// The host that is described.
    pub(in crate::read::listing) fn into_host(mut self) -> Host {
        self.conclude_mentions();
        self.conclude_drivers();
        self.conclude_groups();
        self.conclude_bridges();
        let parents = self.conclude_parents();
        let mut children: BTreeMap<PciAddress, Vec<PciAddress>> = BTreeMap::new();
        for (address, candidates) in &parents {
            for parent in candidates {
                children.entry(*parent).or_default().push(*address);
            }
        }
        let gaps = self.gaps();
        let functions = self.devices.iter().map(|(address, record)| record.device(*address));
        let host = Host::of_snapshot(snapshot(functions.collect(), self.regions));
        let words = self.devices.iter().map(|(address, record)| (*address, record.words.clone()));
        let nodes = self.devices.iter().filter_map(|(address, record)| Some((*address, record.numa_node?)));
        let grouped = !host.pci.groups.is_empty() || !self.others.is_empty();
        Host {
            source: Source::Listing,
            other_members: self.others.into_values().collect(),
            numa_nodes: nodes.collect(),
            iommu: if grouped { IommuState::On } else { self.iommu },
            gaps,
            words: words.filter(|(_, words)| *words != Words::default()).collect(),
            refused: self.refused,
            parents,
            children,
            ..host
        }
    }

    /// What is named in passing is a device, unless it is one that is listed and only its domain was left out.
    fn conclude_mentions(&mut self) {
        let place = |device: &PciAddress| (device.bus(), device.devfn());
        let elsewhere: BTreeSet<_> = self.devices.keys().filter(|device| device.domain() != 0).map(place).collect();
        for device in std::mem::take(&mut self.mentioned) {
            if device.domain() != 0 || !elsewhere.contains(&place(&device)) {
                self.device(device);
            }
        }
    }

    /// A device whose driver is not shown has none if what shows it in detail shows the drivers of others.
    fn conclude_drivers(&mut self) {
        for record in self.devices.values_mut().filter(|record| record.driver.is_none() && !record.driver_unread) {
            if record.modules || record.detailed_in.is_some_and(|block| self.drivers_in.contains(&(record.form, block)))
            {
                record.driver = Some((None, 0));
            }
        }
    }

    /// Where all groups are listed, and none of them has a PCI function, no function has one; nor without an IOMMU.
    fn conclude_groups(&mut self) {
        let any = self.devices.values().any(|record| record.group.is_some() || record.perhaps_in.is_some());
        // The groups that are there are numbered from 0; in a list that was cut, the first has a PCI function.
        let whole =
            !self.enumerated.is_empty() && self.enumerated.iter().zip(0..).all(|(group, place)| *group == place);
        if !any && self.no_groups && self.log == Log::Described && self.iommu == IommuState::NotShown {
            self.iommu = IommuState::NotSwitchedOn;
        }
        let none = !any
            && (whole || self.no_groups || matches!(self.iommu, IommuState::SwitchedOff | IommuState::NotDescribed));
        for record in self.devices.values_mut().filter(|record| record.group.is_none()) {
            match record.perhaps_in {
                Some(group) => {
                    self.incomplete.insert(group);
                }
                None if none => record.group = Some((None, 0)),
                None => {}
            }
        }
        let numbers = || self.devices.values().filter_map(|record| record.group?.0);
        // A device that is listed without its group may be in any.
        let homeless = self.devices.values().any(|record| record.listed && record.group.is_none());
        // Where the first device of a machine is told of, all are; else a device may share its group with others.
        let first = |address: &PciAddress| address.bus() == 0 && address.devfn().byte() == 0;
        let all = self.devices.iter().any(|(address, record)| first(address) && record.group.is_some());
        let own = self.devices.len() > 1 && !self.elided;
        let told = |group: &u32| self.told.contains(group) || own && self.own.contains(group);
        let all = all && !self.elided;
        let incomplete = |group: &u32| !self.whole.contains(group) && (homeless || !all && !told(group));
        let incomplete: Vec<u32> = numbers().filter(incomplete).collect();
        self.incomplete.extend(incomplete);
    }

    /// A device through which a path leads to another bus is a bridge.
    fn conclude_bridges(&mut self) {
        for bridge in &self.bridges {
            if let Some(record) = self.devices.get_mut(bridge)
                && record.class == 0
            {
                record.class = CLASS_PCI_BRIDGE;
            }
        }
    }

    /// A virtual function is of the only function on its bus that it can be of. Returns what the others can be of.
    fn conclude_parents(&mut self) -> BTreeMap<PciAddress, Vec<PciAddress>> {
        let mut parents = self.possible_parents();
        parents.retain(|address, candidates| match &candidates[..] {
            [parent] if parent.bus() == address.bus() => {
                self.device(*address).parent = Some(*parent);
                false
            }
            _ => true,
        });
        parents
    }

    /// The functions of which a virtual function may be one: of its maker and kind, on the same bus, else on one before.
    fn possible_parents(&self) -> BTreeMap<PciAddress, Vec<PciAddress>> {
        let key = |record: &Record| (record.ids.map(|(vendor, _, _)| vendor), record.class);
        let is_virtual = |record: &Record| record.words.name.contains("Virtual Function") || record.parent.is_some();
        let mut physical: BTreeMap<_, Vec<PciAddress>> = BTreeMap::new();
        for (address, record) in self.devices.iter().filter(|(_, record)| !is_virtual(record)) {
            physical.entry(key(record)).or_default().push(*address);
        }
        let mut parents = BTreeMap::new();
        let orphans = self.devices.iter().filter(|(_, record)| is_virtual(record) && record.parent.is_none());
        for (address, record) in orphans {
            let fitting = physical.get(&key(record)).map_or(&[][..], Vec::as_slice);
            let on_bus = |bus: u8| PciAddress::new(address.domain(), bus, Devfn::from_byte(0));
            let from = |start: PciAddress| fitting.partition_point(|other| *other < start);
            let (domain, bus, end) = (from(on_bus(0)), from(on_bus(address.bus())), from(*address));
            let near = if bus < end { bus..end } else { domain..bus };
            // Of so many, none is meant.
            let candidates = fitting.get(near).filter(|candidates| candidates.len() <= MOST_PARENTS);
            parents.insert(*address, candidates.unwrap_or_default().to_vec());
        }
        parents
    }

    fn gaps(&self) -> Gaps {
        let without = |lacks: fn(&Record) -> bool| {
            self.devices.iter().filter(|(_, record)| lacks(record)).map(|(address, _)| *address).collect()
        };
        Gaps {
            drivers: without(|record| record.driver.is_none()),
            groups: without(|record| record.group.is_none()),
            members: self.incomplete.clone(),
            unnumbered: self.unnumbered.clone(),
            skipped_lines: self.skipped,
            doubtful_lines: self.doubtful.clone(),
        }
    }
}

impl Record {
    fn device(&self, address: PciAddress) -> SysfsDevice {
        let (vendor, device, _) = self.ids.unwrap_or_default();
        let config = ConfigSpace::builder().ids(vendor, device).class(self.class << 8);
        // Which buses are behind a bridge is not listed.
        let config = if self.class == CLASS_PCI_BRIDGE { config.bridge(0, 0).build() } else { config.build() };
        let mut function = PciFunction::new(address, config);
        function.physical_function = self.parent;
        SysfsDevice {
            function: function.into(),
            path: String::new(),
            driver: self.driver.as_ref().and_then(|(driver, _)| driver.clone()),
            driver_override: None,
            group: self.group.and_then(|(group, _)| group),
        }
    }
}

/// The devices with the lists of groups and drivers that agree with them.
fn snapshot(devices: Vec<SysfsDevice>, mut regions: BTreeMap<u32, Vec<ReservedRegion>>) -> Snapshot {
    let mut groups: BTreeMap<u32, Vec<PciAddress>> = BTreeMap::new();
    let mut drivers: BTreeMap<String, Vec<PciAddress>> = BTreeMap::new();
    for device in &devices {
        let address = device.function.address;
        if let Some(number) = device.group {
            groups.entry(number).or_default().push(address);
        }
        if let Some(driver) = &device.driver {
            drivers.entry(driver.clone()).or_default().push(address);
        }
    }
    let groups = groups.into_iter().map(|(number, members)| {
        let reserved = regions.remove(&number).unwrap_or_default();
        SysfsGroup { number, members, reserved, ..SysfsGroup::default() }
    });
    let drivers = drivers.into_iter().map(|(name, devices)| SysfsDriver { name, devices });
    Snapshot { groups: groups.collect(), drivers: drivers.collect(), devices, warnings: Vec::new() }
}
