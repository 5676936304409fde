//! Names of devices, from the pci-ids data.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use pci_ids::{Class, Device, FromId as _, Subclass, Vendor};
use vfio_owner::iommu_core::device_model::pci::ConfigSpace;
use vfio_owner::iommu_core::sysfs::SysfsDevice;

use crate::Host;

/// Returns what kind of device it is: by its class, else in the words of the listing.
pub(super) fn class_of(host: &Host, device: &SysfsDevice) -> Cow<'static, str> {
    let config = &device.function.config;
    let shown = host.words.get(&device.function.address).filter(|words| !words.class.is_empty());
    match shown {
        Some(words) if config.class().unwrap_or_default() == 0 => words.class.clone().into(),
        _ => class_name(config),
    }
}

/// Names of many devices; those of the same ids are looked up once.
#[derive(Default)]
pub(super) struct Names(BTreeMap<(u16, u16), (Arc<str>, bool)>);

impl Names {
    /// Returns who made it and what they call it: by its ids, else in the words of the listing.
    pub(super) fn of(&mut self, host: &Host, device: &SysfsDevice) -> Arc<str> {
        let config = &device.function.config;
        let shown = host.words.get(&device.function.address);
        let shown = shown.filter(|words| !words.name.is_empty() && !is_placeholder(&words.name));
        let ids = (config.vendor().unwrap_or_default(), config.device().unwrap_or_default());
        let (name, known) = self
            .0
            .entry(ids)
            .or_insert_with(|| (device_name(config).into(), Device::from_vid_pid(ids.0, ids.1).is_some()));
        shown.filter(|_| !*known).map_or_else(|| Arc::clone(name), |words| words.name.as_str().into())
    }
}

/// Whether `lspci` did not know the name either.
fn is_placeholder(name: &str) -> bool {
    name.ends_with(" Device") || name.ends_with(" unknown")
}

/// Returns the kind of device.
pub fn class_name(config: &ConfigSpace) -> Cow<'static, str> {
    let Some(class) = config.class().filter(|class| *class != 0) else { return "unknown class".into() };
    let [_, base, sub, _] = class.to_be_bytes();
    let precise = Subclass::from_cid_sid(base, sub).map(Subclass::name);
    let name = precise.or_else(|| Class::from_id(base).map(Class::name));
    name.map_or_else(|| format!("class {base:02x}{sub:02x}").into(), Cow::from)
}

/// Returns vendor and name of the device.
pub fn device_name(config: &ConfigSpace) -> String {
    let (Some(vendor), Some(device)) = (config.vendor(), config.device()) else { return String::new() };
    match (Vendor::from_id(vendor), Device::from_vid_pid(vendor, device)) {
        (Some(vendor), Some(device)) => format!("{} {}", vendor.name(), device.name()),
        (Some(known), None) => format!("{} {vendor:04x}:{device:04x}", known.name()),
        (None, _) if vendor == 0 => String::new(),
        (None, _) => format!("{vendor:04x}:{device:04x}"),
    }
}
