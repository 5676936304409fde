//! Machines that people run: who has which group, what is in the way of giving a device to user space, and what to do.
//!
//! ```
//! use vfio_owner::host::{Explanation, Host, Plan};
//! use vfio_owner::{testbed, viability::Verdict};
//!
//! let host = Host::of_snapshot(testbed::workstation());
//! let card = "0000:01:00.0".parse()?;
//! let explanation = Explanation::of(&host, card)?;
//! assert_eq!(explanation.by_group.verdict(), Verdict::NotViable);
//!
//! let plan = Plan::make(&host, &[card], &[])?;
//! let steps: Vec<String> = plan.steps.iter().map(|step| step.to_string()).collect();
//! assert_eq!(steps, ["load vfio-pci", "let only vfio-pci bind to 0000:01:00.0", "bind 0000:01:00.0 to vfio-pci"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`Host`] is read from the running kernel, from a tree or a capture of one, or from a listing as people post it. Every
//! answer is as sure as its source: what a source does not show is unknown, with the reason.
//!
//! | | |
//! |---|---|
//! | [`overview`] | the groups, and who has each |
//! | [`Explanation`] | one device: what is in its way, and why it shares its group |
//! | [`Plan`] | the steps that make it possible, played on a [`Machine`](crate::testbed::Machine) first |
//! | [`carry_out`], [`undo`] | the steps done, with a [`Journal`] that survives an interruption |
//! | [`changes`] | what is different between two hosts |

mod binding;
mod capture;
mod change;
mod execution;
mod explanation;
mod holder;
mod lifeline;
mod listing;
mod naming;
mod overview;
mod plan;
mod proof;
mod reason;
mod script;
mod source;
mod sysfs_binding;
mod tie;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use iommu_core::device_model::pci::{PciAddress, PciTopology};
use iommu_core::sysfs::{Snapshot, SysfsDevice};

pub use binding::{Binding, BindingError, Bindings};
pub use capture::capture;
pub use change::{Change, changes};
pub use execution::{Done, ExecutionError, Journal, JournalError, UndoError, carry_out, undo};
pub use explanation::{Explanation, Neighbour, NoSuchDevice};
pub use holder::{HeldFile, Holder, Holders};
pub use lifeline::{Lifeline, Purpose};
pub use listing::{ListingError, ListingErrorReason};
pub use naming::{class_name, device_name};
pub use overview::{DeviceEntry, GroupEntry, Possession, overview};
pub use plan::{Caution, Guarded, Plan, PlanError, PlanFileError, Step};
pub use proof::{ModelBindings, Proof, ProofError};
pub use reason::{Answer, Reason};
pub use source::{HostTree, OpenHostError};
pub use sysfs_binding::SysfsBindings;
pub use tie::{Remedy, Tie};

/// A machine, as far as its source shows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Host {
    /// Its PCI functions, drivers and groups.
    pub pci: Snapshot,
    /// The same functions, joined by bridges.
    topology: PciTopology,
    /// How many virtual functions each has that has any.
    virtual_functions: BTreeMap<PciAddress, usize>,
    /// Where this is known from.
    pub source: Source,
    /// What the machine lives on; `None` if the source does not tell.
    pub lifelines: Option<Vec<Lifeline>>,
    /// Who has files of VFIO open.
    pub holders: Holders,
    /// The files that VFIO has for devices themselves (`vfio3`), by device.
    pub device_files: BTreeMap<PciAddress, String>,
}

/// Where a host is known from; what is not shown means more in some sources than in others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The running kernel.
    Live,
    /// A capture of a running kernel.
    Capture,
    /// A copy of a sysfs tree, which may leave anything out.
    #[default]
    Tree,
    /// A listing that shows groups, ids and drivers.
    Listing,
    /// A listing that shows groups and ids, but no drivers.
    ListingWithoutDrivers,
}

impl Host {
    /// A host of which no more is known than a tree says.
    pub fn of_snapshot(pci: Snapshot) -> Self {
        let topology = pci.topology();
        let mut virtual_functions = BTreeMap::new();
        for owner in pci.devices.iter().filter_map(|device| device.function.physical_function) {
            *virtual_functions.entry(owner).or_default() += 1;
        }
        Self { pci, topology, virtual_functions, ..Self::default() }
    }

    /// The device at `address`.
    ///
    /// # Errors
    /// There is none.
    pub fn device(&self, address: PciAddress) -> Result<&SysfsDevice, NoSuchDevice> {
        self.pci.device(address).ok_or(NoSuchDevice { device: address })
    }

    /// How many virtual functions a device has.
    pub fn virtual_functions(&self, device: PciAddress) -> usize {
        self.virtual_functions.get(&device).copied().unwrap_or(0)
    }

    /// What the machine has this device for, as far as it is known.
    pub fn purposes(&self, device: PciAddress) -> impl Iterator<Item = &Purpose> {
        let lifelines = self.lifelines.iter().flatten();
        lifelines.filter(move |lifeline| lifeline.device == device).map(|lifeline| &lifeline.purpose)
    }
}
