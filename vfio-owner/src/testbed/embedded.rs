//! Trees of real machines that come with the crate.

use iommu_core::sysfs::{Archive, Snapshot};

/// A QEMU q35 machine under Linux 6.12: cards of several functions without ACS, one behind a port with ACS, conventional
/// PCI devices behind a bridge, drivers e1000 and e1000e.
///
/// | device | is | driver | group | BARs | interrupts | reset alone |
/// |---|---|---|---|---|---|---|
/// | `0000:00:00.0` | host bridge 8086:29c0 | – | 0 |  |  | no |
/// | `0000:00:01.0` | graphics card 1234:1111 | – | 1 | 16 MiB, 4 KiB |  | no |
/// | `0000:00:03.0` | network card 8086:10d3 | e1000e | 2 | 128 KiB, 128 KiB, 32 ports, 16 KiB | INTx 1, MSI 1, MSI-X 5 | yes |
/// | `0000:00:04.0` | network card 8086:100e | e1000 | 3 | 128 KiB, 64 ports | INTx 1 | no |
/// | `0000:00:04.1` | network card 8086:100e | e1000 | 3 | 128 KiB, 64 ports | INTx 1 | no |
/// | `0000:00:04.2` | edu device 1234:11e8 | – | 3 | 1 MiB | INTx 1, MSI 1 | no |
/// | `0000:00:05.0` | edu device 1234:11e8 | – | 4 | 1 MiB | INTx 1, MSI 1 | no |
/// | `0000:00:06.0` | bridge 1b36:000c | pcieport | 5 | 4 KiB | INTx 1, MSI-X 1 | no |
/// | `0000:00:07.0` | bridge 1b36:000c | pcieport | 6 | 4 KiB | INTx 1, MSI-X 1 | no |
/// | `0000:00:1f.0` | ISA bridge 8086:2918 | – | 7 |  |  | no |
/// | `0000:00:1f.2` | SATA controller 8086:2922 | – | 7 | 32 ports, 4 KiB | INTx 1, MSI 1 | no |
/// | `0000:00:1f.3` | SMBus 8086:2930 | – | 7 | 64 ports | INTx 1 | no |
/// | `0000:01:00.0` | network card 8086:10d3 | e1000e | 8 | 128 KiB, 128 KiB, 32 ports, 16 KiB | INTx 1, MSI 1, MSI-X 5 | yes |
/// | `0000:01:00.1` | network card 8086:10d3 | e1000e | 8 | 128 KiB, 128 KiB, 32 ports, 16 KiB | INTx 1, MSI 1, MSI-X 5 | yes |
/// | `0000:02:00.0` | bridge 1b36:000e | – | 9 | 256 B | INTx 1, MSI 1 | yes |
/// | `0000:03:01.0` | network card 8086:100e | e1000 | 9 | 128 KiB, 64 ports | INTx 1 | no |
/// | `0000:03:02.0` | network card 8086:100e | e1000 | 9 | 128 KiB, 64 ports | INTx 1 | no |
pub fn pc() -> Snapshot {
    load(include_str!("../../snapshots/pc.tree"))
}

/// A workstation's layout under Linux 6.12: an NVMe drive and a network card that share a group with their ports, for
/// want of ACS; a graphics card with its audio function; a second drive.
///
/// | device | is | driver | group | BARs | interrupts | reset alone |
/// |---|---|---|---|---|---|---|
/// | `0000:00:00.0` | host bridge 8086:29c0 | – | 0 |  |  | no |
/// | `0000:00:01.0` | bridge 1b36:000c | pcieport | 1 | 4 KiB | INTx 1, MSI-X 1 | no |
/// | `0000:00:05.0` | NVMe drive 1b36:0010 | nvme | 2 | 16 KiB | INTx 1, MSI-X 65 | yes |
/// | `0000:00:14.0` | USB controller 1b36:000d | – | 3 | 16 KiB | INTx 1, MSI-X 16 | no |
/// | `0000:00:1c.0` | bridge 1b36:000c | pcieport | 4 | 4 KiB | INTx 1, MSI-X 1 | no |
/// | `0000:00:1c.1` | bridge 1b36:000c | pcieport | 4 | 4 KiB | INTx 1, MSI-X 1 | no |
/// | `0000:00:1f.0` | ISA bridge 8086:2918 | – | 5 |  |  | no |
/// | `0000:00:1f.2` | SATA controller 8086:2922 | – | 5 | 32 ports, 4 KiB | INTx 1, MSI 1 | no |
/// | `0000:00:1f.3` | SMBus 8086:2930 | – | 5 | 64 ports | INTx 1 | no |
/// | `0000:01:00.0` | display 1234:1111 | – | 6 | 16 MiB, 4 KiB |  | no |
/// | `0000:01:00.1` | audio 8086:2668 | – | 6 | 16 KiB | INTx 1, MSI 1 | no |
/// | `0000:02:00.0` | NVMe drive 1b36:0010 | nvme | 4 | 16 KiB | INTx 1, MSI-X 65 | yes |
/// | `0000:03:00.0` | network card 8086:10d3 | e1000e | 4 | 128 KiB, 128 KiB, 32 ports, 16 KiB | INTx 1, MSI 1, MSI-X 5 | yes |
pub fn workstation() -> Snapshot {
    load(include_str!("../../snapshots/workstation.tree"))
}

/// A machine under Linux 6.12 with an NVMe drive that can have two virtual functions, below a port with ACS.
///
/// | device | is | driver | group | BARs | interrupts | reset alone |
/// |---|---|---|---|---|---|---|
/// | `0000:00:00.0` | host bridge 8086:29c0 | – | 0 |  |  | no |
/// | `0000:00:01.0` | graphics card 1234:1111 | – | 1 | 16 MiB, 4 KiB |  | no |
/// | `0000:00:03.0` | network card 8086:10d3 | e1000e | 2 | 128 KiB, 128 KiB, 32 ports, 16 KiB | INTx 1, MSI 1, MSI-X 5 | yes |
/// | `0000:00:06.0` | bridge 1b36:000c | pcieport | 3 | 4 KiB | INTx 1, MSI-X 1 | no |
/// | `0000:00:1f.0` | ISA bridge 8086:2918 | – | 4 |  |  | no |
/// | `0000:00:1f.2` | SATA controller 8086:2922 | – | 4 | 32 ports, 4 KiB | INTx 1, MSI 1 | no |
/// | `0000:00:1f.3` | SMBus 8086:2930 | – | 4 | 64 ports | INTx 1 | no |
/// | `0000:01:00.0` | NVMe drive 1b36:0010 | nvme | 5 | 16 KiB | INTx 1, MSI-X 63 | yes |
pub fn sriov() -> Snapshot {
    load(include_str!("../../snapshots/sriov.tree"))
}

/// What is embedded is read by a test; so nothing is ever empty.
fn load(archive: &str) -> Snapshot {
    Archive::parse(archive).ok().and_then(|tree| Snapshot::load(&tree).ok()).unwrap_or_default()
}
