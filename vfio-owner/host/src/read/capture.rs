//! Captures: a host in one file, without secrets.

use vfio_owner::iommu_core::device_model::pci::ConfigSpace;
use vfio_owner::iommu_core::sysfs::{LoadError, MemoryTree, Tree};

use super::other_member::{LINKS, folder};
use super::source::NUMA_NODE;
use crate::{Host, Source};

pub(super) const CAPTURED_LIFELINES: &str = "captured/lifelines";
pub(super) const CAPTURED_HOLDERS: &str = "captured/holders";
pub(super) const CAPTURED_TRIALS: &str = "captured/trials";
pub(super) const CAPTURED_UNSEEN: &str = "captured/unseen";
pub(super) const CAPTURED_DEVICE_FILES: &str = "captured/device_files";
pub(super) const CAPTURED_ORIGINS: &str = "captured/origins";
pub(super) const CAPTURED_IOMMU: &str = "captured/iommu";

/// Where a device's serial number is, which often is its MAC address.
const SERIAL_NUMBER: u16 = 0x03;
const SERIAL_NUMBER_AT: u16 = 4;
const SERIAL_NUMBER_BYTES: u16 = 8;
/// A window into the vital product data, with what was read through it last.
const VITAL_DATA: u16 = 0x03;
const VITAL_DATA_AT: u16 = 4;
const VITAL_DATA_BYTES: u16 = 4;

/// Captures the host of a tree: what the loader reads, which devices the host uses, and which processes have VFIO files
/// open. Leaves out serial numbers, MAC addresses and names of interfaces; includes mount points, and names of
/// processes that have VFIO files or disks open.
///
/// # Errors
/// Fails if the tree has no list of PCI devices.
pub fn capture(tree: &dyn Tree) -> Result<MemoryTree, LoadError> {
    let host = Host::load(tree, Source::Live)?;
    let mut copy = MemoryTree::capture(tree);
    let configs = copy.files().filter(|(path, _)| path.ends_with("/config"));
    let bare = configs.map(|(path, bytes)| (String::from(path), without_serials(bytes)));
    for (path, bytes) in bare.collect::<Vec<_>>() {
        copy.insert(&path, bytes);
    }
    copy_more(tree, &host, &mut copy);
    for (path, text) in [
        (CAPTURED_LIFELINES, host.lifelines.map(|lifelines| serde_json::to_string(&lifelines))),
        (CAPTURED_HOLDERS, Some(serde_json::to_string(&host.holders))),
        (CAPTURED_TRIALS, Some(serde_json::to_string(&host.trials))),
        (CAPTURED_UNSEEN, Some(serde_json::to_string(&host.unseen))),
        (CAPTURED_DEVICE_FILES, Some(serde_json::to_string(&host.device_files))),
        (CAPTURED_ORIGINS, Some(serde_json::to_string(&host.origins))),
        (CAPTURED_IOMMU, Some(serde_json::to_string(&host.iommu))),
    ] {
        // None of these can fail to be written: their keys are texts.
        if let Some(Ok(text)) = text {
            copy.insert(path, text);
        }
    }
    Ok(copy)
}

/// Copies what [`Host::load`] reads besides the PCI functions: NUMA nodes, and the drivers of other members of groups.
fn copy_more(tree: &dyn Tree, host: &Host, copy: &mut MemoryTree) {
    for device in &host.pci.devices {
        let path = format!("{}/{NUMA_NODE}", device.path);
        if let Ok(contents) = tree.read(&path) {
            copy.insert(&path, contents);
        }
    }
    for path in host.other_members.iter().filter_map(|member| folder(tree, member.group, &member.name)) {
        copy.insert_directory(&path);
        for link in LINKS.map(|name| format!("{path}/{name}")) {
            if let Ok(target) = tree.link(&link) {
                copy.insert(&link, target);
            }
        }
    }
}

fn without_serials(config: &[u8]) -> Vec<u8> {
    let mut bytes = config.to_vec();
    let space = ConfigSpace::new(bytes.clone());
    let serial = space.extended_capabilities().filter(|found| found.id == SERIAL_NUMBER);
    let serial = serial.map(|found| (found.offset + SERIAL_NUMBER_AT, SERIAL_NUMBER_BYTES));
    let vital = space.capabilities().filter(|found| found.id == VITAL_DATA);
    let vital = vital.map(|found| (found.offset + VITAL_DATA_AT, VITAL_DATA_BYTES));
    for (at, length) in serial.chain(vital) {
        bytes.iter_mut().skip(at.into()).take(length.into()).for_each(|byte| *byte = 0);
    }
    bytes
}
