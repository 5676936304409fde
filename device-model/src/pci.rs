//! PCI functions, their configuration space, and the topology of bridges.
//!
//! Plain values, except for [`PciBus`], which binds drivers to functions. A [`PciTopology`] is a set of
//! [`PciFunction`]s; its answers depend on the set alone, never on the order in which functions were added.

mod address;
mod bar;
mod bus;
mod config;
mod function;
mod id;
mod topology;

pub use address::{AddressFault, Devfn, ParseAddressError, PciAddress};
pub use bar::{Bar, BarError, BarKind, Bars};
pub use bus::{DynamicIdError, PciBus};
pub use config::{Acs, AcsBits, Capability, ConfigBuilder, ConfigSpace, HeaderLayout, PcieCapability, PortType, Sriov};
pub use function::{AcsQuirk, PciFunction, Upstream};
pub use id::PciId;
pub use topology::PciTopology;
