//! What a machine lives on: the devices under its file systems, swap, default route, display and console.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::{Snapshot, SysfsDevice, Tree, resolve};

use super::source::{PROC, lines, text};

/// A device that the machine lives on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Lifeline {
    /// The device.
    pub device: PciAddress,
    /// What for.
    #[serde(flatten)]
    pub purpose: Purpose,
}

/// What a machine has a device for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(tag = "purpose", rename_all = "kebab-case")]
pub enum Purpose {
    /// A file system is on it.
    Mounted {
        /// Where it is mounted.
        at: String,
    },
    /// A file system of a kind that does not show its disks is mounted, and this disk may be one of them.
    PerhapsMounted {
        /// The kind.
        kind: String,
    },
    /// Swap is on it.
    Swap,
    /// The default route leads through it.
    DefaultRoute,
    /// It is the display that the firmware set up.
    BootDisplay,
    /// The console is on it.
    Console,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { at } => write!(f, "{at} is mounted from it"),
            Self::PerhapsMounted { kind } => write!(f, "{kind} is mounted, perhaps from it"),
            Self::Swap => f.write_str("swap is on it"),
            Self::DefaultRoute => f.write_str("the default route leads through it"),
            Self::BootDisplay => f.write_str("it is the boot display"),
            Self::Console => f.write_str("the console is on it"),
        }
    }
}

/// So deep devices are stacked: a file system on an encrypted volume of a volume group on a RAID has four.
const MOST_STACKED: u32 = 16;

/// The base class of displays, the only ones that say whether they are the first.
const DISPLAY: u32 = 0x03;

/// Kinds of file systems whose disks sysfs does not show.
const OPAQUE: [&str; 1] = ["zfs"];

/// What the machine of this tree lives on; `None` if the tree does not show its mounts.
pub(super) fn lifelines(tree: &dyn Tree, pci: &Snapshot) -> Option<Vec<Lifeline>> {
    let mounts = text(tree, &format!("{PROC}/self/mountinfo"))?;
    let mut found = Found { tree, lifelines: BTreeSet::new() };
    for line in mounts.lines() {
        found.mount(line);
    }
    found.btrfs();
    for line in lines(tree, &format!("{PROC}/swaps")).iter().skip(1) {
        let device = line.split_whitespace().next().and_then(|path| path.strip_prefix("/dev/"));
        found.block_named(device.unwrap_or_default(), &Purpose::Swap);
    }
    found.routes();
    found.displays(pci);
    found.consoles();
    Some(found.lifelines.into_iter().collect())
}

struct Found<'a> {
    tree: &'a dyn Tree,
    lifelines: BTreeSet<Lifeline>,
}

impl Found<'_> {
    /// Every function on the way to the device counts: without the bridge, what is behind it is gone as well.
    fn on_the_way_to(&mut self, path: &str, purpose: &Purpose) -> bool {
        let before = path.split('/').filter_map(|step| step.parse::<PciAddress>().ok());
        let new: Vec<Lifeline> = before.map(|device| Lifeline { device, purpose: purpose.clone() }).collect();
        let any = !new.is_empty();
        self.lifelines.extend(new);
        any
    }

    /// `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS … - TYPE SOURCE OPTIONS`
    fn mount(&mut self, line: &str) {
        let Some((front, back)) = line.split_once(" - ") else { return };
        let mut front = front.split(' ');
        let (Some(number), Some(at)) = (front.nth(2), front.nth(1)) else { return };
        let mut back = back.split(' ');
        let (kind, source) = (back.next().unwrap_or_default(), back.next().unwrap_or_default());
        if OPAQUE.contains(&kind) {
            self.all_disks(&Purpose::PerhapsMounted { kind: kind.to_owned() });
            return;
        }
        let purpose = Purpose::Mounted { at: unescape(at) };
        match resolve(self.tree, &format!("dev/block/{number}")) {
            Some(path) => self.block(&path, &purpose, MOST_STACKED),
            None => {
                for device in source.split(':').filter_map(|device| device.strip_prefix("/dev/")) {
                    self.block_named(device, &purpose);
                }
            }
        }
    }

    /// A mount shows one device of a file system that may have many.
    fn btrfs(&mut self) {
        const FOLDER: &str = "fs/btrfs";
        for file_system in self.tree.list(FOLDER).unwrap_or_default() {
            let devices = format!("{FOLDER}/{file_system}/devices");
            for name in self.tree.list(&devices).unwrap_or_default() {
                if let Some(path) = resolve(self.tree, &format!("{devices}/{name}")) {
                    self.block(&path, &Purpose::Mounted { at: "a file system of btrfs".to_owned() }, MOST_STACKED);
                }
            }
        }
    }

    fn block_named(&mut self, name: &str, purpose: &Purpose) {
        // Slashes of a name are exclamation marks in sysfs; names of the device mapper are behind numbers.
        let path = resolve(self.tree, &format!("class/block/{}", name.replace('/', "!")));
        match (path, name.strip_prefix("mapper/")) {
            (Some(path), _) => self.block(&path, purpose, MOST_STACKED),
            (None, Some(mapped)) => {
                for entry in self.tree.list("class/block").unwrap_or_default() {
                    let named = text(self.tree, &format!("class/block/{entry}/dm/name"));
                    if named.is_some_and(|named| named.trim() == mapped) {
                        self.block_named(&entry, purpose);
                    }
                }
            }
            (None, None) => {}
        }
    }

    /// The disks below a block device.
    fn block(&mut self, path: &str, purpose: &Purpose, depth: u32) {
        let Some(depth) = depth.checked_sub(1) else { return };
        if self.on_the_way_to(path, purpose) {
            return;
        }
        // A partition of a stacked device has no slaves of its own, and neither have the paths of a multipath NVMe.
        let whole = path.rsplit_once('/').map_or(path, |(whole, _)| whole);
        let mut below: Vec<String> = Vec::new();
        for folder in [format!("{path}/slaves"), format!("{whole}/slaves")] {
            let names = self.tree.list(&folder).unwrap_or_default();
            below.extend(names.iter().map(|name| format!("{folder}/{name}")));
        }
        if path.contains("/nvme-subsystem/") {
            for folder in [whole, whole.rsplit_once('/').map_or(whole, |(folder, _)| folder)] {
                let names = self.tree.list(folder).unwrap_or_default();
                let controllers = names.iter().filter(|name| name.starts_with("nvme"));
                below.extend(controllers.map(|name| format!("{folder}/{name}")));
            }
        }
        for link in below {
            if let Some(next) = resolve(self.tree, &link).filter(|next| next != path) {
                self.block(&next, purpose, depth);
            }
        }
    }

    fn all_disks(&mut self, purpose: &Purpose) {
        for name in self.tree.list("class/block").unwrap_or_default() {
            if let Some(path) = resolve(self.tree, &format!("class/block/{name}")) {
                self.on_the_way_to(&path, purpose);
            }
        }
    }

    fn routes(&mut self) {
        let routed = routes(self.tree);
        for default in routed.iter().filter(|route| route.reach == Reach::Everything) {
            let seen = self.interface(&default.interface, MOST_STACKED);
            // A tunnel: what it goes through has a route of its own.
            if !seen {
                for other in &routed {
                    self.interface(&other.interface, MOST_STACKED);
                }
            }
        }
    }

    /// Whether a device is below the interface.
    fn interface(&mut self, name: &str, depth: u32) -> bool {
        let Some(depth) = depth.checked_sub(1) else { return false };
        let Some(path) = resolve(self.tree, &format!("class/net/{name}")) else { return false };
        if self.on_the_way_to(&path, &Purpose::DefaultRoute) {
            return true;
        }
        let mut seen = false;
        for lower in self.tree.list(&path).unwrap_or_default().iter().filter_map(|entry| entry.strip_prefix("lower_")) {
            seen |= self.interface(lower, depth);
        }
        seen
    }

    fn displays(&mut self, pci: &Snapshot) {
        let display =
            |device: &&SysfsDevice| device.function.config.class().is_some_and(|class| class >> 16 == DISPLAY);
        for device in pci.devices.iter().filter(display) {
            let first = text(self.tree, &format!("{}/boot_vga", device.path));
            if first.is_some_and(|first| first.trim() == "1") {
                let lifeline = Lifeline { device: device.function.address, purpose: Purpose::BootDisplay };
                self.lifelines.insert(lifeline);
            }
        }
    }

    fn consoles(&mut self) {
        let active = text(self.tree, "class/tty/console/active").unwrap_or_default();
        for console in active.split_whitespace() {
            let number = console.strip_prefix("tty").unwrap_or_default();
            if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) {
                for name in self.tree.list("class/graphics").unwrap_or_default() {
                    self.console_at(&format!("class/graphics/{name}"));
                }
            } else {
                self.console_at(&format!("class/tty/{console}"));
            }
        }
    }

    fn console_at(&mut self, link: &str) {
        if let Some(path) = resolve(self.tree, link) {
            self.on_the_way_to(&path, &Purpose::Console);
        }
    }
}

struct Route {
    interface: String,
    reach: Reach,
}

#[derive(PartialEq, Eq)]
enum Reach {
    Everything,
    Something,
}

impl Route {
    /// A route to an address and the length of its network, both of which are 0 for the default.
    fn new(interface: &str, target: [&str; 2]) -> Self {
        let zero = |field: &str| field.bytes().all(|byte| byte == b'0');
        let reach = if target.into_iter().all(zero) { Reach::Everything } else { Reach::Something };
        Self { interface: interface.to_owned(), reach }
    }
}

/// The routes of both versions of IP that lead through an interface other than the loop.
fn routes(tree: &dyn Tree) -> Vec<Route> {
    let v4 = lines(tree, &format!("{PROC}/net/route"));
    let v4 = v4.iter().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (interface, target, mask) = (fields.next()?, fields.next()?, fields.nth(5)?);
        Some(Route::new(interface, [target, mask]))
    });
    let v6 = lines(tree, &format!("{PROC}/net/ipv6_route"));
    let v6 = v6.iter().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (target, length, interface) = (fields.first()?, fields.get(1)?, fields.get(9)?);
        Some(Route::new(interface, [target, length]))
    });
    v4.chain(v6).filter(|route| route.interface != "lo").collect()
}

/// Spaces and their like are octal in the lists of mounts.
fn unescape(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (escape, plain)| path.replace(escape, plain))
}
