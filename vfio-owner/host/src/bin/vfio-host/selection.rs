//! Devices on the command line.

use anyhow::Result;
use vfio_host::{Host, NoneSelected, Selector};
use vfio_owner::iommu_core::device_model::pci::PciAddress;

/// The devices that the selectors name, each once, in their order.
pub(crate) fn select(host: &Host, selectors: &[Selector]) -> Result<Vec<PciAddress>, NoneSelected> {
    let mut devices = Vec::new();
    for selector in selectors {
        let found = host.select(selector)?;
        devices.extend(found.into_iter().filter(|device| !devices.contains(device)).collect::<Vec<_>>());
    }
    Ok(devices)
}
