//! Processes that have VFIO files open.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::sysfs::{Snapshot, Tree, resolve};
use vfio_owner::viability::{DriverDma, dma_of};

use super::asked::{self, Trial};
use super::process::{Node, OpenFile, Processes};
use super::source::text;

/// Processes that have VFIO files open, as far as known.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "known", content = "holders", rename_all = "kebab-case")]
pub enum Holders {
    /// All of them.
    All(Vec<Holder>),
    /// Some of them; there may be others.
    Some(Vec<Holder>),
}

impl Default for Holders {
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

/// A process that has a VFIO file open.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// Process id.
    pub process: u32,
    /// Process name.
    pub name: String,
    /// The file.
    pub file: HeldFile,
}

/// A VFIO file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldFile {
    /// The file of a group.
    Group(u32),
    /// The file of a device, by name.
    Device(String),
    /// A device that was opened through its group, or a mapping of one; which device is not shown.
    SomeDevice,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.process, self.name)
    }
}

impl Holders {
    /// Returns those that are known.
    pub fn known(&self) -> &[Holder] {
        match self {
            Self::All(holders) | Self::Some(holders) => holders,
        }
    }

    /// Returns the process that has this file open.
    pub fn of(&self, file: &HeldFile) -> Option<&Holder> {
        self.known().iter().find(|holder| holder.file == *file)
    }
}

/// Returns the holders that the tree shows, and what opening those groups came to that a user's driver has a device of.
pub(super) fn holders(tree: &dyn Tree, processes: &Processes, pci: &Snapshot) -> (Holders, BTreeMap<u32, Trial>) {
    let nodes = nodes(tree);
    let mut holders: Vec<Holder> = Vec::new();
    for open in &processes.open {
        let file = held_file(open, &nodes);
        holders.extend(file.map(|file| Holder { process: open.process, name: open.name.clone(), file }));
    }
    let of_users = |driver: Option<&str>| driver.is_some_and(|driver| dma_of(driver) == DriverDma::UserSpace);
    let groups = pci.devices.iter().filter(|device| of_users(device.driver.as_deref()));
    let groups: BTreeSet<u32> = groups.filter_map(|device| device.group).collect();
    let trials: BTreeMap<u32, Trial> =
        groups.into_iter().filter_map(|group| Some((group, asked::group(tree, group)?))).collect();
    let unexplained = |(group, trial): (&u32, &Trial)| {
        *trial == Trial::Busy && !holders.iter().any(|holder| holder.file == HeldFile::Group(*group))
    };
    if trials.iter().any(unexplained) {
        // Reading the mappings of every process takes its time, so only now.
        let mapping = processes.mapping(tree).into_iter();
        holders.extend(mapping.map(|(process, name)| Holder { process, name, file: HeldFile::SomeDevice }));
    }
    holders.sort_unstable();
    holders.dedup();
    (if processes.hidden > 0 { Holders::Some(holders) } else { Holders::All(holders) }, trials)
}

/// The files of VFIO by the numbers of their nodes.
fn nodes(tree: &dyn Tree) -> BTreeMap<String, HeldFile> {
    let mut nodes = BTreeMap::new();
    for (folder, of) in [("class/vfio", group_named as fn(&str) -> Option<HeldFile>), ("class/vfio-dev", device_named)]
    {
        for name in tree.list(folder).unwrap_or_default() {
            let number = resolve(tree, &format!("{folder}/{name}")).and_then(|path| text(tree, &format!("{path}/dev")));
            nodes.extend(number.and_then(|number| Some((number.trim().to_owned(), of(&name)?))));
        }
    }
    nodes
}

fn group_named(name: &str) -> Option<HeldFile> {
    name.strip_prefix("noiommu-").unwrap_or(name).parse().ok().map(HeldFile::Group)
}

#[expect(clippy::unnecessary_wraps, reason = "as its like for groups")]
fn device_named(name: &str) -> Option<HeldFile> {
    Some(HeldFile::Device(name.to_owned()))
}

/// The number of a node counts, for it may have any name; without one, its usual name does.
fn held_file(open: &OpenFile, nodes: &BTreeMap<String, HeldFile>) -> Option<HeldFile> {
    if open.is_vfio_device() {
        return Some(HeldFile::SomeDevice);
    }
    if let Some(Node::Character(number)) = &open.node
        && let Some(file) = nodes.get(number)
    {
        return Some(file.clone());
    }
    let file = open.target.strip_prefix("/dev/vfio/")?;
    match file.strip_prefix("devices/") {
        Some(device) => device_named(device),
        None => group_named(file),
    }
}
