//! Which functions are reset together.

use iommu_core::device_model::pci::{PciAddress, PciFunction, Upstream};

/// The functions that a hot reset brings down together: the device set of vfio-pci. Functions are in one set if
/// and only if their scopes are equal.
// V54.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ResetScope {
    /// This function alone: a virtual one, or one on a root bus, which nothing can reset as a whole.
    Alone(PciAddress),
    /// All functions on a bus, which the bridge above resets.
    Bus {
        /// The domain.
        domain: u32,
        /// The bus.
        bus: u8,
    },
}

/// The set of this function.
///
/// A slot that can be reset by itself is one of PCI Express, and has its bus for itself; so such a slot makes the same
/// set as its bus. Where the tree does not say what is above ([`Upstream::ByBusNumber`]), bus 0 is a root bus, and
/// every other one is taken to have a bridge above.
pub const fn reset_scope(function: &PciFunction) -> ResetScope {
    let address = function.address;
    let on_root_bus = match function.upstream {
        Upstream::RootBus => true,
        Upstream::ByBusNumber => address.bus() == 0,
        Upstream::Bridge(_) => false,
    };
    if on_root_bus || function.physical_function.is_some() {
        ResetScope::Alone(address)
    } else {
        ResetScope::Bus { domain: address.domain(), bus: address.bus() }
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
