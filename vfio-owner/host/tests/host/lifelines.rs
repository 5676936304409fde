//! What a machine lives on, through everything that disks and interfaces are stacked with.

use vfio_host::{Host, Purpose, Source};
use vfio_owner::iommu_core::sysfs::MemoryTree;

use crate::layout::{address, tree};

const DISKS: &str = "
    proc
    00:17.0 sata ahci 4
    00:1b.0 root-port+acs>07 pcieport 5
    07:00.0 nvme nvme 6
    08:00.0 nvme nvme 7
    09:00.0 nic igb 8";

struct Machine(MemoryTree);

impl Machine {
    fn new() -> Self {
        Self(tree(DISKS))
    }

    fn link(mut self, at: &str, to: &str) -> Self {
        self.0.insert_directory(to);
        self.0.insert(at, format!("{}{to}", "../".repeat(at.matches('/').count())));
        self
    }

    fn file(mut self, at: &str, text: &str) -> Self {
        self.0.insert(at, text);
        self
    }

    fn mount(self, line: &str) -> Self {
        self.file("proc/self/mountinfo", line)
    }

    /// The devices that something is said of, and what.
    fn lifelines(&self) -> Vec<String> {
        let host = Host::load(&self.0, Source::Tree).unwrap();
        let lifelines = host.lifelines.unwrap();
        lifelines.iter().map(|lifeline| format!("{} {}", lifeline.device, lifeline.purpose)).collect()
    }
}

const SATA: &str = "devices/pci0000:00/0000:00:17.0";
const NVME: [&str; 2] = ["devices/pci0000:00/0000:00:1b.0/0000:07:00.0", "devices/pci0000:00/0000:08:00.0"];
const NIC: &str = "devices/pci0000:00/0000:09:00.0";

#[test]
fn a_partition_counts_for_its_disk_and_the_bridges_above() {
    let disk = format!("{}/nvme/nvme0/nvme0n1/nvme0n1p2", NVME[0]);
    let machine = Machine::new()
        .link("dev/block/259:2", &disk)
        .mount("25 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n26 25 0:21 / /proc rw - proc proc rw\n");
    assert_eq!(machine.lifelines(), ["0000:00:1b.0 / is mounted from it", "0000:07:00.0 / is mounted from it"]);
}

#[test]
fn an_encrypted_volume_of_a_raid_counts_for_every_disk() {
    let (crypt, lvm, raid) = ("devices/virtual/block/dm-1", "devices/virtual/block/dm-0", "devices/virtual/block/md0");
    let disks = [format!("{SATA}/ata1/block/sda/sda1"), format!("{}/nvme/nvme0/nvme0n1", NVME[1])];
    let machine = Machine::new()
        .link("dev/block/253:1", crypt)
        .link(&format!("{crypt}/slaves/dm-0"), lvm)
        .link(&format!("{lvm}/slaves/md0p1"), &format!("{raid}/md0p1"))
        .link(&format!("{raid}/slaves/sda1"), &disks[0])
        .link(&format!("{raid}/slaves/nvme0n1"), &disks[1])
        .mount("25 1 253:1 / /home\\040of\\040us rw - xfs /dev/mapper/home rw\n");
    let at = "/home of us is mounted from it";
    assert_eq!(machine.lifelines(), [format!("0000:00:17.0 {at}"), format!("0000:08:00.0 {at}")]);
}

#[test]
fn a_drive_of_several_controllers_counts_for_all() {
    let subsystem = "devices/virtual/nvme-subsystem/nvme-subsys0";
    let machine = Machine::new()
        .link("dev/block/259:0", &format!("{subsystem}/nvme0n1"))
        .link(&format!("{subsystem}/nvme0"), &format!("{}/nvme/nvme0", NVME[0]))
        .link(&format!("{subsystem}/nvme1"), &format!("{}/nvme/nvme1", NVME[1]))
        .mount("25 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n");
    let devices: Vec<String> = machine.lifelines();
    assert_eq!(devices.len(), 3, "{devices:?}");
}

#[test]
fn btrfs_counts_for_every_disk_of_it() {
    let disks =
        [format!("{SATA}/ata1/block/sda"), format!("{SATA}/ata2/block/sdb"), format!("{}/nvme/nvme0/nvme0n1", NVME[1])];
    let machine = Machine::new()
        .link("class/block/sda", &disks[0])
        .link("fs/btrfs/0aa/devices/sda", &disks[0])
        .link("fs/btrfs/0aa/devices/nvme0n1", &disks[2])
        .mount("25 1 0:33 /root / rw - btrfs /dev/sda rw\n");
    let told = machine.lifelines().join("\n");
    assert!(
        told.contains("0000:00:17.0 / is mounted from it") && told.contains("0000:08:00.0 a file system"),
        "{told}"
    );
}

#[test]
fn zfs_does_not_show_its_disks_so_any_may_be_one() {
    let machine = Machine::new()
        .link("class/block/sda", &format!("{SATA}/ata1/block/sda"))
        .mount("25 1 0:33 / / rw - zfs tank/root rw\n");
    assert_eq!(machine.lifelines(), ["0000:00:17.0 zfs is mounted, perhaps from it"]);
}

#[test]
fn a_bond_in_a_bridge_counts_for_its_interfaces() {
    let machine = Machine::new()
        .link("class/net/br0", "devices/virtual/net/br0")
        .link("devices/virtual/net/br0/lower_bond0", "devices/virtual/net/bond0")
        .link("class/net/bond0", "devices/virtual/net/bond0")
        .link("devices/virtual/net/bond0/lower_eth0", &format!("{NIC}/net/eth0"))
        .link("class/net/eth0", &format!("{NIC}/net/eth0"))
        .file("proc/net/route", "Iface Destination\nbr0 00000000 0102A8C0 0003 0 0 0 00000000 0 0 0\n");
    assert_eq!(machine.lifelines(), ["0000:09:00.0 the default route leads through it"]);
}

#[test]
fn a_tunnel_counts_for_what_other_routes_lead_through() {
    let machine = Machine::new()
        .link("class/net/wg0", "devices/virtual/net/wg0")
        .link("class/net/eth0", &format!("{NIC}/net/eth0"))
        .file(
            "proc/net/route",
            "Iface Destination\nwg0 00000000 0 0003 0 0 0 00000000 0 0 0\neth0 0002A8C0 0 0001 0 0 0 00FFFFFF 0 0 0\n",
        );
    assert_eq!(machine.lifelines(), ["0000:09:00.0 the default route leads through it"]);
}

#[test]
fn ipv6_has_a_default_route_of_its_own_and_half_of_everything_is_none() {
    let zeros = "0".repeat(32);
    let line = |length: &str, name: &str| {
        format!("{zeros} {length} {zeros} 00 {zeros} 00000400 00000001 00000000 00000003 {name}\n")
    };
    let machine = Machine::new().link("class/net/eth0", &format!("{NIC}/net/eth0"));
    let machine = machine.file("proc/net/ipv6_route", &line("00", "lo"));
    assert_eq!(machine.lifelines(), [""; 0]);
    let machine = machine.file("proc/net/ipv6_route", &line("01", "eth0"));
    assert_eq!(machine.lifelines(), [""; 0]);
    let machine = machine.file("proc/net/ipv6_route", &line("00", "eth0"));
    assert_eq!(machine.lifelines(), ["0000:09:00.0 the default route leads through it"]);
}

#[test]
fn stacks_that_run_in_a_circle_end() {
    let (one, two) = ("devices/virtual/block/dm-0", "devices/virtual/block/dm-1");
    let machine = Machine::new()
        .link("dev/block/253:0", one)
        .link(&format!("{one}/slaves/dm-1"), two)
        .link(&format!("{two}/slaves/dm-0"), one)
        .link("class/net/a", "devices/virtual/net/a")
        .link("devices/virtual/net/a/lower_a", "devices/virtual/net/a")
        .file("proc/net/route", "Iface Destination\na 00000000 0 0003 0 0 0 00000000 0 0 0\n")
        .mount("25 1 253:0 / / rw - ext4 /dev/dm-0 rw\n");
    assert_eq!(machine.lifelines(), [""; 0]);
}

#[test]
fn without_a_list_of_mounts_nothing_is_known() {
    let mut tree = tree(DISKS);
    tree.remove("proc/self/mountinfo");
    assert_eq!(Host::load(&tree, Source::Tree).unwrap().lifelines, None);
}

#[test]
fn swap_and_console_are_found() {
    let machine = Machine::new()
        .link("class/block/sda2", &format!("{SATA}/ata1/block/sda/sda2"))
        .link("class/tty/ttyS4", &format!("{NIC}/tty/ttyS4"))
        .link("class/graphics/fb0", &format!("{}/graphics/fb0", NVME[1]))
        .file("class/tty/console/active", "tty0 ttyS4\n")
        .file("proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n");
    let host = Host::load(&machine.0, Source::Tree).unwrap();
    let purposes = |device: &str| host.purposes(address(device)).cloned().collect::<Vec<_>>();
    assert_eq!(purposes("00:17.0"), [Purpose::Swap]);
    assert_eq!(purposes("09:00.0"), [Purpose::Console]);
    assert_eq!(purposes("08:00.0"), [Purpose::Console]);
}
