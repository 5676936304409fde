//! Machines written down as layouts.

use vfio_host::{Host, Source};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::MemoryTree;

pub(crate) fn address(text: &str) -> PciAddress {
    text.parse().unwrap()
}

pub(crate) fn tree(layout: &str) -> MemoryTree {
    MemoryTree::from_layout(layout).unwrap()
}

pub(crate) fn host(layout: &str) -> Host {
    Host::load(&tree(layout), Source::Tree).unwrap()
}
