//! Layouts: a machine as a table, one device a line.

use std::borrow::ToOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use device_model::pci::{
    AcsBits, Bar, BarKind, Bars, ConfigBuilder, ConfigSpace, ParseAddressError, PciAddress, PortType,
};

use super::load::{DEVICES, DRIVERS, GROUPS};
use super::{MemoryTree, Snapshot};
use crate::grouping::ISOLATION;

/// A kind of device that a layout can name.
struct Kind {
    name: &'static str,
    class: u32,
    ids: (u16, u16),
    port: Option<PortType>,
}

const fn kind(name: &'static str, class: u32, ids: (u16, u16), port: Option<PortType>) -> Kind {
    Kind { name, class, ids, port }
}

const VIRTIO_NET: &str = "virtio-net";

const KINDS: [Kind; 27] = [
    kind("host", 0x06_0000, (0x8086, 0x3ec2), None),
    kind("isa", 0x06_0100, (0x8086, 0xa305), None),
    kind("smbus", 0x0c_0500, (0x8086, 0xa323), None),
    kind("spi", 0x0c_8000, (0x8086, 0xa324), None),
    kind("chipset-audio", 0x04_0300, (0x8086, 0xa348), None),
    kind("chipset-nic", 0x02_0000, (0x8086, 0x15bc), None),
    kind("igpu", 0x03_0000, (0x8086, 0x3e92), None),
    kind("sata", 0x01_0601, (0x8086, 0xa352), None),
    kind("root-port", 0x06_0400, (0x8086, 0x1901), Some(PortType::RootPort)),
    kind("upstream", 0x06_0400, (0x1022, 0x43e9), Some(PortType::UpstreamPort)),
    kind("downstream", 0x06_0400, (0x1022, 0x43ea), Some(PortType::DownstreamPort)),
    kind("pci-bridge", 0x06_0401, (0x1b21, 0x1080), Some(PortType::PcieToPci)),
    kind("vga", 0x03_0000, (0x10de, 0x1b80), Some(PortType::LegacyEndpoint)),
    kind("audio", 0x04_0300, (0x10de, 0x10f0), Some(PortType::Endpoint)),
    kind("usb", 0x0c_0330, (0x10de, 0x1ad6), Some(PortType::Endpoint)),
    kind("ucsi", 0x0c_8000, (0x10de, 0x1ad7), Some(PortType::Endpoint)),
    kind("nvme", 0x01_0802, (0x144d, 0xa808), Some(PortType::Endpoint)),
    kind("nic", 0x02_0000, (0x8086, 0x1572), Some(PortType::Endpoint)),
    kind("vf", 0x02_0000, (0x8086, 0x154c), Some(PortType::Endpoint)),
    kind("wifi", 0x02_8000, (0x8086, 0x2723), Some(PortType::Endpoint)),
    kind("hba", 0x01_0700, (0x1000, 0x0097), Some(PortType::Endpoint)),
    kind("fpga", 0x12_0000, (0x8086, 0x09c4), Some(PortType::Endpoint)),
    kind("qat", 0x0b_4000, (0x8086, 0x19e2), Some(PortType::Endpoint)),
    kind("serial", 0x07_0002, (0x1c00, 0x3253), None),
    kind("capture", 0x04_0000, (0x14f1, 0x8800), None),
    kind("edu", 0x00_ff00, (0x1234, 0x11e8), None),
    kind(VIRTIO_NET, 0x02_0000, (0x1af4, 0x1000), None),
];

/// Why a text is not a layout.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct LayoutError {
    /// The line, counted from 1.
    pub line: usize,
    /// The cause.
    pub reason: LayoutErrorReason,
}

/// Why a line of a layout was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutErrorReason {
    /// The line has fewer than four words.
    #[error("not `ADDRESS KIND DRIVER GROUP [WORD…]`")]
    NotADevice,
    /// The first word is not an address.
    #[error(transparent)]
    Address(#[from] ParseAddressError),
    /// Two lines have the same address.
    #[error("{0} occurs twice")]
    Twice(PciAddress),
    /// The second word is not a kind of device.
    #[error("no kind of device is called {0:?}; there are {kinds}", kinds = kinds())]
    Kind(String),
    /// What follows `>` is not a bus number, or a range of them.
    #[error("{0:?} is not a bus, as `03`, or a range of buses, as `03-05`, in hexadecimal")]
    Buses(String),
    /// The driver's name contains a slash.
    #[error("{0:?} is not the name of a driver")]
    Driver(String),
    /// The fourth word is not a number.
    #[error("{0:?} is not the number of a group, nor `-`")]
    Group(String),
    /// A further word is not known, or has a value that it cannot have.
    #[error("{0:?} is not a word of layouts, or cannot have this value")]
    Word(String),
    /// `vf=` names a device that no line above describes.
    #[error("no line above describes {0}")]
    NoPhysicalFunction(PciAddress),
}

fn kinds() -> String {
    KINDS.map(|kind| kind.name).join(", ")
}

impl MemoryTree {
    /// Builds the sysfs tree of a machine that is described as a table, one device a line: `ADDRESS KIND DRIVER GROUP`,
    /// then further words.
    ///
    /// ```
    /// use iommu_core::grouping;
    /// use iommu_core::sysfs::Snapshot;
    ///
    /// // A network card of two functions, without ACS, below a port that has it.
    /// let machine = Snapshot::from_layout(
    ///     "00:00.0 host              -        0
    ///      00:01.0 root-port+acs>01  pcieport 1
    ///      01:00.0 nic               i40e     2  bar0=64:8M msix=129@3 bar3=64:32K flr
    ///      01:00.1 nic               -        2",
    /// )?;
    /// assert_eq!(machine.groups.len(), 3);
    /// assert_eq!(grouping::partition(&machine.topology()).len(), 3);
    /// # Ok::<(), iommu_core::sysfs::LayoutError>(())
    /// ```
    ///
    /// - *Address*: `0000:01:00.0`, or `01:00.0`. A function is below the bridge that leads to its bus, which stands in an
    ///   earlier line, else on the root bus of its domain. Functions in the same slot get the multifunction bit.
    /// - *Kind*: one of `host`, `isa`, `smbus`, `spi`, `chipset-audio`, `chipset-nic`, `igpu`, `sata`, `serial`,
    ///   `capture`, `edu`, `virtio-net` (conventional PCI); `vga`, `audio`, `usb`, `ucsi`, `nvme`, `nic`, `vf`, `wifi`,
    ///   `hba`, `fpga`, `qat` (PCI Express); and the bridges `root-port`, `upstream`, `downstream`, `pci-bridge`. `+acs`
    ///   after the kind: isolated by ACS. `?acs`: ACS is present, and off. Then, of a bridge, `>BUS` or `>BUS-BUS`: the
    ///   buses below it, in hexadecimal.
    /// - *Driver* that is bound, or `-`.
    /// - *Group* number, or `-`.
    ///
    /// Words about the device: `bar0=SIZE` to `bar5=SIZE` and `rom=SIZE` (a power of two, with `K`, `M` or `G`; before it
    /// `64:` for a 64-bit BAR, `io:` for ports), `msi=VECTORS`, `msix=VECTORS@BAR`, `intx` (has an interrupt pin), `flr`
    /// (function-level reset), `vf=ADDRESS` (it is a virtual function of that device), `direct` (firmware needs the group
    /// to reach a region), `override=DRIVER`, `file` (it has a VFIO device file).
    ///
    /// Words about what the machine uses the device for: `on=MOUNTPOINT`, `swap`, `route` (the default route), `console`,
    /// `boot-vga`. The line `proc` shows them in `/proc`. The line `driver NAME` stands for a driver that is there whether a
    /// device is bound to it or not.
    ///
    /// Empty lines, and what follows a `#`, are skipped.
    ///
    /// # Errors
    /// Fails at the first line that is not understood.
    pub fn from_layout(text: &str) -> Result<Self, LayoutError> {
        let mut layout = Layout::default();
        for directory in [DEVICES, DRIVERS, GROUPS] {
            layout.tree.insert_directory(directory);
        }
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            layout.line(line).map_err(|reason| LayoutError { line: number, reason })?;
        }
        Ok(layout.finish())
    }
}

impl Snapshot {
    /// Builds the machine that a table describes, as [`MemoryTree::from_layout`] does.
    ///
    /// # Errors
    /// Fails at the first line that is not understood.
    pub fn from_layout(text: &str) -> Result<Self, LayoutError> {
        // A tree that was built has a list of devices.
        MemoryTree::from_layout(text).map(|tree| Self::load(&tree).unwrap_or_default())
    }
}

#[derive(Default)]
struct Layout {
    tree: MemoryTree,
    /// The directory of each device, and what is yet to be written into it.
    devices: BTreeMap<PciAddress, Device>,
    /// The directory below which the devices of a bus are, by domain.
    buses: BTreeMap<(u32, u8), String>,
    /// The region that each group reserves.
    groups: BTreeMap<u32, &'static str>,
    windows: Windows,
    disks: u32,
    files: u32,
    shows_proc: bool,
    mounts: String,
    swaps: String,
    routes: String,
}

struct Device {
    path: String,
    config: ConfigBuilder,
}

impl Layout {
    fn line(&mut self, line: &str) -> Result<(), LayoutErrorReason> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, kind, driver, group, more) = match words.as_slice() {
            [] => return Ok(()),
            ["proc"] => {
                self.shows_proc = true;
                return Ok(());
            }
            ["driver", name] => {
                self.tree.insert_directory(&child(DRIVERS, driver_name(name)?));
                return Ok(());
            }
            [name, kind, driver, group, more @ ..] => (*name, *kind, *driver, *group, more),
            _ => return Err(LayoutErrorReason::NotADevice),
        };
        let address: PciAddress = name.parse()?;
        if self.devices.contains_key(&address) {
            return Err(LayoutErrorReason::Twice(address));
        }
        let (config, buses) = config(kind)?;
        let path = format!("{}/{address}", self.above(address));
        for bus in buses.into_iter().flatten() {
            self.buses.insert((address.domain(), bus), path.clone());
        }
        self.link(&child(DEVICES, &address), &path);
        self.tree.insert(&child(&path, "driver_override"), "(null)\n");
        self.bind(address, &path, driver)?;
        let group = self.join(address, &path, group)?;
        let device = self.words(path, group, config, more)?;
        self.devices.insert(address, device);
        Ok(())
    }

    /// The directory that a device is in.
    fn above(&self, address: PciAddress) -> String {
        let bridge = self.buses.get(&(address.domain(), address.bus())).cloned();
        bridge.unwrap_or_else(|| format!("devices/pci{:04x}:00", address.domain()))
    }

    fn bind(&mut self, address: PciAddress, path: &str, driver: &str) -> Result<(), LayoutErrorReason> {
        if driver == "-" {
            return Ok(());
        }
        let directory = child(DRIVERS, driver_name(driver)?);
        self.link(&child(path, "driver"), &directory);
        self.link(&child(&directory, &address), path);
        Ok(())
    }

    /// Puts a device into its group, if it has one, and returns the number.
    fn join(&mut self, address: PciAddress, path: &str, group: &str) -> Result<Option<u32>, LayoutErrorReason> {
        if group == "-" {
            return Ok(None);
        }
        let number: u32 = group.parse().map_err(|_| LayoutErrorReason::Group(group.to_owned()))?;
        let directory = child(GROUPS, &number);
        self.link(&child(path, "iommu_group"), &directory);
        self.link(&child(&child(&directory, "devices"), &address), path);
        self.groups.entry(number).or_insert("0x00000000fee00000 0x00000000feefffff msi\n");
        Ok(Some(number))
    }

    fn link(&mut self, at: &str, to: &str) {
        self.tree.insert_directory(to);
        self.tree.insert(at, format!("{}{to}", "../".repeat(at.matches('/').count())));
    }

    /// What else is said of a device.
    fn words(
        &mut self,
        path: String,
        group: Option<u32>,
        mut config: ConfigBuilder,
        words: &[&str],
    ) -> Result<Device, LayoutErrorReason> {
        let (mut bars, mut table) = (Bars::NONE, None);
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let bad = || LayoutErrorReason::Word((*word).to_owned());
            match name {
                "intx" if value.is_empty() => config = config.interrupt_pin(1),
                "flr" if value.is_empty() => config = config.function_level_reset(),
                "msi" => config = config.msi(value.parse().map_err(|_| bad())?),
                "msix" => {
                    let (vectors, bar) = value.split_once('@').ok_or_else(bad)?;
                    let bar: u8 = bar.parse().map_err(|_| bad())?;
                    config = config.msix(vectors.parse().map_err(|_| bad())?, bar);
                    table = Some((bar, bad()));
                }
                "rom" => bars.insert_rom(self.windows.place(value).ok_or_else(bad)?).map_err(|_| bad())?,
                "vf" => self.virtual_function(&path, value)?,
                _ => match name.strip_prefix("bar") {
                    Some(slot) => {
                        let slot = slot.parse().map_err(|_| bad())?;
                        bars.insert(slot, self.windows.place(value).ok_or_else(bad)?).map_err(|_| bad())?;
                    }
                    None => self.word(&path, group, name, value).ok_or_else(bad)?,
                },
            }
        }
        if let Some((_, bad)) = table.filter(|(bar, _)| bars.get((*bar).into()).is_none()) {
            return Err(bad);
        }
        if bars != Bars::NONE {
            self.tree.insert(&child(&path, "resource"), resource(&bars));
        }
        Ok(Device { path, config })
    }

    /// A word about a device that says nothing of its configuration space; `None` if it is not known, or cannot be said
    /// of this device or with this value.
    fn word(&mut self, path: &str, group: Option<u32>, name: &str, value: &str) -> Option<()> {
        match (name, value) {
            ("direct", "") => {
                self.groups.insert(group?, "0x000000007a000000 0x000000007fffffff direct\n");
            }
            ("on", mountpoint) if !mountpoint.is_empty() => {
                let (disk, disks) = (self.disk(path), self.disks);
                // A string takes all that is written, here and below.
                let _ = writeln!(self.mounts, "{disks} 1 8:{disks} / {mountpoint} rw - ext4 /dev/{disk} rw");
            }
            ("swap", "") => {
                let disk = self.disk(path);
                let _ = writeln!(self.swaps, "/dev/{disk} partition 1 0 -2");
            }
            ("route", "") => {
                self.link("class/net/eth0", &child(path, "net/eth0"));
                self.routes.push_str("eth0 00000000 0102A8C0 0003 0 0 100 00000000 0 0 0\n");
            }
            ("boot-vga", "") => drop(self.tree.insert(&child(path, "boot_vga"), "1\n")),
            ("console", "") => {
                self.tree.insert("class/tty/console/active", "ttyS4\n");
                self.link("class/tty/ttyS4", &child(path, "tty/ttyS4"));
            }
            ("override", driver) => {
                self.tree.insert(&child(path, "driver_override"), format!("{driver}\n"));
            }
            ("file", "") => {
                let number = self.files;
                self.tree.insert(&format!("{path}/vfio-dev/vfio{number}/dev"), format!("511:{number}\n"));
                self.files += 1;
            }
            _ => return None,
        }
        Some(())
    }

    fn virtual_function(&mut self, path: &str, of: &str) -> Result<(), LayoutErrorReason> {
        let of: PciAddress = of.parse()?;
        let physical = self.devices.get(&of).ok_or(LayoutErrorReason::NoPhysicalFunction(of))?.path.clone();
        self.link(&child(path, "physfn"), &physical);
        Ok(())
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
        let slot = |address: &PciAddress| (address.domain(), address.bus(), address.slot());
        let slots = self.devices.keys().map(slot);
        let neighbours = slots.clone().zip(slots.skip(1));
        let shared: BTreeSet<_> = neighbours.filter(|(one, next)| one == next).map(|(slot, _)| slot).collect();
        for (address, Device { path, config }) in self.devices {
            let config = if shared.contains(&slot(&address)) { config.multifunction() } else { config }.build();
            let class = format!("{:#08x}\n", config.class().unwrap_or_default());
            self.tree.insert(&child(&path, "class"), class);
            self.tree.insert(&child(&path, "config"), whole(&config));
        }
        for (number, region) in self.groups {
            let directory = child(GROUPS, &number);
            self.tree.insert(&child(&directory, "type"), "DMA-FQ\n");
            self.tree.insert(&child(&directory, "reserved_regions"), region);
        }
        if self.shows_proc {
            self.tree.insert("proc/self/mountinfo", self.mounts);
            self.tree.insert("proc/swaps", format!("Filename Type Size Used Priority\n{}", self.swaps));
            self.tree.insert("proc/net/route", format!("Iface Destination Gateway\n{}", self.routes));
        }
        self.tree
    }
}

fn child(directory: &str, name: &(impl ToString + ?Sized)) -> String {
    super::tree::child(directory, &name.to_string())
}

fn driver_name(name: &str) -> Result<&str, LayoutErrorReason> {
    if name.contains('/') || name.starts_with('.') { Err(LayoutErrorReason::Driver(name.to_owned())) } else { Ok(name) }
}

/// The configuration space of a kind of device, and the buses below it.
fn config(word: &str) -> Result<(ConfigBuilder, Option<impl Iterator<Item = u8>>), LayoutErrorReason> {
    let (kind, behind) = word.split_once('>').map_or((word, None), |(kind, buses)| (kind, Some(buses)));
    let (name, acs) = match (kind.strip_suffix("+acs"), kind.strip_suffix("?acs")) {
        (Some(name), _) => (name, Some(ISOLATION)),
        (_, Some(name)) => (name, Some(AcsBits::default())),
        (None, None) => (kind, None),
    };
    let found = KINDS.iter().find(|kind| kind.name == name);
    let kind = found.ok_or_else(|| LayoutErrorReason::Kind(name.to_owned()))?;
    let Kind { class, ids, port, .. } = kind;
    let mut config = ConfigSpace::builder();
    let buses = behind.map(buses).transpose()?;
    if let Some((first, last)) = buses {
        config = config.bridge(first, last);
    }
    config = config.ids(ids.0, ids.1).class(*class);
    if kind.name == VIRTIO_NET {
        // By this, not by the device id, drivers know what kind of device it is.
        config = config.subsystem(ids.0, 1);
    }
    if let Some(port) = port {
        config = config.pcie(*port);
    }
    if let Some(control) = acs {
        config = config.acs(ISOLATION, control);
    }
    Ok((config, buses.map(|(first, last)| first..=last)))
}

/// `03`, or `03-05`.
fn buses(text: &str) -> Result<(u8, u8), LayoutErrorReason> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let [first, last] = [first, last].map(|bus| u8::from_str_radix(bus, 16));
    match (first, last) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err(LayoutErrorReason::Buses(text.to_owned())),
    }
}

/// The configuration space with the bytes beyond those that have been built.
fn whole(config: &ConfigSpace) -> Vec<u8> {
    let mut bytes = config.bytes();
    bytes.resize(4096, 0);
    bytes
}

/// Where the next BAR of each address space goes.
struct Windows {
    ports: u64,
    memory: u64,
    wide: u64,
}

impl Default for Windows {
    fn default() -> Self {
        Self { ports: 0x1000, memory: 0x8000_0000, wide: 1 << 40 }
    }
}

impl Windows {
    /// A BAR of `[64:|io:]SIZE`, at the next free address; `None` if that is no size, or there is no room.
    fn place(&mut self, text: &str) -> Option<Bar> {
        let (kind, text) = match text.split_once(':') {
            Some(("64", text)) => (BarKind::Memory64 { prefetchable: true }, text),
            Some(("io", text)) => (BarKind::Io, text),
            Some(_) => return None,
            None => (BarKind::Memory32 { prefetchable: false }, text),
        };
        let size = size(text)?;
        let (next, end) = match kind {
            BarKind::Io => (&mut self.ports, 1 << 16),
            BarKind::Memory32 { .. } => (&mut self.memory, 1 << 32),
            BarKind::Memory64 { .. } => (&mut self.wide, u64::MAX),
        };
        let at = next.checked_next_multiple_of(size)?;
        *next = at.checked_add(size).filter(|next| *next <= end)?;
        Bar::new(at, size, kind)
    }
}

/// A number of bytes, not 0.
fn size(text: &str) -> Option<u64> {
    let units = [("K", 10), ("M", 20), ("G", 30)];
    let unit = units.into_iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
    let (digits, shift) = unit.unwrap_or((text, 0));
    digits.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|size| *size > 0)
}

/// The file of this name: a line for each BAR and the ROM.
fn resource(bars: &Bars) -> String {
    let windows = (0..Bars::SLOTS).map(|slot| bars.get(slot)).chain([bars.rom()]);
    windows.fold(String::new(), |mut text, bar| {
        let (first, last, flags) =
            bar.map_or((0, 0, 0), |bar| (bar.address(), bar.address() + (bar.size() - 1), flags(bar.kind())));
        let _ = writeln!(text, "0x{first:016x} 0x{last:016x} 0x{flags:016x}");
        text
    })
}

const fn flags(kind: BarKind) -> u64 {
    match kind {
        BarKind::Io => 0x4_0101,
        BarKind::Memory32 { .. } => 0x4_0200,
        BarKind::Memory64 { .. } => 0x14_220c,
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
