//! PCI functions, their configuration space, and how bridges join them into a tree.
//!
//! Plain values, but for [`PciBus`], which brings them to drivers. A [`PciTopology`] is a set of [`PciFunction`]s; what it
//! says of one function follows from the set alone, never from the order in which the functions came.

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
pub use config::{Acs, AcsBits, Capability, ConfigBuilder, ConfigSpace, HeaderLayout, PcieCapability, PortType};
pub use function::{AcsQuirk, PciFunction, Upstream};
pub use id::PciId;
pub use topology::PciTopology;
