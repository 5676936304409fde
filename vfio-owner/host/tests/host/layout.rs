//! Machines written down as a table: `ADDRESS KIND DRIVER GROUP [MORE…]`, one device a line.
//!
//! `-` is no driver, or no group. A bridge has `>BUS` behind its kind, and `+acs` if it isolates (`?acs` if it could). More
//! is one of `vf=PF` (a virtual function of that device), `direct` (firmware needs the group), `on=MOUNTPOINT`, `swap`,
//! `route`, `boot-vga`, `console`, `override=DRIVER`, `file` (it has a file of its own). The line `proc` says that mounts,
//! routes and processes are shown.

use std::fmt::Write as _;

use vfio_host::{Host, Source};
use vfio_owner::iommu_core::device_model::pci::{AcsBits, ConfigSpace, PciAddress, PortType};
use vfio_owner::iommu_core::grouping::ISOLATION;
use vfio_owner::iommu_core::sysfs::MemoryTree;

pub(crate) fn address(text: &str) -> PciAddress {
    text.parse().unwrap()
}

/// The tree of the machine of this table.
pub(crate) fn tree(table: &str) -> MemoryTree {
    let slots = table.split_whitespace().filter_map(|word| word.parse::<PciAddress>().ok()).map(slot).collect();
    let mut layout = Layout { slots, ..Layout::default() };
    layout.tree.insert_directory("bus/pci/devices");
    layout.tree.insert_directory("bus/pci/drivers");
    layout.tree.insert_directory("kernel/iommu_groups");
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        layout.line(line);
    }
    layout.finish()
}

pub(crate) fn host(table: &str) -> Host {
    Host::load(&tree(table), Source::Tree).unwrap()
}

fn slot(device: PciAddress) -> (u8, u8) {
    (device.bus(), device.slot())
}

#[derive(Default)]
struct Layout {
    /// The slot of each device.
    slots: Vec<(u8, u8)>,
    tree: MemoryTree,
    /// The directory that the devices of a bus are in.
    buses: Vec<(u8, String)>,
    disks: u32,
    shows_proc: bool,
    mounts: String,
    swaps: String,
    routes: String,
}

impl Layout {
    fn line(&mut self, line: &str) {
        if line == "proc" {
            self.shows_proc = true;
            return;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, kind, driver, group, more @ ..] = words.as_slice() else { panic!("{line}") };
        let device = address(name);
        let (kind, behind) = kind.split_once('>').map_or((*kind, None), |(kind, bus)| (kind, Some(bus)));
        let behind = behind.map(|bus| u8::from_str_radix(bus, 16).unwrap());
        let above = self.buses.iter().find(|(bus, _)| *bus == device.bus() || more.contains(&"vf-bus"));
        let above = above.map_or_else(|| format!("devices/pci{:04x}:00", device.domain()), |(_, path)| path.clone());
        let path = format!("{above}/{device}");
        if let Some(bus) = behind {
            self.buses.push((bus, path.clone()));
        }
        let alone = self.slots.iter().filter(|other| **other == slot(device)).count() == 1;
        self.files(&path, &config(kind, behind, if alone { Functions::One } else { Functions::Several }));
        self.link(&format!("bus/pci/devices/{device}"), &path);
        if *driver != "-" {
            self.link(&format!("{path}/driver"), &format!("bus/pci/drivers/{driver}"));
            self.link(&format!("bus/pci/drivers/{driver}/{device}"), &path);
        }
        if *group != "-" {
            let folder = format!("kernel/iommu_groups/{group}");
            self.link(&format!("{path}/iommu_group"), &folder);
            self.link(&format!("{folder}/devices/{device}"), &path);
            self.tree.insert(&format!("{folder}/type"), "DMA-FQ\n");
            let regions = "0x00000000fee00000 0x00000000feefffff msi\n";
            self.tree.insert(&format!("{folder}/reserved_regions"), regions);
        }
        for more in more {
            self.more(&path, group, more);
        }
    }

    fn files(&mut self, path: &str, config: &ConfigSpace) {
        let class = format!("{:#08x}\n", config.class().unwrap());
        self.tree.insert(&format!("{path}/class"), class);
        self.tree.insert(&format!("{path}/driver_override"), "(null)\n");
        let mut bytes = config.bytes();
        bytes.resize(4096, 0);
        self.tree.insert(&format!("{path}/config"), bytes);
    }

    fn link(&mut self, at: &str, to: &str) {
        self.tree.insert_directory(to);
        self.tree.insert(at, format!("{}{to}", "../".repeat(at.matches('/').count())));
    }

    fn more(&mut self, path: &str, group: &str, more: &str) {
        match more.split_once('=').unwrap_or((more, "")) {
            ("vf", of) => self.link(&format!("{path}/physfn"), &format!("devices/pci0000:00/{}", address(of))),
            ("direct", _) => {
                let region = "0x000000007a000000 0x000000007fffffff direct\n";
                self.tree.insert(&format!("kernel/iommu_groups/{group}/reserved_regions"), region);
            }
            ("on", at) => {
                let disk = self.disk(path);
                let disks = self.disks;
                writeln!(self.mounts, "{disks} 1 8:{disks} / {at} rw - ext4 /dev/{disk} rw").unwrap();
            }
            ("swap", _) => {
                let disk = self.disk(path);
                writeln!(self.swaps, "/dev/{disk} partition 1 0 -2").unwrap();
            }
            ("route", _) => {
                self.link("class/net/eth0", &format!("{path}/net/eth0"));
                self.routes.push_str("eth0 00000000 0102A8C0 0003 0 0 100 00000000 0 0 0\n");
            }
            ("boot-vga", _) => {
                self.tree.insert(&format!("{path}/boot_vga"), "1\n");
            }
            ("console", _) => {
                self.tree.insert("class/tty/console/active", "ttyS4\n");
                self.link("class/tty/ttyS4", &format!("{path}/tty/ttyS4"));
            }
            ("override", driver) => {
                self.tree.insert(&format!("{path}/driver_override"), format!("{driver}\n"));
            }
            ("file", _) => {
                self.tree.insert(&format!("{path}/vfio-dev/vfio0/dev"), "511:0\n");
            }
            _ => panic!("{more}"),
        }
    }

    fn disk(&mut self, path: &str) -> String {
        self.disks += 1;
        let (name, number) = (format!("disk{}", self.disks), self.disks);
        let at = format!("{path}/host0/block/{name}");
        self.link(&format!("dev/block/8:{number}"), &at);
        self.link(&format!("class/block/{name}"), &at);
        name
    }

    fn finish(mut self) -> MemoryTree {
        if self.shows_proc {
            self.tree.insert("proc/self/mountinfo", self.mounts);
            self.tree.insert("proc/swaps", format!("Filename Type Size Used Priority\n{}", self.swaps));
            self.tree.insert("proc/net/route", format!("Iface Destination Gateway\n{}", self.routes));
        }
        self.tree
    }
}

/// How many functions a device has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Functions {
    One,
    Several,
}

/// What a device of this kind says of itself.
fn config(kind: &str, behind: Option<u8>, functions: Functions) -> ConfigSpace {
    let (kind, acs) = match (kind.strip_suffix("+acs"), kind.strip_suffix("?acs")) {
        (Some(kind), _) => (kind, Some(ISOLATION)),
        (_, Some(kind)) => (kind, Some(AcsBits::default())),
        (None, None) => (kind, None),
    };
    let (class, ids, port) = match kind {
        "host" => (0x06_0000, (0x8086, 0x3ec2), None),
        "isa" => (0x06_0100, (0x8086, 0xa305), None),
        "smbus" => (0x0c_0500, (0x8086, 0xa323), None),
        "spi" => (0x0c_8000, (0x8086, 0xa324), None),
        "chipset-audio" => (0x04_0300, (0x8086, 0xa348), None),
        "chipset-nic" => (0x02_0000, (0x8086, 0x15bc), None),
        "igpu" => (0x03_0000, (0x8086, 0x3e92), None),
        "sata" => (0x01_0601, (0x8086, 0xa352), None),
        "root-port" => (0x06_0400, (0x8086, 0x1901), Some(PortType::RootPort)),
        "upstream" => (0x06_0400, (0x1022, 0x43e9), Some(PortType::UpstreamPort)),
        "downstream" => (0x06_0400, (0x1022, 0x43ea), Some(PortType::DownstreamPort)),
        "pci-bridge" => (0x06_0401, (0x1b21, 0x1080), Some(PortType::PcieToPci)),
        "vga" => (0x03_0000, (0x10de, 0x1b80), Some(PortType::LegacyEndpoint)),
        "audio" => (0x04_0300, (0x10de, 0x10f0), Some(PortType::Endpoint)),
        "usb" => (0x0c_0330, (0x10de, 0x1ad6), Some(PortType::Endpoint)),
        "ucsi" => (0x0c_8000, (0x10de, 0x1ad7), Some(PortType::Endpoint)),
        "nvme" => (0x01_0802, (0x144d, 0xa808), Some(PortType::Endpoint)),
        "nic" => (0x02_0000, (0x8086, 0x1572), Some(PortType::Endpoint)),
        "vf" => (0x02_0000, (0x8086, 0x154c), Some(PortType::Endpoint)),
        "wifi" => (0x02_8000, (0x8086, 0x2723), Some(PortType::Endpoint)),
        "hba" => (0x01_0700, (0x1000, 0x0097), Some(PortType::Endpoint)),
        "fpga" => (0x12_0000, (0x8086, 0x09c4), Some(PortType::Endpoint)),
        "qat" => (0x0b_4000, (0x8086, 0x19e2), Some(PortType::Endpoint)),
        "serial" => (0x07_0002, (0x1c00, 0x3253), None),
        "capture" => (0x04_0000, (0x14f1, 0x8800), None),
        _ => panic!("{kind}"),
    };
    let mut builder = ConfigSpace::builder().ids(ids.0, ids.1).class(class);
    if let Some(port) = port {
        builder = builder.pcie(port);
    }
    if let Some(control) = acs {
        builder = builder.acs(ISOLATION, control);
    }
    if functions == Functions::Several {
        builder = builder.multifunction();
    }
    match behind {
        Some(bus) => builder.bridge(bus, bus).build(),
        None => builder.build(),
    }
}
