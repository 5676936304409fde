//! From a tree to a snapshot.

use std::borrow::ToOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::string::{String, ToString};
use std::sync::Arc;
use std::vec::Vec;

use device_model::pci::{Bars, ConfigSpace, PciAddress, PciFunction, Sriov};

use super::text::{Resource, domain_kind, function_name, group_number, hex, malformed, region, resource, upstream};
use super::tree::{Destination, Tree, TreeError, child, follow};
use super::{LoadError, Snapshot, SysfsDevice, SysfsDriver, SysfsGroup, Warning, WarningReason};
use crate::hardware::DomainKind;
use crate::reserved::ReservedRegion;

pub(super) const DEVICES: &str = "bus/pci/devices";
pub(super) const DRIVERS: &str = "bus/pci/drivers";
pub(super) const GROUPS: &str = "kernel/iommu_groups";
/// What is read of each device.
pub(super) const CONFIG: &str = "config";
pub(super) const FILES: [&str; 6] = ["vendor", "device", "revision", "class", "driver_override", RESOURCE];
const RESOURCE: &str = "resource";
pub(super) const LINKS: [&str; 3] = ["driver", "iommu_group", "physfn"];
/// What is read of each group.
pub(super) const GROUP_FILES: [&str; 2] = ["type", "reserved_regions"];

/// Shorter, and no capability can be in it.
const CONFIG_WITH_CAPABILITIES: usize = 256;

pub(super) fn load(tree: &dyn Tree) -> Result<Snapshot, LoadError> {
    let names = tree.list(DEVICES).map_err(|source| LoadError { path: DEVICES.to_owned(), source })?;
    let mut loader = Loader { tree, devices: Vec::with_capacity(names.len()), warnings: Vec::new() };
    for name in names {
        loader.load_device(&name);
    }
    // Names sort as addresses do, but for domains of more than four digits.
    loader.devices.sort_by_key(|device| device.function.address);
    loader.devices.dedup_by_key(|device| device.function.address);
    let drivers = loader.load_drivers();
    let groups = loader.load_groups();
    Ok(Snapshot {
        devices: loader.devices,
        drivers: drivers.into_values().collect(),
        groups: groups.into_values().collect(),
        warnings: loader.warnings,
    })
}

struct Loader<'a> {
    tree: &'a dyn Tree,
    devices: Vec<SysfsDevice>,
    warnings: Vec<Warning>,
}

impl Loader<'_> {
    fn warn(&mut self, path: &str, reason: impl Into<WarningReason>) {
        self.warnings.push(Warning { path: path.to_owned(), reason: reason.into() });
    }

    fn load_device(&mut self, name: &str) {
        let link = child(DEVICES, name);
        let Some(address) = function_name(name) else { return self.warn(&link, WarningReason::NotAFunction) };
        let Some(path) = self.follow(&link) else { return };
        let Some((above, _)) = path.rsplit_once('/').filter(|(_, last)| *last == name) else {
            return self.warn(&link, WarningReason::Elsewhere { target: path });
        };
        let mut function = PciFunction::new(address, self.config(&path));
        (function.bars, function.virtual_bars) = self.windows(&path, function.config.sriov());
        function.upstream = upstream(above);
        function.physical_function = self.physical_function(&path);
        let device = SysfsDevice {
            function: Arc::new(function),
            driver: self.follow_into(&child(&path, "driver"), DRIVERS, |name| Some(name.to_owned())),
            driver_override: self.driver_override(&path),
            group: self.follow_into(&child(&path, "iommu_group"), GROUPS, group_number),
            path,
        };
        self.devices.push(device);
    }

    /// The configuration space, with the ids that the kernel goes by.
    fn config(&mut self, device: &str) -> ConfigSpace {
        let path = child(device, CONFIG);
        let mut bytes = match self.tree.read(&path) {
            Ok(bytes) => {
                if bytes.len() < CONFIG_WITH_CAPABILITIES {
                    self.warn(&path, WarningReason::ShortConfig { length: bytes.len() });
                }
                bytes
            }
            Err(error) => {
                self.warn(&path, error);
                Vec::new()
            }
        };
        for (name, offset, length) in [("vendor", 0, 2), ("device", 2, 2), ("revision", 8, 1), ("class", 9, 3)] {
            let Some(number) = self.id(&child(device, name), length) else { continue };
            if bytes.len() < offset + length {
                bytes.resize(offset + length, 0);
            }
            for (byte, new) in bytes.iter_mut().skip(offset).zip(number.to_le_bytes()).take(length) {
                *byte = new;
            }
        }
        ConfigSpace::new(bytes)
    }

    /// The windows, and those of the first virtual function. A line that makes no sense is a warning, and no window.
    fn windows(&mut self, device: &str, sriov: Option<Sriov>) -> (Bars, Bars) {
        let path = child(device, RESOURCE);
        let (mut bars, mut virtual_bars) = (Bars::NONE, Bars::NONE);
        // After those of the function come those of all its virtual functions together, then the windows of a bridge.
        let own = Bars::SLOTS + 1;
        let virtual_functions = sriov.map_or(0, |sriov| u64::from(sriov.total));
        let lines = if virtual_functions > 0 { own + Bars::SLOTS } else { own };
        let text = self.optional_text(&path).unwrap_or_default();
        for (slot, line) in text.lines().take(lines).enumerate() {
            let taken = match resource(line, if slot < own { 1 } else { virtual_functions }) {
                Some(Resource::Unused) => continue,
                Some(Resource::Window(bar)) if slot == Bars::SLOTS => bars.insert_rom(bar).is_ok(),
                Some(Resource::Window(bar)) if slot < own => bars.insert(slot, bar).is_ok(),
                Some(Resource::Window(bar)) => virtual_bars.insert(slot - own, bar).is_ok(),
                None => false,
            };
            if !taken {
                self.warn(&path, malformed(line));
            }
        }
        (bars, virtual_bars)
    }

    /// The hexadecimal number in a file, of so many bytes.
    fn id(&mut self, path: &str, bytes: usize) -> Option<u64> {
        let text = self.optional_text(path)?;
        let number = hex(text.trim()).filter(|number| number >> (8 * bytes) == 0);
        if number.is_none() {
            self.warn(path, malformed(&text));
        }
        number
    }

    fn driver_override(&mut self, device: &str) -> Option<String> {
        let text = self.optional_text(&child(device, "driver_override"))?;
        let name = text.lines().next().unwrap_or_default();
        // What the kernel prints for none (D17).
        if name.is_empty() || name == "(null)" { None } else { Some(name.to_owned()) }
    }

    fn physical_function(&mut self, device: &str) -> Option<PciAddress> {
        let link = child(device, "physfn");
        let target = self.follow(&link)?;
        let address = target.rsplit('/').next().and_then(function_name);
        if address.is_none() {
            self.warn(&link, WarningReason::Elsewhere { target });
        }
        address
    }

    fn load_drivers(&mut self) -> BTreeMap<String, SysfsDriver> {
        let mut drivers = BTreeMap::new();
        let mut listed = BTreeSet::new();
        for name in self.optional_list(DRIVERS) {
            let path = child(DRIVERS, &name);
            // Beside its devices, a driver has files like `bind`.
            let entries = self.required_list(&path).into_iter().filter_map(|entry| function_name(&entry));
            for address in entries {
                let link = child(&path, &address.to_string());
                if self.agree(&link, address, |device| &mut device.driver, &name) {
                    listed.insert(address);
                }
            }
            drivers.insert(name.clone(), SysfsDriver { name, devices: Vec::new() });
        }
        for (address, name) in self.claims(&listed, DRIVERS, |device| device.driver.clone()) {
            let driver = drivers.entry(name.clone()).or_insert_with(|| SysfsDriver { name, devices: Vec::new() });
            driver.devices.push(address);
        }
        drivers
    }

    fn load_groups(&mut self) -> BTreeMap<u32, SysfsGroup> {
        let mut groups = BTreeMap::new();
        let mut listed = BTreeSet::new();
        for name in self.optional_list(GROUPS) {
            let path = child(GROUPS, &name);
            let Some(number) = group_number(&name) else {
                self.warn(&path, WarningReason::NotAGroup);
                continue;
            };
            let members = child(&path, "devices");
            for entry in self.required_list(&members) {
                let link = child(&members, &entry);
                match function_name(&entry) {
                    None => self.warn(&link, WarningReason::NotAFunction),
                    Some(address) if self.agree(&link, address, |device| &mut device.group, &number) => {
                        listed.insert(address);
                    }
                    Some(_) => {}
                }
            }
            let (domain, reserved) = (self.domain(&path), self.reserved(&path));
            groups.insert(number, SysfsGroup { number, domain, members: Vec::new(), reserved });
        }
        for (address, number) in self.claims(&listed, GROUPS, |device| device.group) {
            let group = groups.entry(number).or_insert_with(|| SysfsGroup { number, ..SysfsGroup::default() });
            group.members.push(address);
        }
        groups
    }

    /// Compares the entry at `link`, which says that the device is with `listed`, with what the device says, and whether
    /// they agree in the end.
    fn agree<T: PartialEq + Clone>(
        &mut self,
        link: &str,
        address: PciAddress,
        claim: impl FnOnce(&mut SysfsDevice) -> &mut Option<T>,
        listed: &T,
    ) -> bool {
        let target = self.follow(link);
        let found = self.devices.binary_search_by_key(&address, |device| device.function.address).ok();
        let Some(device) = found.and_then(|found| self.devices.get_mut(found)) else {
            self.warn(link, WarningReason::NoSuchDevice);
            return false;
        };
        match target {
            None => return false,
            Some(target) if target != device.path => {
                self.warn(link, WarningReason::Elsewhere { target });
                return false;
            }
            Some(_) => {}
        }
        let claim = claim(device);
        match claim {
            Some(claimed) if claimed == listed => {}
            Some(_) => {
                self.warn(link, WarningReason::DeviceSaysOtherwise);
                return false;
            }
            None => {
                *claim = Some(listed.clone());
                self.warn(link, WarningReason::DeviceIsSilent);
            }
        }
        true
    }

    /// What each device says it is with, with a warning for each that is not `listed` there.
    fn claims<T: ToString>(
        &mut self,
        listed: &BTreeSet<PciAddress>,
        directory: &str,
        claim: impl Fn(&SysfsDevice) -> Option<T>,
    ) -> Vec<(PciAddress, T)> {
        let mut claims = Vec::new();
        for device in &self.devices {
            let (address, Some(claimed)) = (device.function.address, claim(device)) else { continue };
            if !listed.contains(&address) {
                let reason = WarningReason::NotListed { listing: child(directory, &claimed.to_string()) };
                self.warnings.push(Warning { path: device.path.clone(), reason });
            }
            claims.push((address, claimed));
        }
        claims
    }

    fn domain(&mut self, group: &str) -> Option<DomainKind> {
        let path = child(group, "type");
        let text = self.required_text(&path)?;
        let kind = domain_kind(text.trim());
        if kind.is_none() && text.trim() != "unknown" {
            self.warn(&path, malformed(&text));
        }
        kind
    }

    fn reserved(&mut self, group: &str) -> Vec<ReservedRegion> {
        let path = child(group, "reserved_regions");
        let mut regions = Vec::new();
        for line in self.required_text(&path).unwrap_or_default().lines() {
            match region(line) {
                Some(region) => regions.push(region),
                None => self.warn(&path, malformed(line)),
            }
        }
        regions
    }

    /// The directory that a link leads to; `None` without a warning if there is no link.
    fn follow(&mut self, link: &str) -> Option<String> {
        let reason = match follow(self.tree, link) {
            Ok(Destination::Directory(path)) => return Some(path),
            Ok(Destination::Nowhere) => return None,
            Ok(Destination::Dangling(target)) => WarningReason::Dangling { target },
            Ok(Destination::Endless) => WarningReason::EndlessLinks,
            Err(error) => error.into(),
        };
        self.warn(link, reason);
        None
    }

    /// What a link to something right below `directory` leads to.
    fn follow_into<T>(&mut self, link: &str, directory: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let target = self.follow(link)?;
        let found = target.rsplit_once('/').filter(|(above, _)| *above == directory).and_then(|(_, name)| read(name));
        if found.is_none() {
            self.warn(link, WarningReason::Elsewhere { target });
        }
        found
    }

    /// A file's text; `None` without a warning if there is no file.
    fn optional_text(&mut self, path: &str) -> Option<String> {
        match self.tree.read(path) {
            Err(TreeError::Missing) => None,
            read => self.text(path, read),
        }
    }

    fn required_text(&mut self, path: &str) -> Option<String> {
        let read = self.tree.read(path);
        self.text(path, read)
    }

    fn text(&mut self, path: &str, read: Result<Vec<u8>, TreeError>) -> Option<String> {
        match read.map(String::from_utf8) {
            Ok(Ok(text)) => return Some(text),
            Ok(Err(error)) => self.warn(path, malformed(&String::from_utf8_lossy(error.as_bytes()))),
            Err(error) => self.warn(path, error),
        }
        None
    }

    /// The names in a directory; empty without a warning if it is not there: a kernel without an IOMMU has no groups.
    fn optional_list(&mut self, path: &str) -> Vec<String> {
        match self.tree.list(path) {
            Err(TreeError::Missing) => Vec::new(),
            list => self.names(path, list),
        }
    }

    fn required_list(&mut self, path: &str) -> Vec<String> {
        let list = self.tree.list(path);
        self.names(path, list)
    }

    fn names(&mut self, path: &str, list: Result<Vec<String>, TreeError>) -> Vec<String> {
        list.unwrap_or_else(|error| {
            self.warn(path, error);
            Vec::new()
        })
    }
}
