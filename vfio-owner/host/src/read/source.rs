//! Where hosts are read from: the running kernel, trees, captures, listings.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::{
    Archive, ArchiveError, DirTree, LoadError, Snapshot, SysfsDevice, Tree, TreeError,
};
use vfio_owner::viability::{DriverDma, dma_of};

use super::asked::{ASKED, Ask, ask};
use super::capture::{
    CAPTURED_DEVICE_FILES, CAPTURED_HOLDERS, CAPTURED_IOMMU, CAPTURED_LIFELINES, CAPTURED_ORIGINS, CAPTURED_TRIALS,
    CAPTURED_UNSEEN,
};
use super::confined::Confined;
use super::holder::holders;
use super::iommu_state::IommuState;
use super::lifeline::lifelines;
use super::listing::ListingError;
use super::origin::origins;
use super::other_member::{named_in, other_members};
use super::process::Processes;
use super::trial::Trials;
use crate::host::Gaps;
use crate::selector::names;
use crate::{Host, Type1};

/// Where `/proc` is in the tree of a host, whose root is that of sysfs, which has no such name of its own.
pub(super) const PROC: &str = "proc";

/// The file of a device with the number of the NUMA node that it is near.
pub(super) const NUMA_NODE: &str = "numa_node";

/// Longest capture or listing that is read: a machine of a thousand devices has one of a megabyte.
const LONGEST_FILE: u64 = 64 << 20;

/// Source of a host; some sources show less than others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The running kernel.
    Live,
    /// A capture of a running kernel.
    Capture,
    /// A copy of a sysfs tree, which may be incomplete.
    #[default]
    Tree,
    /// A posted listing, which may be incomplete.
    Listing,
}

/// The trees of a host: sysfs and `/proc`, and for the running kernel what only system calls show.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostTree {
    place: Place,
    proc: Place,
    ask: Ask,
    trials: Option<Trials>,
}

/// Where a tree is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// The running kernel's file system.
    Kernel(DirTree),
    /// A copy, which no path leads out of.
    Copy(Confined),
}

impl Place {
    fn tree(&self) -> &dyn Tree {
        match self {
            Self::Kernel(tree) => tree,
            Self::Copy(tree) => tree,
        }
    }
}

impl HostTree {
    /// Returns the running kernel: `/sys` and `/proc`.
    pub fn live() -> Self {
        let [place, proc] = ["/sys", "/proc"].map(|root| Place::Kernel(DirTree::new(root)));
        Self { place, proc, ask: Ask::Passively, trials: None }
    }

    /// Returns a copy: `sys` and, if present, `proc` in `folder`, or a sysfs tree that is `folder` itself. Links out of
    /// the folder are not followed.
    pub fn copy(folder: impl AsRef<Path>) -> Self {
        let whole = Confined::new(&folder, "");
        let below = if !whole.is_directory("bus") && whole.is_directory("sys/bus") { "sys" } else { "" };
        let [place, proc] = [below, PROC].map(|below| Place::Copy(Confined::new(&folder, below)));
        Self { place, proc, ask: Ask::Never, trials: None }
    }

    /// Allows opening the files of groups for a moment, to see whether they are in use. Does nothing for a copy.
    #[must_use]
    pub const fn trying(mut self, trials: Trials) -> Self {
        self.trials = Some(trials);
        self
    }

    /// Allows probing the running kernel in ways that others may notice: where files may be opened
    /// ([`trying`](Self::trying)), each disk of a device is opened exclusively for a moment, to see whether it is in use.
    /// Does nothing for a copy.
    #[must_use]
    pub fn asking(mut self) -> Self {
        if self.ask == Ask::Passively {
            self.ask = Ask::Actively;
        }
        self
    }

    /// Returns the path of sysfs.
    pub fn sysfs(&self) -> &Path {
        match &self.place {
            Place::Kernel(tree) => tree.root(),
            Place::Copy(tree) => tree.root(),
        }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Returns whether this is the running kernel or a copy.
    pub fn source(&self) -> Source {
        match self.place {
            Place::Kernel(_) => Source::Live,
            Place::Copy(_) => Source::Tree,
        }
    }

    /// The tree that `path` is in, and what it is called there.
    fn split<'a>(&'a self, path: &'a str) -> (&'a dyn Tree, &'a str) {
        match path.strip_prefix(PROC) {
            Some("") => (self.proc.tree(), ""),
            Some(rest) if rest.starts_with('/') => (self.proc.tree(), rest.trim_start_matches('/')),
            _ => (self.place.tree(), path),
        }
    }
}

impl Tree for HostTree {
    fn read(&self, path: &str) -> Result<Vec<u8>, TreeError> {
        if let Some(question) = path.strip_prefix(ASKED).filter(|_| self.ask != Ask::Never) {
            return ask(question, self.ask, self.trials);
        }
        let (tree, path) = self.split(path);
        tree.read(path)
    }

    fn list(&self, path: &str) -> Result<Vec<String>, TreeError> {
        let (tree, path) = self.split(path);
        tree.list(path)
    }

    fn is_directory(&self, path: &str) -> bool {
        let (tree, path) = self.split(path);
        tree.is_directory(path)
    }

    fn link(&self, path: &str) -> Result<String, TreeError> {
        let (tree, path) = self.split(path);
        tree.link(path)
    }
}

impl Host {
    /// Reads a tree.
    ///
    /// # Errors
    /// Fails if the tree has no list of PCI devices.
    pub fn load(tree: &dyn Tree, source: Source) -> Result<Self, LoadError> {
        let mut pci = Snapshot::load(tree)?;
        let other_members = other_members(tree, &pci.warnings);
        // Members that are no PCI functions are no mistake of the tree.
        pci.warnings.retain(|warning| named_in(warning).is_none());
        let device_files = json(tree, CAPTURED_DEVICE_FILES).unwrap_or_else(|| device_files(tree, &pci));
        let processes = LazyCell::new(|| Processes::of(tree));
        let (holders, trials) = match json(tree, CAPTURED_HOLDERS) {
            Some(holders) => (holders, json(tree, CAPTURED_TRIALS).unwrap_or_default()),
            None => holders(tree, &processes, &pci),
        };
        let (lifelines, unseen) = match json(tree, CAPTURED_LIFELINES) {
            Some(lifelines) => (Some(lifelines), json(tree, CAPTURED_UNSEEN).unwrap_or_default()),
            None => lifelines(tree, &processes, &pci).map_or((None, Vec::new()), |(all, unseen)| (Some(all), unseen)),
        };
        let origins = json(tree, CAPTURED_ORIGINS).unwrap_or_else(|| origins(tree, &pci));
        let iommu = json(tree, CAPTURED_IOMMU).unwrap_or_else(|| IommuState::of_tree(tree));
        let (numa_nodes, gaps) = (numa_nodes(tree, &pci), gaps(tree, &pci, source));
        Ok(Self {
            other_members,
            source,
            lifelines,
            unseen,
            holders,
            trials,
            type1: type1(tree),
            device_files,
            origins,
            numa_nodes,
            iommu,
            gaps,
            names: names(tree),
            ..Self::of_snapshot(pci)
        })
    }

    /// Reads the tree of a host.
    ///
    /// # Errors
    /// Fails if it has no list of PCI devices.
    pub fn of_tree(tree: &HostTree) -> Result<Self, OpenHostError> {
        Self::load(tree, tree.source()).map_err(|error| OpenHostError::Tree { path: tree.sysfs().into(), error })
    }

    /// Reads a folder with a copy of a tree, a capture, or a listing at `path`.
    ///
    /// # Errors
    /// Fails if it cannot be read, or is none of these.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenHostError> {
        let path = path.as_ref();
        if path.is_dir() {
            return Self::of_tree(&HostTree::copy(path));
        }
        let text = read_text(path).map_err(|error| OpenHostError::Unreadable { path: path.into(), error })?;
        Self::of_text(&text, path)
    }

    /// Reads a capture or a listing from text; `name` appears in errors.
    ///
    /// # Errors
    /// Fails if it is neither.
    pub fn of_text(text: &str, name: impl AsRef<Path>) -> Result<Self, OpenHostError> {
        let path = name.as_ref();
        if !Archive::is_archive(text) {
            return text.parse().map_err(|error| OpenHostError::Listing { path: path.into(), error });
        }
        let tree = Archive::parse(text).map_err(|error| OpenHostError::Archive { path: path.into(), error })?;
        let captured = tree.read(CAPTURED_HOLDERS).is_ok();
        let source = if captured { Source::Capture } else { Source::Tree };
        Self::load(&tree, source).map_err(|error| OpenHostError::Tree { path: path.into(), error })
    }
}

/// The text of a file; one that is no text at all is an error, single bytes that are not are replaced.
fn read_text(path: &Path) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a file nor a folder"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than any capture"));
    }
    if bytes.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no text"));
    }
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// The text of a file of the tree, if it is there and is text.
pub(crate) fn text(tree: &dyn Tree, path: &str) -> Option<String> {
    String::from_utf8(tree.read(path).ok()?).ok()
}

/// Its lines; none if it is not there.
pub(super) fn lines(tree: &dyn Tree, path: &str) -> Vec<String> {
    text(tree, path).unwrap_or_default().lines().map(ToOwned::to_owned).collect()
}

/// The target of a link, whatever it looks like: those of `/proc` may lead to no path at all.
pub(super) fn link_or_text(tree: &dyn Tree, path: &str) -> Option<String> {
    tree.link(path).ok().or_else(|| Some(text(tree, path)?.trim_end().to_owned()))
}

/// A name that came from a machine, with what would change how a terminal shows the text around it spelled out.
pub(super) fn printable(name: &str) -> String {
    let spell = |char: char| if is_printable(char) { vec![char] } else { char.escape_default().collect() };
    name.chars().flat_map(spell).collect()
}

/// Returns whether a character is safe to print: it is neither a control character nor one that changes the direction
/// of text.
pub fn is_printable(char: char) -> bool {
    let turns_text = matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !char.is_control() && !turns_text
}

fn json<T: serde::de::DeserializeOwned>(tree: &dyn Tree, path: &str) -> Option<T> {
    serde_json::from_slice(&tree.read(path).ok()?).ok()
}

/// What the tree does not show: a link that leads nowhere, as in copies that left its target out, is not no link; and a
/// copy without the folder of the groups, or of the drivers, has left them out.
fn gaps(tree: &dyn Tree, pci: &Snapshot, source: Source) -> Gaps {
    let without = |link: &str, folder: &str| -> BTreeSet<PciAddress> {
        if source == Source::Tree && tree.list(folder).is_err() {
            return pci.devices.iter().map(|device| device.function.address).collect();
        }
        let lost = pci.warnings.iter().filter_map(|warning| warning.path.strip_suffix(link)?.strip_suffix('/'));
        let lost: BTreeSet<&str> = lost.collect();
        let lacks = |device: &&SysfsDevice| lost.contains(&*device.path);
        pci.devices.iter().filter(lacks).map(|device| device.function.address).collect()
    };
    Gaps {
        drivers: without("driver", "bus/pci/drivers"),
        groups: without("iommu_group", "kernel/iommu_groups"),
        ..Gaps::default()
    }
}

fn numa_nodes(tree: &dyn Tree, pci: &Snapshot) -> BTreeMap<PciAddress, u32> {
    let nodes = pci.devices.iter().filter_map(|device| {
        // The kernel writes -1 for none.
        let node = text(tree, &format!("{}/{NUMA_NODE}", device.path))?.trim().parse().ok()?;
        Some((device.function.address, node))
    });
    nodes.collect()
}

fn device_files(tree: &dyn Tree, pci: &Snapshot) -> BTreeMap<PciAddress, String> {
    let handed_out = |device: &&SysfsDevice| device.driver.as_deref().map(dma_of) == Some(DriverDma::UserSpace);
    let named = pci.devices.iter().filter(handed_out).filter_map(|device| {
        let names = tree.list(&format!("{}/vfio-dev", device.path)).ok()?;
        // Without CONFIG_VFIO_DEVICE_CDEV the device is there, but has no file and no number.
        let name = names.into_iter().find(|name| tree.read(&format!("{}/vfio-dev/{name}/dev", device.path)).is_ok())?;
        Some((device.function.address, name))
    });
    named.collect()
}

/// Whether the module that containers need is there; `None` if no modules are shown.
fn type1(tree: &dyn Tree) -> Option<Type1> {
    if tree.list("module").ok()?.is_empty() {
        return None;
    }
    let loaded = tree.is_directory("module/vfio_iommu_type1");
    // Loading vfio-pci brings it along; what is there without it was loaded by hand, or is missing.
    tree.is_directory("module/vfio").then_some(if loaded { Type1::Loaded } else { Type1::NotLoaded })
}

/// Why a host could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenHostError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The folder is not a sysfs tree.
    #[error("{}: {error}", path.display())]
    Tree {
        /// Path of the folder.
        path: PathBuf,
        /// Why.
        error: LoadError,
    },
    /// The file begins like a capture, but is malformed.
    #[error("{}: {error}", path.display())]
    Archive {
        /// Path of the file.
        path: PathBuf,
        /// Why.
        error: ArchiveError,
    },
    /// The file is neither a capture nor a listing.
    #[error("{}: {error}", path.display())]
    Listing {
        /// Path of the file.
        path: PathBuf,
        /// Why.
        error: ListingError,
    },
}
