//! Devices in use by the host: under its file systems, swap, routes, display, console and keyboard.

mod console;
mod disk;
mod interface;
mod mount;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::{Snapshot, Tree};

use self::mount::Mount;
use super::asked;
use super::network::Namespace;
use super::process::Processes;
use super::source::{PROC, text};

pub(super) use self::mount::unescape;

/// A device in use by the host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Lifeline {
    /// The device.
    pub device: PciAddress,
    /// What it is used for.
    #[serde(flatten)]
    pub purpose: Purpose,
}

/// What the host uses a device for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(tag = "purpose", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Purpose {
    /// A file system.
    Mounted {
        /// Mount point, or the kind of file system if none is shown.
        at: String,
    },
    /// Perhaps a file system: one is mounted whose disks are not shown.
    PerhapsMounted {
        /// Kind of file system.
        kind: String,
    },
    /// A file system or disk that is reached through it.
    NetworkStorage {
        /// Mount point or disk.
        at: String,
    },
    /// Perhaps a file system or disk on the network, whose route is not shown.
    PerhapsNetworkStorage {
        /// Mount point or disk.
        at: String,
    },
    /// Swap.
    Swap,
    /// A disk that a process has open.
    Open {
        /// Process id.
        process: u32,
        /// Process name.
        name: String,
    },
    /// A disk that the kernel has claimed: a file system, swap, RAID, a target, or the like.
    Claimed {
        /// Disk or partition.
        disk: String,
    },
    /// A default route.
    DefaultRoute,
    /// The display that firmware set up.
    BootDisplay,
    /// The console.
    Console,
    /// The only keyboard.
    OnlyKeyboard,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { at } => write!(f, "{at} is mounted from it"),
            Self::PerhapsMounted { kind } => write!(f, "{kind} is mounted, perhaps from it"),
            Self::NetworkStorage { at } => write!(f, "{at} is reached over it"),
            Self::PerhapsNetworkStorage { at } => write!(f, "{at} is reached over the network, perhaps over it"),
            Self::Swap => f.write_str("swap is on it"),
            Self::Open { process, name } => write!(f, "process {process} ({name}) has a disk of it open"),
            Self::Claimed { disk } => write!(f, "the kernel uses its disk {disk}"),
            Self::DefaultRoute => f.write_str("the default route leads through it"),
            Self::BootDisplay => f.write_str("it is the boot display"),
            Self::Console => f.write_str("the console is on it"),
            Self::OnlyKeyboard => f.write_str("the only keyboard is behind it"),
        }
    }
}

/// Uses of devices by the host that could not be checked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Unseen {
    /// Files that processes have open.
    OpenFiles,
    /// Mounts in the namespaces of other processes.
    MountNamespaces,
    /// Routes in other tables and namespaces.
    Routes,
    /// Whether the kernel uses disks that no mount shows.
    ClaimedDisks,
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenFiles => "not seen: which files some processes have open, disks and devices of VFIO among them",
            Self::MountNamespaces => "not seen: what is mounted in the namespaces of other processes",
            Self::Routes => "not seen: routes in other tables and other network namespaces",
            Self::ClaimedDisks => "not seen: whether the kernel uses disks that nothing is mounted from",
        })
    }
}

/// So deep devices are stacked: a file system on an encrypted volume of a volume group on a RAID has four.
const MOST_STACKED: u32 = 32;

/// Returns what the machine of this tree lives on, and what of that cannot be seen; `None` if the tree does not show its
/// mounts.
pub(super) fn lifelines(
    tree: &dyn Tree,
    processes: &Processes,
    pci: &Snapshot,
) -> Option<(Vec<Lifeline>, Vec<Unseen>)> {
    let own = text(tree, &format!("{PROC}/self/mountinfo"))?;
    let (mounts, all_mounts) = mount::of_all_namespaces(tree, &own, processes);
    let asked = asked::namespaces(tree);
    let mut unseen = BTreeSet::new();
    for (seen, what) in [
        (processes.hidden == 0, Unseen::OpenFiles),
        (all_mounts, Unseen::MountNamespaces),
        (asked.is_some(), Unseen::Routes),
    ] {
        unseen.extend((!seen).then_some(what));
    }
    let namespaces = asked.unwrap_or_else(|| Namespace::of_tree(tree, processes));
    let mut found =
        Found { tree, mounts, namespaces, lifelines: BTreeSet::new(), disks: BTreeSet::new(), seen: BTreeMap::new() };
    found.mounts();
    found.file_systems();
    found.swaps();
    found.open_disks(processes);
    found.routes();
    found.displays(pci);
    found.consoles();
    found.keyboards();
    // Last, for it tells least: it is asked only of disks of which nothing is known yet.
    unseen.extend((!found.claimed_disks()).then_some(Unseen::ClaimedDisks));
    Some((found.lifelines.into_iter().collect(), unseen.into_iter().collect()))
}

/// Something that is stacked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    /// The path of a block device in sysfs.
    Block(String),
    /// The path of a file.
    File(String),
    /// An interface, by name and device.
    Interface(String, String),
}

struct Found<'a> {
    tree: &'a dyn Tree,
    mounts: Vec<Mount>,
    namespaces: Vec<Namespace>,
    lifelines: BTreeSet<Lifeline>,
    /// The block devices that mounts are of.
    disks: BTreeSet<String>,
    /// What has been looked at for a purpose, and whether a device was found below it. Each is looked at once: stacks meet
    /// again further down, and may even run in a circle.
    seen: BTreeMap<(Purpose, Layer), bool>,
}

impl Found<'_> {
    /// Notes every function on the way to the device: without the bridge, what is behind it is gone as well. Returns whether
    /// there is any.
    fn on_the_way_to(&mut self, path: &str, purpose: &Purpose) -> bool {
        let before = path.split('/').filter_map(|step| step.parse::<PciAddress>().ok());
        let new: Vec<Lifeline> = before.map(|device| Lifeline { device, purpose: purpose.clone() }).collect();
        let any = !new.is_empty();
        self.lifelines.extend(new);
        any
    }
}

/// The last function on the way to a device.
fn function(path: &str) -> Option<PciAddress> {
    path.rsplit('/').find_map(|step| step.parse().ok())
}
