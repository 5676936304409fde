//! Machines written down as layouts.

use vfio_host::{Host, Source};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::MemoryTree;

/// A graphics card in the host's own use, and a disk that the host lives on.
pub(crate) const GRAPHICS_CARD: &str = "
    proc
    00:01.0 root-port>01 pcieport 1
    01:00.0 vga nouveau 1
    01:00.1 audio snd_hda_intel 1
    00:17.0 sata ahci 4 on=/";

pub(crate) fn address(text: &str) -> PciAddress {
    text.parse().unwrap()
}

pub(crate) fn tree(layout: &str) -> MemoryTree {
    MemoryTree::from_layout(layout).unwrap()
}

pub(crate) fn host(layout: &str) -> Host {
    Host::load(&tree(layout), Source::Tree).unwrap()
}
