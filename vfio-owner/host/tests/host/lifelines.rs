//! What a machine lives on, through everything that disks and interfaces are stacked with.

use std::fmt::Write as _;

use vfio_host::{Host, Plan, PlanError, Purpose, Source, Unseen};
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

/// What a machine is made of, one line each: `link AT TO`, `file AT = TEXT` (`;` ends a line of the text).
fn machine(parts: &str) -> Machine {
    let mut machine = Machine::new();
    for part in parts.lines().map(str::trim).filter(|part| !part.is_empty()) {
        machine = match part.split_once(' ').unwrap() {
            ("link", rest) => {
                let (at, to) = rest.split_once(' ').unwrap();
                machine.link(&expanded(at), &expanded(to))
            }
            ("file", rest) => {
                let (at, text) = rest.split_once(" = ").unwrap();
                machine.file(&expanded(at), &text.replace(';', "\n"))
            }
            other => panic!("{other:?}"),
        };
    }
    machine
}

/// Paths of devices by short names.
fn expanded(path: &str) -> String {
    [("SATA", SATA), ("NVME0", NVME[0]), ("NVME1", NVME[1]), ("NIC", NIC), ("VIRT", "devices/virtual")]
        .iter()
        .fold(path.to_owned(), |path, (short, long)| path.replace(short, long))
}

const NO_MOUNTS: &str = "file proc/self/mountinfo = 1 1 0:1 / / rw - tmpfs none rw";
const SDA: &str = "
    file proc/self/mountinfo = 1 1 0:1 / / rw - tmpfs none rw
    link class/block/sda SATA/ata1/block/sda
    link dev/block/8:0 SATA/ata1/block/sda
    file SATA/ata1/block/sda/size = 100";
const ETH: &str = "
    file proc/self/mountinfo = 1 1 0:1 / / rw - tmpfs none rw
    link class/net/eth0 NIC/net/eth0
    file NIC/net/eth0/mtu = 1500
    link bus/pci/devices/0000:09:00.0 NIC";

/// Each form in which a machine lives on a device: what it is called, what it is made of, and the device.
const FORMS: &[(&str, &[&str], &str)] = &[
    (
        "a mount in the namespace of a container",
        &[
            SDA,
            "link dev/block/8:1 SATA/ata1/block/sda/sda1
             file proc/self/ns/mnt = mnt:[1]
             file proc/7/ns/mnt = mnt:[2]
             file proc/7/mountinfo = 5 1 8:1 / /data rw - ext4 /dev/sda1 rw",
        ],
        "00:17.0",
    ),
    (
        "a loop device over a file",
        &[
            SDA,
            "file proc/self/mountinfo = 1 1 8:0 / /images rw - vfat /dev/sda rw;2 1 7:0 / /mnt rw - ext4 /dev/loop0 rw
             link dev/block/7:0 VIRT/block/loop0
             file VIRT/block/loop0/loop/backing_file = /images/disk.img",
        ],
        "00:17.0",
    ),
    (
        "a partition of a loop device over a whole disk",
        &[
            SDA,
            "file proc/self/mountinfo = 2 1 259:9 / /mnt rw - ext4 /dev/loop0p1 rw
             link dev/block/259:9 VIRT/block/loop0/loop0p1
             file VIRT/block/loop0/loop/backing_file = /dev/sda",
        ],
        "00:17.0",
    ),
    ("a file system of ext4 that is unmounted lazily", &[SDA, "file fs/ext4/sda/session_write_kbytes = 1"], "00:17.0"),
    ("a file system of xfs that is unmounted lazily", &[SDA, "file fs/xfs/sda/log/x = 1"], "00:17.0"),
    ("a file system that shows nothing at all", &[SDA, "file asked/disk/sda = busy"], "00:17.0"),
    (
        "a volume that is claimed",
        &[
            SDA,
            "link SATA/ata1/block/sda/holders/dm-0 VIRT/block/dm-0
             file VIRT/block/dm-0/size = 1
             file asked/disk/sda = busy
             file asked/disk/dm-0 = busy",
        ],
        "00:17.0",
    ),
    (
        "a RAID that nothing is mounted from",
        &[
            SDA,
            "link SATA/ata1/block/sda/holders/md0 VIRT/block/md0
             file VIRT/block/md0/md/array_state = clean",
        ],
        "00:17.0",
    ),
    (
        "compressed swap that goes to a disk",
        &[
            SDA,
            "link class/block/zram0 VIRT/block/zram0
             file VIRT/block/zram0/backing_dev = /dev/sda
             file proc/swaps = Filename Type Size Used Priority;/dev/zram0 partition 1 0 -2",
        ],
        "00:17.0",
    ),
    (
        "a swap file",
        &[
            SDA,
            "file proc/self/mountinfo = 1 1 8:0 / /data rw - ext4 /dev/sda rw
             file proc/swaps = Filename Type Size Used Priority;/data/swap\\040file file 1 0 -2",
        ],
        "00:17.0",
    ),
    ("an external journal of ext4", &[SDA, "file proc/fs/jbd2/sda/info = x"], "00:17.0"),
    (
        "an external log of xfs",
        &[SDA, "file proc/self/mountinfo = 1 1 0:99 / / rw - xfs /dev/nowhere rw,logdev=/dev/sda,noquota"],
        "00:17.0",
    ),
    (
        "layers of an overlay whose mount is elsewhere",
        &[
            SDA,
            "file proc/self/mountinfo = 2 1 0:50 / / rw - overlay overlay rw,lowerdir=/live/a:/live/b,upperdir=/up
             file proc/self/ns/mnt = mnt:[1]
             file proc/9/ns/mnt = mnt:[2]
             file proc/9/mountinfo = 1 1 8:0 / /live rw - ext4 /dev/sda rw",
        ],
        "00:17.0",
    ),
    ("a disk that a process has open", &[SDA, "file proc/7/fd/3 = /dev/sda\nfile proc/7/comm = postgres"], "00:17.0"),
    (
        "a disk that a process has open by another name",
        &[SDA, "file proc/7/fd/3 = /tmp/mine\nfile asked/node/7/3 = b 8:0\nfile proc/7/comm = postgres"],
        "00:17.0",
    ),
    (
        "a disk that a process has open around the block layer",
        &[
            NO_MOUNTS,
            "link dev/char/243:0 NVME1/nvme/nvme1/nvme-generic/ng1n1
             file proc/7/fd/3 = /dev/ng1n1\nfile asked/node/7/3 = c 243:0",
        ],
        "08:00.0",
    ),
    (
        "a multipath drive of NVMe",
        &[
            "file proc/self/mountinfo = 25 1 259:0 / / rw - ext4 /dev/nvme0n1 rw
             link dev/block/259:0 VIRT/nvme-subsystem/nvme-subsys0/nvme0n1
             link VIRT/nvme-subsystem/nvme-subsys0/nvme1 NVME1/nvme/nvme1",
        ],
        "08:00.0",
    ),
    (
        "a multipath drive of NVMe that the kernel uses",
        &[
            NO_MOUNTS,
            "link class/block/nvme0n1 VIRT/nvme-subsystem/nvme-subsys0/nvme0n1
             link class/block/nvme0c1n1 NVME1/nvme/nvme1/nvme0c1n1
             file NVME1/nvme/nvme1/nvme0c1n1/hidden = 1
             link VIRT/nvme-subsystem/nvme-subsys0/nvme1 NVME1/nvme/nvme1
             file asked/disk/nvme0n1 = busy",
        ],
        "08:00.0",
    ),
    (
        "a folder of the host by 9p",
        &[
            "file proc/self/mountinfo = 1 1 0:40 / /host rw - 9p host0 rw,trans=virtio
             link bus/virtio/drivers/9pnet_virtio/virtio3 NVME1/virtio3
             file NVME1/virtio3/mount_tag = host0",
        ],
        "08:00.0",
    ),
    (
        "a folder of the host by virtiofs",
        &[
            "file proc/self/mountinfo = 1 1 0:40 / /host rw - virtiofs shared rw
             link bus/virtio/drivers/virtiofs/virtio3 NVME1/virtio3
             file NVME1/virtio3/device = 1",
        ],
        "08:00.0",
    ),
    (
        "NFS",
        &[
            ETH,
            "file proc/self/mountinfo = 1 1 0:40 / /srv rw - nfs4 nas:/srv rw,vers=4.2,addr=10.20.0.9
             file proc/net/route = x;eth0 0000140A 0 0001 0 0 0 0000FFFF 0 0 0",
        ],
        "09:00.0",
    ),
    (
        "CIFS by the default route of another card's network",
        &[
            ETH,
            "file proc/self/mountinfo = 1 1 0:40 / /srv rw - cifs //10.20.0.9/srv rw
             file proc/net/route = x;eth0 0000140A 0 0001 0 0 0 0000FFFF 0 0 0",
        ],
        "09:00.0",
    ),
    (
        "9p over TCP",
        &[
            ETH,
            "file proc/self/mountinfo = 1 1 0:40 / /srv rw - 9p 10.20.0.9 rw,trans=tcp
             file proc/net/route = x;eth0 0000140A 0 0001 0 0 0 0000FFFF 0 0 0",
        ],
        "09:00.0",
    ),
    (
        "a disk of iSCSI",
        &[
            ETH,
            "file proc/self/mountinfo = 1 1 8:16 / /srv rw - ext4 /dev/sdb rw
             link dev/block/8:16 devices/platform/host3/session4/target3:0:0/3:0:0:1/block/sdb
             link class/iscsi_connection/connection4:0 devices/platform/host3/session4/connection4:0/iscsi_connection/connection4:0
             file devices/platform/host3/session4/connection4:0/iscsi_connection/connection4:0/address = 10.20.0.9
             file proc/net/route = x;eth0 0000140A 0 0001 0 0 0 0000FFFF 0 0 0",
        ],
        "09:00.0",
    ),
    (
        "NVMe over TCP",
        &[
            ETH,
            "file proc/self/mountinfo = 1 1 259:7 / /srv rw - ext4 /dev/nvme9n1 rw
             link dev/block/259:7 VIRT/nvme-fabrics/ctl/nvme9/nvme9n1
             file VIRT/nvme-fabrics/ctl/nvme9/address = traddr=10.20.0.9,trsvcid=4420,src_addr=10.20.0.1
             file proc/net/route = x;eth0 0000140A 0 0001 0 0 0 0000FFFF 0 0 0",
        ],
        "09:00.0",
    ),
    (
        "NVMe over Fibre Channel",
        &[
            "file proc/self/mountinfo = 1 1 259:7 / /srv rw - ext4 /dev/nvme9n1 rw
             link dev/block/259:7 VIRT/nvme-fabrics/ctl/nvme9/nvme9n1
             file VIRT/nvme-fabrics/ctl/nvme9/address = traddr=nn-0x1:pn-0x2,host_traddr=nn-0x3:pn-0x4
             link class/fc_host/host5 NVME1/host5/fc_host/host5
             file NVME1/host5/fc_host/host5/port_name = 0x4",
        ],
        "08:00.0",
    ),
    (
        "a network block device",
        &[
            ETH,
            "file proc/self/mountinfo = 1 1 43:0 / /srv rw - ext4 /dev/nbd0 rw
             link dev/block/43:0 VIRT/block/nbd0
             file VIRT/block/nbd0/pid = 70
             file proc/70/fd/3 = socket:[4711]
             file proc/70/net/tcp = x;0: 0114140A:D1E2 0900140A:2A5D 01 0:0 00:0 0 0 0 4711 1
             file proc/net/route = x;eth0 0000140A 0 0001 0 0 0 0000FFFF 0 0 0",
        ],
        "09:00.0",
    ),
    (
        "a network block device whose server is not shown",
        &[
            ETH,
            "file proc/self/mountinfo = 1 1 43:0 / /srv rw - ext4 /dev/nbd0 rw
             link dev/block/43:0 VIRT/block/nbd0
             file proc/net/route = x;eth0 0000140A 0 0001 0 0 0 0000FFFF 0 0 0",
        ],
        "09:00.0",
    ),
    (
        "two half default routes",
        &[ETH, "file proc/net/route = x;eth0 00000000 1 3 0 0 0 00000080 0 0 0;eth0 00000080 1 3 0 0 0 00000080 0 0 0"],
        "09:00.0",
    ),
    (
        "a default route in another table, by netlink",
        &[
            ETH,
            r#"file asked/network = [{"links": [{"name": "eth0", "device": "class/net/eth0"}], "routes": [{"to": "0.0.0.0", "length": 0, "through": ["eth0"]}]}]"#,
        ],
        "09:00.0",
    ),
    (
        "the second way of a multipath route",
        &[
            ETH,
            r#"file asked/network = [{"links": [{"name": "eth0", "device": "bus/pci/devices/0000:09:00.0"}], "routes": [{"to": "::", "length": 0, "through": ["eth9", "eth0"]}]}]"#,
        ],
        "09:00.0",
    ),
    (
        "a card that was moved to another network namespace",
        &[
            NO_MOUNTS,
            "link bus/pci/devices/0000:09:00.0 NIC",
            r#"file asked/network = [{}, {"links": [{"name": "eth0", "device": "bus/pci/devices/0000:09:00.0"}], "routes": [{"to": "0.0.0.0", "length": 0, "through": ["eth0"]}]}]"#,
        ],
        "09:00.0",
    ),
    (
        "a macvlan in a container",
        &[
            ETH,
            r#"file asked/network = [{"links": [{"index": 2, "name": "eth0", "device": "class/net/eth0"}]}, {"links": [{"name": "mv", "lower_elsewhere": 2}], "routes": [{"to": "0.0.0.0", "length": 0, "through": ["mv"]}]}]"#,
        ],
        "09:00.0",
    ),
    (
        "a default route of another network namespace, by proc",
        &[
            ETH,
            "file proc/9/ns/net = net:[2]\nfile proc/9/net/route = x;eth0 00000000 1 3 0 0 0 00000000 0 0 0",
        ],
        "09:00.0",
    ),
    (
        "a port of Open vSwitch",
        &[
            ETH,
            "link class/net/br0 VIRT/net/br0
             file VIRT/net/br0/mtu = 1
             link class/net/ovs-system VIRT/net/ovs-system
             link VIRT/net/ovs-system/lower_eth0 NIC/net/eth0
             file proc/net/route = x;br0 00000000 0102A8C0 0003 0 0 0 00000000 0 0 0",
        ],
        "09:00.0",
    ),
    (
        "a console of a hypervisor",
        &[
            NO_MOUNTS,
            "link bus/virtio/drivers/virtio_console/virtio1 NVME1/virtio1
             file NVME1/virtio1/device = 3\nfile class/tty/console/active = tty0 hvc0",
        ],
        "08:00.0",
    ),
    (
        "a console on a serial card",
        &[NO_MOUNTS, "link class/tty/ttyS4 NVME1/tty/ttyS4\nfile class/tty/console/active = ttyS4"],
        "08:00.0",
    ),
    (
        "the only keyboard",
        &[
            NO_MOUNTS,
            "file proc/bus/input/devices = S: Sysfs=/devices/LNXPWRBN:00/input/input1;H: Handlers=kbd event1;;S: Sysfs=/devices/pci0000:00/0000:08:00.0/usb1/1-1/input/input4;H: Handlers=sysrq kbd leds event4;;S: Sysfs=/devices/pci0000:00/0000:08:00.0/usb1/1-1/input/input5;H: Handlers=sysrq kbd event5",
        ],
        "08:00.0",
    ),
];

#[test]
fn each_form_of_lifeline_is_refused_and_nothing_else_of_the_machine() {
    for (name, parts, device) in FORMS {
        let parts = parts.join("\n").replace("\\n", "\n");
        let host = Host::load(&machine(&parts).0, Source::Tree).unwrap();
        let wanted = address(device);
        for other in ["00:17.0", "08:00.0", "09:00.0"].map(address) {
            let plan = Plan::make(&host, &[other], &[]);
            if other == wanted {
                assert!(matches!(plan, Err(PlanError::Guarded { .. })), "{name}: {plan:?}");
                assert!(Plan::make(&host, &[other], &[other]).is_ok(), "{name}");
            } else {
                assert!(plan.is_ok(), "{name}: {plan:?}");
            }
        }
    }
}

#[test]
fn what_the_machine_has_and_does_not_live_on_can_go() {
    for (name, parts) in [
        ("a disk that nothing is on", vec![SDA, "file asked/disk/sda = free"]),
        (
            "a volume that is there and not in use",
            vec![
                SDA,
                "link SATA/ata1/block/sda/holders/dm-0 VIRT/block/dm-0
                 file VIRT/block/dm-0/size = 1\nfile asked/disk/sda = busy\nfile asked/disk/dm-0 = free",
            ],
        ),
        ("an address without a default route", vec![ETH, "file proc/net/route = x;eth0 0000140A 0 1 0 0 0 0000FFFF 0 0 0"]),
        ("one half of a default route", vec![ETH, "file proc/net/route = x;eth0 00000080 0 3 0 0 0 00000080 0 0 0"]),
        (
            "NFS over a network of another card",
            vec![
                ETH,
                "file proc/self/mountinfo = 1 1 0:40 / /srv rw - nfs4 nas:/srv rw,addr=10.21.0.9
                 link class/net/eth9 NVME0/net/eth9
                 file proc/net/route = x;eth0 0000140A 0 0001 0 0 0 0000FFFF 0 0 0;eth9 0000150A 0 0001 0 0 0 0000FFFF 0 0 0",
            ],
        ),
        (
            "one of two keyboards",
            vec![
                NO_MOUNTS,
                "file proc/bus/input/devices = S: Sysfs=/devices/platform/i8042/input0;H: Handlers=sysrq kbd event0;;S: Sysfs=/devices/pci0000:00/0000:08:00.0/usb1/input4;H: Handlers=sysrq kbd event4",
            ],
        ),
        ("a disk that a process once had open", vec![SDA, "file proc/7/fd/3 = /home/me/dev/sda\nfile proc/7/fd/4 = /dev/null"]),
        ("an unused loop device", vec![SDA, "file VIRT/block/loop0/loop/backing_file = /dev/sda"]),
        ("a serial port that is no console", vec![NO_MOUNTS, "link class/tty/ttyS4 NVME1/tty/ttyS4\nfile class/tty/console/active = tty0"]),
    ] {
        let host = Host::load(&machine(&parts.join("\n").replace("\\n", "\n")).0, Source::Tree).unwrap();
        for device in ["00:17.0", "08:00.0", "09:00.0"].map(address) {
            let plan = Plan::make(&host, &[device], &[]);
            assert!(plan.is_ok(), "{name}: {plan:?}");
        }
    }
}

#[test]
fn what_cannot_be_seen_is_said() {
    let unseen = |parts: &[&str]| Host::load(&machine(&parts.join("\n")).0, Source::Tree).unwrap().unseen;
    let all = [Unseen::OpenFiles, Unseen::MountNamespaces, Unseen::Routes, Unseen::ClaimedDisks];
    assert_eq!(unseen(&[SDA]), all);
    let seen = "file proc/7/fd/3 = x
        file proc/7/mountinfo = x
        file asked/network = []
        file asked/disk/sda = free";
    assert_eq!(unseen(&[SDA, seen]), []);
    // The files of another process are not shown, nor its mounts.
    assert_eq!(unseen(&[SDA, seen, "file proc/8/fd = x"]), [Unseen::OpenFiles, Unseen::MountNamespaces]);
}

#[test]
fn stacks_that_refer_to_themselves_end() {
    let host = Host::load(
        &machine(
            "file proc/self/mountinfo = 1 1 7:0 / /a rw - ext4 /dev/loop0 rw,logdev=/dev/loop0;2 1 0:9 / /o rw - overlay o rw,lowerdir=/o:/a
             link dev/block/7:0 VIRT/block/loop0
             link class/block/loop0 VIRT/block/loop0
             file VIRT/block/loop0/loop/backing_file = /a/file
             link VIRT/block/loop0/holders/loop0 VIRT/block/loop0",
        )
        .0,
        Source::Tree,
    );
    assert_eq!(host.unwrap().lifelines.unwrap(), []);
}

#[test]
fn stacks_that_meet_again_are_looked_at_once() {
    // Sixteen layers of two devices each, all on both of the next: 65,536 ways down to the disk.
    let mut parts = format!("{SDA}\nfile proc/self/mountinfo = 1 1 253:0 / / rw - ext4 /dev/dm-0 rw\n");
    parts.push_str("link dev/block/253:0 VIRT/block/dm-0\n");
    for layer in 0..16 {
        for (one, other) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let (at, to) = (2 * layer + one, 2 * layer + 2 + other);
            let to = if layer == 15 { "SATA/ata1/block/sda".to_owned() } else { format!("VIRT/block/dm-{to}") };
            writeln!(parts, "link VIRT/block/dm-{at}/slaves/dm-{other} {to}").unwrap();
        }
    }
    assert_eq!(machine(&parts).lifelines(), ["0000:00:17.0 / is mounted from it"]);
    // Drives of NVMe stand beside each other.
    let mut parts = "file proc/self/mountinfo = 1 1 259:0 / / rw - ext4 /dev/nvme0n1 rw
        link dev/block/259:0 VIRT/nvme-subsystem/nvme-subsys0/nvme0n1
        link VIRT/nvme-subsystem/nvme-subsys0/nvme1 NVME1/nvme/nvme1\n"
        .to_owned();
    for number in 1..9 {
        writeln!(parts, "link VIRT/nvme-subsystem/nvme-subsys{number}/nvme2 NVME0/nvme/nvme2").unwrap();
        writeln!(parts, "file VIRT/nvme-subsystem/nvme-subsys{number}/nvme{number}n1/size = 1").unwrap();
    }
    assert_eq!(machine(&parts).lifelines(), ["0000:08:00.0 / is mounted from it"]);
}
