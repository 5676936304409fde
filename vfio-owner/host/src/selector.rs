//! Selectors: devices by slot, id, group, interface, disk or class.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::{SysfsDevice, Tree, resolve};

use crate::{Host, class_name};

/// Selects one or more devices.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Selector {
    /// One function: `0000:01:00.0`, or `01:00.0` in domain 0.
    Function(PciAddress),
    /// All functions of a slot, usually a card: `0000:01:00`, or `01:00` in domain 0. The address is that of its first
    /// function.
    Slot(PciAddress),
    /// Every function of these ids: `10de:1b80`.
    Ids {
        /// The vendor.
        vendor: u16,
        /// The device.
        device: u16,
    },
    /// All devices of a group except bridges, which keep their drivers: `group:4`.
    Group(u32),
    /// The device of an interface or a disk (`eth0`, `/dev/nvme0n1`), or else every device whose class name contains
    /// this text (`VGA`, `nvme`, `ethernet`), in either case.
    Named(String),
}

/// A text names no devices, whatever the machine.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`{text}` names no device: that is an address (01:00.0), a slot (01:00), ids (10de:1b80), a group (group:4), or the name of an interface, a disk or a class"
)]
pub struct ParseSelectorError {
    /// The text.
    pub text: String,
}

/// No device of the machine matches the selector.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no device here is {selector}")]
pub struct NoneSelected {
    /// The selector.
    pub selector: Selector,
}

impl FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, ParseSelectorError> {
        let fail = || ParseSelectorError { text: text.to_owned() };
        if let Ok(address) = text.parse() {
            return Ok(Self::Function(address));
        }
        if let Some(number) = text.strip_prefix("group:") {
            return number.parse().map(Self::Group).map_err(|_| fail());
        }
        if let Some((vendor, device)) = text.split_once(':')
            && let (Some(vendor), Some(device)) = (four_digits(vendor), four_digits(device))
        {
            return Ok(Self::Ids { vendor, device });
        }
        if let Ok(address) = format!("{}.0", text.trim_end_matches(".*")).parse() {
            return Ok(Self::Slot(address));
        }
        let name = text.strip_prefix("/dev/").unwrap_or(text);
        if name.is_empty() || name.contains([':', '/']) { Err(fail()) } else { Ok(Self::Named(name.to_owned())) }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(address) => address.fmt(f),
            Self::Slot(address) => {
                let address = address.to_string();
                write!(f, "in slot {}", address.strip_suffix(".0").unwrap_or(&address))
            }
            Self::Ids { vendor, device } => write!(f, "a {vendor:04x}:{device:04x}"),
            Self::Group(number) => write!(f, "an endpoint in group {number}"),
            Self::Named(name) => write!(f, "an interface, disk or class {name:?}"),
        }
    }
}

fn four_digits(text: &str) -> Option<u16> {
    u16::from_str_radix(text, 16).ok().filter(|_| text.len() == 4)
}

impl Host {
    /// Returns the devices that a selector matches, by address. An address that is named itself is returned unchecked.
    ///
    /// # Errors
    /// Fails if no device matches.
    pub fn select(&self, selector: &Selector) -> Result<Vec<PciAddress>, NoneSelected> {
        let found = match selector {
            Selector::Named(name) => match self.names.get(name) {
                Some(device) => vec![*device],
                None => self.matching(|device| {
                    let class = class_name(&device.function.config).to_lowercase();
                    class.contains(&name.to_lowercase()) || device.driver.as_deref() == Some(name)
                }),
            },
            Selector::Function(address) => vec![*address],
            Selector::Slot(first) => self.matching(|device| {
                let address = device.function.address;
                let slot = |address: PciAddress| (address.domain(), address.bus(), address.devfn().slot());
                slot(address) == slot(*first)
            }),
            Selector::Ids { vendor, device } => self.matching(|found| {
                let config = &found.function.config;
                config.vendor() == Some(*vendor) && config.device() == Some(*device)
            }),
            Selector::Group(number) => self
                .matching(|device| device.group == Some(*number) && device.function.config.secondary_bus().is_none()),
        };
        if found.is_empty() { Err(NoneSelected { selector: selector.clone() }) } else { Ok(found) }
    }

    fn matching(&self, matches: impl Fn(&SysfsDevice) -> bool) -> Vec<PciAddress> {
        let matching = self.pci.devices.iter().filter(|device| matches(device));
        matching.map(|device| device.function.address).collect()
    }
}

/// The interfaces and disks that the tree shows, and the device that each is on.
pub(crate) fn names(tree: &dyn Tree) -> BTreeMap<String, PciAddress> {
    let mut names = BTreeMap::new();
    for class in ["class/net", "class/block"] {
        for name in tree.list(class).unwrap_or_default() {
            let path = resolve(tree, &format!("{class}/{name}")).unwrap_or_default();
            // The nearest: behind a bridge there are several on the way.
            if let Some(device) = path.rsplit('/').find_map(|step| step.parse().ok()) {
                names.insert(name, device);
            }
        }
    }
    names
}
