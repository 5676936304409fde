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
//! A tree may be that of the running kernel, or a copy on disk or in memory in which a link is an ordinary file with the
//! target as its text. Trees come from anywhere, so nothing in them is trusted: what does not make sense is left out and
//! told as a [`Warning`].

mod archive;
mod dir;
mod load;
mod memory;
mod text;
mod tree;

use std::string::String;
use std::vec::Vec;

use device_model::pci::{PciAddress, PciFunction, PciTopology};

pub use self::archive::{ArchiveError, ArchiveErrorReason, MAX_ZEROS};
pub use self::dir::DirTree;
pub use self::memory::MemoryTree;
pub use self::tree::{MAX_FILE, Tree, TreeError, resolve};
use crate::hardware::DomainKind;
use crate::reserved::ReservedRegion;

/// What a sysfs tree says of PCI and of IOMMU groups.
///
/// It agrees with itself, whatever the tree: a device is a member of the group that it names, and is listed under the
/// driver that it names, and of no other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// Every PCI function, by address.
    pub devices: Vec<SysfsDevice>,
    /// Every driver of the PCI bus, by name.
    pub drivers: Vec<SysfsDriver>,
    /// Every IOMMU group, by number.
    pub groups: Vec<SysfsGroup>,
    /// Warnings of what was left out or is doubtful, in the order in which it was found.
    pub warnings: Vec<Warning>,
}

impl Snapshot {
    /// Reads a tree.
    ///
    /// # Errors
    /// The tree has no list of PCI devices, or it cannot be read. Everything else that is missing or wrong makes the
    /// snapshot smaller and is a warning.
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
    /// The function. Vendor, device, revision and class in its configuration space are those that the kernel goes by (a
    /// virtual function has none of its own).
    pub function: PciFunction,
    /// Its directory in the tree.
    pub path: String,
    /// The driver that it is bound to.
    pub driver: Option<String>,
    /// The only driver that may bind to it (`driver_override`).
    pub driver_override: Option<String>,
    /// The number of its IOMMU group.
    pub group: Option<u32>,
}

/// A driver of the PCI bus.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SysfsDriver {
    /// Its name on the bus.
    pub name: String,
    /// What it is bound to, in order.
    pub devices: Vec<PciAddress>,
}

/// An IOMMU group in the tree.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SysfsGroup {
    /// Its number.
    pub number: u32,
    /// What its devices are attached to; `None` if the tree does not know.
    pub domain: Option<DomainKind>,
    /// Its PCI functions, in order.
    pub members: Vec<PciAddress>,
    /// What its devices reserve, in the order of the tree.
    pub reserved: Vec<ReservedRegion>,
}

/// The tree is not one of sysfs.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct LoadError {
    /// What is missing, from the root of the tree.
    pub path: String,
    /// Why.
    pub source: TreeError,
}

/// Something in the tree was left out, or is doubtful.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Warning {
    /// Where, from the root of the tree.
    pub path: String,
    /// Why.
    pub reason: WarningReason,
}

/// What is wrong with something in a tree.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WarningReason {
    /// It cannot be read, and counts as not there.
    #[error(transparent)]
    Unreadable(#[from] TreeError),
    /// The link leads to nothing, or to no directory; it counts as not there.
    #[error("the link leads to {target:?}, which is no directory of the tree")]
    Dangling {
        /// Where it leads.
        target: String,
    },
    /// The link leads through too many others, or contains a loop; it counts as not there.
    #[error("the links from here do not end")]
    EndlessLinks,
    /// The link leads to something that is not what the link is for; it counts as not there.
    #[error("the link leads to {target:?}, which is not what belongs here")]
    Elsewhere {
        /// Where it leads.
        target: String,
    },
    /// The name is not the one that the kernel gives to a PCI function; what it names is left out.
    #[error("this is not the name of a PCI function")]
    NotAFunction,
    /// The name is not a number of a group; what it names is left out.
    #[error("this is not the number of a group")]
    NotAGroup,
    /// The text is not what belongs here, and counts as not there.
    #[error("{text:?} is not what belongs here")]
    Malformed {
        /// The text, cut off if long.
        text: String,
    },
    /// The configuration space ends before any capability: an ordinary user may read only so much. Functions of PCI
    /// Express look like conventional ones then, and groups computed from them are too large.
    #[error("the configuration space ends after {length} bytes, so capabilities cannot be seen")]
    ShortConfig {
        /// How long it is.
        length: usize,
    },
    /// A driver or a group lists a device that the bus does not have; the entry is left out.
    #[error("the bus has no such device")]
    NoSuchDevice,
    /// A driver or a group lists a device that says it is with another; the device is believed.
    #[error("the device says otherwise")]
    DeviceSaysOtherwise,
    /// A driver or a group lists a device that says nothing; the list is believed.
    #[error("the device does not say so")]
    DeviceIsSilent,
    /// A device says that it is with a driver or in a group which does not list it; the device is believed.
    #[error("{listing} does not list the device")]
    NotListed {
        /// The driver or the group.
        listing: String,
    },
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
