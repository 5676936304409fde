//! What a listing says, merged by device; what contradicts itself is an error that names both lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use vfio_owner::iommu_core::device_model::pci::{ConfigSpace, Devfn, PciAddress, PciFunction};
use vfio_owner::iommu_core::reserved::ReservedRegion;
use vfio_owner::iommu_core::sysfs::{Snapshot, SysfsDevice, SysfsDriver, SysfsGroup};

use super::ListingErrorReason;
use super::token::{class_number, hex4};
use super::words::class_code;
use crate::host::{Gaps, Words};
use crate::read::other_member::bus_of;
use crate::read::{IommuState, OtherMember, Source};
use crate::{Fact, Host};

/// The class of bridges between PCI buses, whose header is of a bridge.
const CLASS_PCI_BRIDGE: u32 = 0x0604;

/// A virtual function is said to be of one of so many functions at most.
const MOST_PARENTS: usize = 8;

/// What a line says of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Claim {
    /// The group that it is in; `None` for no group.
    Group(Option<u32>),
    /// The driver that it is on; `None` for no driver.
    Driver(Option<String>),
    /// Its vendor and device id.
    Ids(u16, u16),
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(Some(group)) => write!(f, "in group {group}"),
            Self::Group(None) => f.write_str("in no group"),
            Self::Driver(Some(driver)) => write!(f, "on driver {driver}"),
            Self::Driver(None) => f.write_str("on no driver"),
            Self::Ids(vendor, device) => write!(f, "a {vendor:04x}:{device:04x}"),
        }
    }
}

/// How a listing shows a device: what is missing in one form may be shown in another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) enum Form {
    /// `lspci`, with what belongs to the device in lines below.
    #[default]
    Lspci,
    /// `KEY: VALUE` lines: `lspci -vmm`, umockdev, libvirt, lshw.
    Record,
}

/// How sure it is that a device is in a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// It stands among the devices of its group.
    Shown,
    /// Its own lines say so. Of a machine of which only one device is listed, they say nothing of others.
    Own,
    /// A link or a log says it of this device alone, and nothing of others.
    Pointed,
    /// It stands where the group's devices may have ended.
    Perhaps,
}

/// A group, as a listing tells which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GroupRef {
    /// By its number, or that there is none.
    Known(Option<u32>),
    /// As the group that a device is in.
    Of(PciAddress),
}

/// A device that is in the group of another.
#[derive(Clone, Copy, Debug)]
struct Shared {
    with: PciAddress,
    device: PciAddress,
    place: Place,
    line: usize,
}

/// What is said of one device, each with the line that says it.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    group: Option<(Option<u32>, usize)>,
    perhaps_in: Option<u32>,
    driver: Option<(Option<String>, usize)>,
    ids: Option<(u16, u16, usize)>,
    class: u32,
    words: Words,
    numa_node: Option<u32>,
    parent: Option<PciAddress>,
    /// It is listed, and not only mentioned.
    pub(super) listed: bool,
    pub(super) form: Form,
    /// In which block there are lines that come with its driver, if it has one.
    pub(super) detailed_in: Option<usize>,
    /// Its modules are shown, so its driver would be.
    pub(super) modules: bool,
}

/// What the kernel's log says of an IOMMU. The later, the more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) enum Log {
    #[default]
    Silent,
    /// Firmware describes one.
    Described,
    /// It is enabled.
    Enabled,
}

/// What is said of all devices and groups.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) devices: BTreeMap<PciAddress, Record>,
    others: BTreeMap<(u32, String), OtherMember>,
    /// Which command's output is read.
    pub(super) block: usize,
    /// In which blocks, and in which form, drivers are shown.
    drivers_in: BTreeSet<(Form, usize)>,
    shared: Vec<Shared>,
    /// Members that are no PCI functions, of the group that a device is in.
    others_beside: Vec<(PciAddress, String)>,
    incomplete_with: BTreeSet<PciAddress>,
    /// The groups of which members are listed, and not only that one device is in it.
    told: BTreeSet<u32>,
    /// The groups that lines of devices name.
    own: BTreeSet<u32>,
    /// Something was left out of the listing.
    pub(super) elided: bool,
    /// The groups whose folder is listed from the first name to the last.
    whole: BTreeSet<u32>,
    whole_with: BTreeSet<PciAddress>,
    unnumbered: BTreeSet<u32>,
    refused: BTreeSet<PciAddress>,
    bridges: BTreeSet<PciAddress>,
    regions: BTreeMap<u32, Vec<ReservedRegion>>,
    /// The groups in a listing of all groups, as `find` makes it.
    pub(super) enumerated: BTreeSet<u32>,
    incomplete: BTreeSet<u32>,
    pub(super) iommu: IommuState,
    pub(super) log: Log,
    /// The groups were asked for, and there was none.
    pub(super) no_groups: bool,
    mentioned: BTreeSet<PciAddress>,
    pub(super) skipped: usize,
    pub(super) doubtful: Vec<usize>,
}

type Merged = Result<(), ListingErrorReason>;

impl Facts {
    pub(super) fn device(&mut self, device: PciAddress) -> &mut Record {
        self.devices.entry(device).or_default()
    }

    /// A device is named in passing.
    pub(super) fn mentioned(&mut self, device: PciAddress) {
        self.mentioned.insert(device);
    }

    /// A device is in a group, or in none.
    pub(super) fn group(&mut self, device: PciAddress, group: Option<u32>, place: Place, line: usize) -> Merged {
        let record = self.device(device);
        if place == Place::Perhaps {
            record.perhaps_in = group;
            return Ok(());
        }
        match place {
            Place::Shown => self.told.extend(group),
            Place::Own => self.own.extend(group),
            Place::Pointed | Place::Perhaps => {}
        }
        match self.device(device).group {
            Some((before, first_line)) if before != group => {
                let (first, second) = (Claim::Group(before), Claim::Group(group));
                Err(ListingErrorReason::Contradiction { device, first, first_line, second })
            }
            Some(_) => Ok(()),
            None => {
                self.device(device).group = Some((group, line));
                Ok(())
            }
        }
    }

    /// A device is in a group, however it is told which.
    pub(super) fn member(&mut self, device: PciAddress, of: GroupRef, place: Place, line: usize) -> Merged {
        match of {
            GroupRef::Known(group) => self.group(device, group, place, line),
            GroupRef::Of(with) => {
                self.device(device);
                self.shared.push(Shared { with, device, place, line });
                Ok(())
            }
        }
    }

    /// A device is in the group of this number; -1 is none.
    pub(super) fn group_number(&mut self, device: PciAddress, number: i64, line: usize) -> Merged {
        match u32::try_from(number) {
            Ok(number) => self.group(device, Some(number), Place::Shown, line),
            Err(_) if number == -1 => self.group(device, None, Place::Shown, line),
            Err(_) => Ok(()),
        }
    }

    /// The log says that the device left its group; what comes later counts.
    pub(super) fn left_group(&mut self, device: PciAddress) {
        self.device(device).group = None;
    }

    pub(super) fn shows_driver(&self, device: PciAddress) -> bool {
        self.devices.get(&device).is_some_and(|record| record.driver.is_some())
    }

    pub(super) fn driver(&mut self, device: PciAddress, driver: Option<String>, line: usize) -> Merged {
        let driver = driver.map(|name| spaced(&name));
        let block = self.block;
        let record = self.device(device);
        let form = record.form;
        let merged = match &record.driver {
            Some((before, first_line)) if *before != driver => {
                let (first, second) = (Claim::Driver(before.clone()), Claim::Driver(driver));
                Err(ListingErrorReason::Contradiction { device, first, first_line: *first_line, second })
            }
            Some(_) => Ok(()),
            None => {
                record.driver = Some((driver, line));
                Ok(())
            }
        };
        self.drivers_in.insert((form, block));
        merged
    }

    /// A line that comes with the driver of a device, if it has one, is there.
    pub(super) fn detailed(&mut self, device: PciAddress) {
        self.device(device).detailed_in = Some(self.block);
    }

    pub(super) fn ids(&mut self, device: PciAddress, (vendor, id): (u16, u16), line: usize) -> Merged {
        let record = self.device(device);
        match record.ids {
            Some((v, d, first_line)) if (v, d) != (vendor, id) && v != 0 && d != 0 => {
                let (first, second) = (Claim::Ids(v, d), Claim::Ids(vendor, id));
                Err(ListingErrorReason::Contradiction { device, first, first_line, second })
            }
            _ => {
                record.ids = Some((vendor, id, line));
                Ok(())
            }
        }
    }

    /// One of the two ids; the other comes in another line.
    pub(super) fn vendor(&mut self, device: PciAddress, vendor: u16, line: usize) {
        let record = self.device(device);
        record.ids = Some((vendor, record.ids.map_or(0, |(_, device, _)| device), line));
    }

    /// See [`vendor`](Self::vendor).
    pub(super) fn device_id(&mut self, device: PciAddress, id: u16, line: usize) {
        let record = self.device(device);
        record.ids = Some((record.ids.map_or(0, |(vendor, _, _)| vendor), id, line));
    }

    /// The kind of device: base class and subclass.
    pub(super) fn class(&mut self, device: PciAddress, class: u32) {
        let record = self.device(device);
        if record.class == 0 {
            record.class = class;
        }
    }

    /// The kind of device as a column or a key has it: its number in hex, with or without the interface, or words.
    pub(super) fn class_value(&mut self, device: PciAddress, text: &str) {
        match class_number(text) {
            Some(class) => self.class(device, class),
            None => self.class_words(device, text),
        }
    }

    /// The kind of device in words, with its number in brackets or without.
    pub(super) fn class_words(&mut self, device: PciAddress, text: &str) {
        let bracketed = text.split('[').skip(1).find_map(|part| hex4(part.split_once(']')?.0));
        let words = text.split('[').next().unwrap_or_default().trim();
        match bracketed.map(u32::from).or_else(|| class_code(words)) {
            Some(code) => self.class(device, code),
            None => self.device(device).words.class = spaced(words),
        }
    }

    pub(super) fn name(&mut self, device: PciAddress, name: &str) {
        let name = spaced(name);
        let words = &mut self.device(device).words;
        if words.name.is_empty() {
            words.name = name;
        } else if !words.name.contains(&name) {
            words.name = format!("{} {name}", words.name);
        }
    }

    pub(super) fn numa_node(&mut self, device: PciAddress, node: u32) {
        self.device(device).numa_node = Some(node);
    }

    pub(super) fn parent(&mut self, device: PciAddress, physical_function: PciAddress) {
        self.device(device).parent = Some(physical_function);
    }

    pub(super) fn refused(&mut self, device: PciAddress) {
        self.device(device);
        self.refused.insert(device);
    }

    /// A path leads through the device to one on another bus.
    pub(super) fn bridge(&mut self, device: PciAddress) {
        self.bridges.insert(device);
    }

    pub(super) fn region(&mut self, group: u32, region: ReservedRegion) {
        self.regions.entry(group).or_default().push(region);
    }

    /// A member that is no PCI function; what is known of its bus and driver is kept.
    pub(super) fn other_member(&mut self, group: u32, name: &str, bus: Fact<String>, driver: Fact<String>) {
        let new = || OtherMember { group, name: name.to_owned(), bus: Fact::Unknown, driver: Fact::Unknown };
        let member = self.others.entry((group, name.to_owned())).or_insert_with(new);
        if member.bus == Fact::Unknown {
            member.bus = bus;
        }
        if member.driver == Fact::Unknown {
            member.driver = driver;
        }
    }

    /// A member that is no PCI function and is known by its name alone.
    pub(super) fn named_member(&mut self, of: GroupRef, name: &str) {
        match of {
            GroupRef::Known(Some(group)) => self.other_member(group, name, bus_of(name), Fact::Unknown),
            GroupRef::Known(None) => {}
            GroupRef::Of(with) => self.others_beside.push((with, name.to_owned())),
        }
    }

    /// A group may have a member besides those that are read.
    pub(super) fn perhaps_more_in(&mut self, group: GroupRef) {
        match group {
            GroupRef::Known(group) => self.incomplete.extend(group),
            GroupRef::Of(with) => {
                self.incomplete_with.insert(with);
            }
        }
    }

    /// The folder of a group was listed whole.
    pub(super) fn whole_folder(&mut self, group: GroupRef) {
        match group {
            GroupRef::Known(group) => self.whole.extend(group),
            GroupRef::Of(with) => {
                self.whole_with.insert(with);
            }
        }
    }

    /// Finds the groups of the devices that are said to be in those of others.
    ///
    /// # Errors
    /// Fails if two of one group are said to be in different ones, with the line that puts them together.
    pub(super) fn join(&mut self) -> Result<(), (usize, ListingErrorReason)> {
        let (shown, perhaps): (Vec<Shared>, Vec<Shared>) =
            std::mem::take(&mut self.shared).into_iter().partition(|share| share.place == Place::Shown);
        let mut beside: BTreeMap<PciAddress, Vec<(PciAddress, usize)>> = BTreeMap::new();
        for Shared { with, device, line, .. } in shown {
            beside.entry(with).or_default().push((device, line));
            beside.entry(device).or_default().push((with, line));
        }
        let group = |facts: &Self, device: &PciAddress| Some(facts.devices.get(device)?.group?.0);
        let mut known: Vec<PciAddress> =
            beside.keys().filter(|device| group(self, device).is_some()).copied().collect();
        while let Some(device) = known.pop() {
            let Some(number) = group(self, &device) else { continue };
            for (other, line) in beside.remove(&device).unwrap_or_default() {
                known.push(other);
                self.group(other, number, Place::Shown, line).map_err(|reason| (line, reason))?;
            }
        }
        // Who is together is known of the rest, and not the number: one is made up that no group has.
        let numbers = self.devices.values().filter_map(|record| record.group?.0);
        let taken: BTreeSet<u32> = numbers.chain(self.others.keys().map(|(group, _)| *group)).collect();
        for number in (0..=u32::MAX).rev().filter(|number| !taken.contains(number)) {
            let Some((first, _)) = beside.first_key_value() else { break };
            let mut known = vec![*first];
            while let Some(device) = known.pop() {
                let Some(others) = beside.remove(&device) else { continue };
                let line = others.first().map_or(0, |(_, line)| *line);
                self.group(device, Some(number), Place::Shown, line).map_err(|reason| (line, reason))?;
                known.extend(others.into_iter().map(|(other, _)| other));
            }
            self.unnumbered.insert(number);
        }
        for Shared { with, device, line, .. } in perhaps {
            if let Some(number) = group(self, &with) {
                self.group(device, number, Place::Perhaps, line).map_err(|reason| (line, reason))?;
            }
        }
        for (with, name) in std::mem::take(&mut self.others_beside) {
            if let Some(number) = group(self, &with) {
                self.named_member(GroupRef::Known(number), &name);
            }
        }
        for with in std::mem::take(&mut self.whole_with) {
            self.whole.extend(group(self, &with).flatten());
        }
        for with in std::mem::take(&mut self.incomplete_with) {
            self.incomplete.extend(group(self, &with).flatten());
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.others.is_empty() && self.mentioned.is_empty()
    }

    /// The host that is described.
    pub(super) fn into_host(mut self) -> Host {
        self.conclude_mentions();
        self.conclude_drivers();
        self.conclude_groups();
        for (_, record) in self.devices.iter_mut().filter(|(device, _)| self.bridges.contains(device)) {
            if record.class == 0 {
                record.class = CLASS_PCI_BRIDGE;
            }
        }
        let mut parents = self.parents();
        for (address, candidates) in &parents {
            // The only function on the bus that it can be of.
            if let ([parent], Some(record)) = (&candidates[..], self.devices.get_mut(address))
                && parent.bus() == address.bus()
            {
                record.parent = Some(*parent);
            }
        }
        parents.retain(|address, candidates| !matches!(&candidates[..], [parent] if parent.bus() == address.bus()));
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
        for record in self.devices.values_mut().filter(|record| record.driver.is_none()) {
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

    /// The functions of which a virtual function may be one: of its maker and kind, on the same bus, else on one before.
    fn parents(&self) -> BTreeMap<PciAddress, Vec<PciAddress>> {
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

/// The words of a text with one space between them.
fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
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
