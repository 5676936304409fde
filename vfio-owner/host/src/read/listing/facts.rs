//! What a listing says, merged by device; what contradicts itself is an error that names both lines.

mod host;
mod join;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::reserved::ReservedRegion;

use super::ListingErrorReason;
use super::token::{class_number, hex4};
use super::words::class_code;
use crate::Fact;
use crate::driver_name::is_driver_name;
use crate::host::Words;
use crate::read::other_member::bus_of;
use crate::read::{IommuState, OtherMember};

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
    /// What is said of its driver is no driver's name.
    driver_unread: bool,
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
        if driver.as_deref().is_some_and(|name| !is_driver_name(name)) {
            record.driver_unread = true;
            return Ok(());
        }
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

    pub(super) fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.others.is_empty() && self.mentioned.is_empty()
    }
}

/// The words of a text with one space between them.
fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
