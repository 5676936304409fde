//! Trees of real machines that come with the crate.

use iommu_core::sysfs::{MemoryTree, Snapshot};

/// A QEMU q35 machine under Linux 6.12: cards of several functions without ACS, one behind a port with ACS, conventional
/// PCI devices behind a bridge, drivers e1000 and e1000e.
pub fn pc() -> Snapshot {
    load(include_str!("../../snapshots/pc.tree"))
}

/// A workstation's layout under Linux 6.12: an NVMe drive and a network card that share a group with their ports, for
/// want of ACS; a graphics card with its audio function; a second drive.
pub fn workstation() -> Snapshot {
    load(include_str!("../../snapshots/workstation.tree"))
}

/// A machine under Linux 6.12 with an NVMe drive that can have two virtual functions, below a port with ACS.
pub fn sriov() -> Snapshot {
    load(include_str!("../../snapshots/sriov.tree"))
}

/// What is embedded is read by a test; so nothing is ever empty.
fn load(archive: &str) -> Snapshot {
    MemoryTree::from_archive(archive).ok().and_then(|tree| Snapshot::load(&tree).ok()).unwrap_or_default()
}
