//! Listings of groups as people post them: the output of `lspci -nnk` beside the numbers of groups.
//!
//! ```text
//! IOMMU Group 1:
//!         01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GP104 [10de:1b80] (rev a1)
//!                 Kernel driver in use: nouveau
//! ```
//!
//! A group may also stand in front of each device, or a device in no group at all. What a line says besides is passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use vfio_owner::iommu_core::device_model::pci::{ConfigSpace, PciAddress, PciFunction};
use vfio_owner::iommu_core::sysfs::{Snapshot, SysfsDevice, SysfsDriver, SysfsGroup};

use crate::{Host, Source};

/// The classes of bridges between PCI buses, whose header is of a bridge.
const CLASS_PCI_BRIDGE: u32 = 0x0604;

/// The text is no listing of groups and devices.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ListingError {
    /// Which line, counted from 1; the last for what is nowhere.
    pub line: usize,
    /// Why.
    pub reason: ListingErrorReason,
}

/// What is wrong with a listing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListingErrorReason {
    /// No line names a device.
    #[error("neither a capture nor a listing: no line names a PCI device")]
    NoDevice,
    /// A device is there twice.
    #[error("{device} was there before")]
    Twice {
        /// The device.
        device: PciAddress,
    },
}

impl FromStr for Host {
    type Err = ListingError;

    /// Reads a listing.
    fn from_str(text: &str) -> Result<Self, ListingError> {
        let mut listing = Listing::default();
        for (line, text) in (1..).zip(text.lines()) {
            listing.line(text).map_err(|reason| ListingError { line, reason })?;
        }
        let last = text.lines().count();
        if listing.devices.is_empty() {
            return Err(ListingError { line: last, reason: ListingErrorReason::NoDevice });
        }
        Ok(listing.into_host())
    }
}

#[derive(Default)]
struct Listing {
    devices: BTreeMap<PciAddress, SysfsDevice>,
    /// The group that the next devices are in.
    group: Option<u32>,
    /// The device that the next lines are about.
    current: Option<PciAddress>,
    shows_drivers: bool,
}

impl Listing {
    fn line(&mut self, line: &str) -> Result<(), ListingErrorReason> {
        if let Some((key, value)) = line.trim_start().split_once(':')
            && let key @ ("Kernel driver in use" | "Kernel modules") = key
        {
            self.shows_drivers = true;
            if let Some(device) = self.current.and_then(|current| self.devices.get_mut(&current))
                && key != "Kernel modules"
            {
                device.driver = Some(value.trim().to_owned()).filter(|name| !name.is_empty());
            }
            return Ok(());
        }
        if let Some(number) = group_number(line) {
            self.group = Some(number);
            self.current = None;
        }
        let address = line.split_whitespace().find_map(|word| word.parse::<PciAddress>().ok());
        let Some(device) = address else { return Ok(()) };
        if self.devices.contains_key(&device) {
            return Err(ListingErrorReason::Twice { device });
        }
        let function = PciFunction::new(device, config(line));
        let entry =
            SysfsDevice { function, path: String::new(), driver: None, driver_override: None, group: self.group };
        self.devices.insert(device, entry);
        self.current = Some(device);
        Ok(())
    }

    fn into_host(self) -> Host {
        let devices: Vec<SysfsDevice> = self.devices.into_values().collect();
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
        let groups =
            groups.into_iter().map(|(number, members)| SysfsGroup { number, members, ..SysfsGroup::default() });
        let drivers = drivers.into_iter().map(|(name, devices)| SysfsDriver { name, devices });
        let pci = Snapshot { devices, drivers: drivers.collect(), groups: groups.collect(), warnings: Vec::new() };
        let source = Source::Listing;
        Host { source, ..Host::of_snapshot(pci) }
    }
}

/// The number behind the word "group", if the line begins with it or with "IOMMU group".
fn group_number(line: &str) -> Option<u32> {
    let lower = line.trim_start().to_ascii_lowercase();
    let rest = lower.strip_prefix("iommu").map_or(&*lower, |rest| rest.trim_start_matches(['_', ' ']));
    let rest = rest.strip_prefix("group")?.trim_start_matches([' ', ':', '\t', '#']);
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest.get(..digits)?.parse().ok()
}

/// What stands in brackets: a class of four digits, and last the ids.
fn config(line: &str) -> ConfigSpace {
    let bracketed: BTreeSet<&str> =
        line.split('[').skip(1).filter_map(|part| part.split_once(']').map(|(inside, _)| inside)).collect();
    let hex = |digits: &str| u16::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 4);
    let class = bracketed.iter().find_map(|inside| hex(inside)).map_or(0, u32::from);
    let ids = bracketed.iter().find_map(|inside| {
        let (vendor, device) = inside.split_once(':')?;
        Some((hex(vendor)?, hex(device)?))
    });
    let (vendor, device) = ids.unwrap_or_default();
    let config = ConfigSpace::builder().ids(vendor, device).class(class << 8);
    // Which buses are behind a bridge is not listed.
    if class == CLASS_PCI_BRIDGE { config.bridge(0, 0).build() } else { config.build() }
}
