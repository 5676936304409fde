//! The testbed: a whole simulated machine in one value.
//!
//! A [`Machine`] is built from a sysfs tree of a real one: its PCI functions on a PCI bus, its drivers as simulated
//! ones, its groups computed from its topology, and a software IOMMU below, so that a test can see what each device
//! reaches. Nothing of it needs hardware or root.

mod drivers;
mod embedded;
mod machine;

pub use embedded::{pc, workstation};
pub use machine::{Machine, MachineError, Pci};
