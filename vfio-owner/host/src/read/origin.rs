//! Origins of drivers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::sysfs::{Snapshot, Tree};

use super::source::text;

/// Origin of a driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// In-tree: built in, or built with the running kernel.
    InTree,
    /// Out of tree.
    OutOfTree,
}

/// The origins that a running kernel tells of the drivers that are bound: a module from elsewhere taints with `O`.
pub(super) fn origins(tree: &dyn Tree, pci: &Snapshot) -> BTreeMap<String, Origin> {
    if tree.list("module").is_err() {
        return BTreeMap::new();
    }
    let bound = pci.drivers.iter().filter(|driver| !driver.devices.is_empty());
    let told = bound.map(|driver| {
        let module = tree.link(&format!("bus/pci/drivers/{}/module", driver.name)).ok();
        let module = module.as_deref().and_then(|target| target.rsplit('/').next());
        // What is built in has no module.
        let taint = module.and_then(|module| text(tree, &format!("module/{module}/taint"))).unwrap_or_default();
        (driver.name.clone(), if taint.contains('O') { Origin::OutOfTree } else { Origin::InTree })
    });
    told.collect()
}
