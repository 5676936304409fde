//! Testbed: a whole simulated machine in one value.
//!
//! A [`Machine`] is built from the sysfs tree of a real one: its PCI functions on a PCI bus, simulated drivers, groups
//! computed from the topology, and a software IOMMU, which shows what each device can access. Runs in-process, without
//! hardware or root.

mod builder;
mod drivers;
mod embedded;
mod intel;
#[cfg(feature = "iommufd-test")]
mod iommufd_test;
mod iommus;
mod machine;
pub mod models;
mod slot;
pub mod vfs;
mod virtual_functions;

pub use builder::MachineBuilder;
pub use embedded::{pc, sriov, workstation};
pub use machine::{Machine, MachineError, Pci};
pub use slot::Slot;
