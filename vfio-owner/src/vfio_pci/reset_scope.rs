//! Which functions are reset together.

use iommu_core::device_model::pci::{PciAddress, PciFunction, Upstream};

/// The functions that a hot reset affects: the device set of vfio-pci. Functions are in one set if and only if their
/// scopes are equal.
// V54.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ResetScope {
    /// This function alone: a virtual function, or one on a root bus, which cannot be reset as a whole.
    Alone(PciAddress),
    /// All functions on a bus, by a secondary bus reset of the bridge above.
    Bus {
        /// Number of the domain.
        domain: u32,
        /// Number of the bus.
        bus: u8,
    },
}

/// Returns the set of this function.
///
/// A slot that can be reset by itself belongs to PCI Express and is alone on its bus, so its set is that of the bus.
/// Where the tree does not say which bridge is above ([`Upstream::ByBusNumber`]), bus 0 is taken for a root bus, and
/// every other bus to have a bridge above.
pub const fn reset_scope(function: &PciFunction) -> ResetScope {
    let address = function.address;
    if on_root_bus(function) || function.physical_function.is_some() {
        ResetScope::Alone(address)
    } else {
        ResetScope::Bus { domain: address.domain(), bus: address.bus() }
    }
}

/// Whether no bridge is above the function's bus.
pub(super) const fn on_root_bus(function: &PciFunction) -> bool {
    match function.upstream {
        Upstream::RootBus => true,
        Upstream::ByBusNumber => function.address.bus() == 0,
        Upstream::Bridge(_) => false,
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
