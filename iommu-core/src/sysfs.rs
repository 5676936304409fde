//! The PCI functions, drivers and IOMMU groups of a machine, read from its sysfs tree.
//!
//! ```no_run
//! use iommu_core::grouping;
//! use iommu_core::sysfs::{DirTree, Snapshot};
//!
//! let snapshot = Snapshot::load(&DirTree::new("/sys"))?;
//! let computed = grouping::partition(&snapshot.topology());
//! # Ok::<(), iommu_core::sysfs::LoadError>(())
//! ```
//!
//! A tree may be that of the running kernel, or a copy on disk or in memory in which a link is an ordinary file with
//! the target as its text. Trees are untrusted input: what is inconsistent is left out and reported as a [`Warning`].

mod archive;
mod dir;
mod layout;
mod load;
mod memory;
mod text;
mod tree;

use std::string::String;
use std::sync::Arc;
use std::vec::Vec;

use device_model::pci::{PciAddress, PciFunction, PciTopology};

pub use self::archive::{Archive, ArchiveError, ArchiveErrorReason, MAX_ZEROS};
pub use self::dir::DirTree;
pub use self::layout::{LayoutError, LayoutErrorReason};
pub use self::memory::MemoryTree;
pub use self::tree::{MAX_FILE, Tree, TreeError, resolve};
use crate::hardware::DomainKind;
use crate::reserved::ReservedRegion;

/// PCI functions, drivers and IOMMU groups of a machine.
///
/// Always consistent, whatever the tree: a device is a member of the group that it names and is listed under the driver
/// that it names, and of no other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// Every PCI function, by address.
    pub devices: Vec<SysfsDevice>,
    /// Every driver of the PCI bus, by name.
    pub drivers: Vec<SysfsDriver>,
    /// Every IOMMU group, by number.
    pub groups: Vec<SysfsGroup>,
    /// Warnings about what was left out or is doubtful, in the order in which it was found.
    pub warnings: Vec<Warning>,
}

impl Snapshot {
    /// Reads a tree.
    ///
    /// # Errors
    /// Fails if the tree has no list of PCI devices, or it cannot be read. Anything else that is missing or wrong is
    /// left out with a warning.
    pub fn load(tree: &dyn Tree) -> Result<Self, LoadError> {
        load::load(tree)
    }

    /// Returns the functions alone, with the bridges above them as the tree nests them.
    pub fn topology(&self) -> PciTopology {
        self.devices.iter().map(|device| device.function.clone()).collect()
    }

    /// Returns the group of this number.
    pub fn group(&self, number: u32) -> Option<&SysfsGroup> {
        let found = self.groups.binary_search_by_key(&number, |group| group.number).ok()?;
        self.groups.get(found)
    }

    /// Returns the device at `address`.
    pub fn device(&self, address: PciAddress) -> Option<&SysfsDevice> {
        let found = self.devices.binary_search_by_key(&address, |device| device.function.address).ok()?;
        self.devices.get(found)
    }
}

/// A PCI function in the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SysfsDevice {
    /// The function. Vendor, device, revision and class in its configuration space are those that the kernel uses (a
    /// virtual function has none of its own).
    pub function: Arc<PciFunction>,
    /// Directory of the device in the tree.
    pub path: String,
    /// Name of the driver that is bound.
    pub driver: Option<String>,
    /// The only driver that may bind (`driver_override`).
    pub driver_override: Option<String>,
    /// Number of the IOMMU group.
    pub group: Option<u32>,
}

/// A driver of the PCI bus.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SysfsDriver {
    /// Name of the driver on the bus.
    pub name: String,
    /// Devices that are bound to it, in order.
    pub devices: Vec<PciAddress>,
}

/// An IOMMU group in the tree.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SysfsGroup {
    /// Number of the group.
    pub number: u32,
    /// Type of the group's default domain; `None` if the tree does not show it.
    pub domain: Option<DomainKind>,
    /// PCI functions of the group, in order.
    pub members: Vec<PciAddress>,
    /// Reserved regions of the group, in the order of the tree.
    pub reserved: Vec<ReservedRegion>,
}

/// The tree is not a sysfs tree.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct LoadError {
    /// Path of what is missing, from the root of the tree.
    pub path: String,
    /// The cause.
    pub source: TreeError,
}

/// Something in the tree was left out, or is doubtful.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Warning {
    /// Path, from the root of the tree.
    pub path: String,
    /// The cause.
    pub reason: WarningReason,
}

/// What is wrong with something in a tree.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WarningReason {
    /// The entry cannot be read, and is treated as absent.
    #[error(transparent)]
    Unreadable(#[from] TreeError),
    /// The link does not lead to a directory, and is treated as absent.
    #[error("the link leads to {target:?}, which is not a directory of the tree")]
    Dangling {
        /// Target of the link.
        target: String,
    },
    /// The link leads through too many others, or contains a loop; it is treated as absent.
    #[error("too many links, or a loop of links")]
    EndlessLinks,
    /// The link does not lead to an entry of the expected kind, and is treated as absent.
    #[error("the link leads to {target:?}, which is not of the expected kind")]
    Elsewhere {
        /// Target of the link.
        target: String,
    },
    /// The name is not that of a PCI function; what it names is left out.
    #[error("not the name of a PCI function")]
    NotAFunction,
    /// The name is not the number of a group; what it names is left out.
    #[error("not the number of a group")]
    NotAGroup,
    /// The text is malformed, and treated as absent.
    #[error("malformed text {text:?}")]
    Malformed {
        /// The text, truncated if long.
        text: String,
    },
    /// The configuration space ends before any capability: unprivileged users can read only 64 bytes. PCI Express
    /// functions then look like conventional ones, and groups computed from them are too large.
    #[error("the configuration space ends after {length} bytes, so capabilities cannot be seen")]
    ShortConfig {
        /// Length in bytes.
        length: usize,
    },
    /// A driver or a group lists a device that the bus does not have; the entry is left out.
    #[error("the bus has no such device")]
    NoSuchDevice,
    /// A driver or a group lists a device that names another; the device's own entry is used.
    #[error("the device names another")]
    DeviceSaysOtherwise,
    /// A driver or a group lists a device that names none; the list is used.
    #[error("the device names none")]
    DeviceIsSilent,
    /// A device names a driver or a group that does not list it; the device's own entry is used.
    #[error("{listing} does not list the device")]
    NotListed {
        /// The driver or the group.
        listing: String,
    },
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
