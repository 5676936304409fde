//! PCI topology.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use core::iter;

use super::address::{Devfn, PciAddress};
use super::function::{PciFunction, Upstream};

/// A set of PCI functions, connected by bridges.
///
/// A bridge is above a bus only if its own bus has a lower number and is in the same domain, as PCI requires; other
/// bridges are ignored. So the walk up from any function ends after 255 bridges at most.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PciTopology {
    functions: BTreeMap<PciAddress, Arc<PciFunction>>,
    /// The bridges that say that they lead to a bus; one, unless something is wrong.
    bridges: BTreeMap<(u32, u8), BTreeSet<PciAddress>>,
    /// The functions with further requester IDs.
    aliasing: BTreeSet<PciAddress>,
}

impl PciTopology {
    /// Creates an empty topology.
    pub const fn new() -> Self {
        Self { functions: BTreeMap::new(), bridges: BTreeMap::new(), aliasing: BTreeSet::new() }
    }

    /// Inserts a function and returns the one that it replaces.
    pub fn insert(&mut self, function: impl Into<Arc<PciFunction>>) -> Option<Arc<PciFunction>> {
        let function = function.into();
        let replaced = self.remove(function.address);
        if let Some(bus) = secondary_bus(&function) {
            self.bridges.entry(bus).or_default().insert(function.address);
        }
        if !function.dma_aliases.is_empty() {
            self.aliasing.insert(function.address);
        }
        self.functions.insert(function.address, function);
        replaced
    }

    /// Removes a function. Functions below it stay, with no bridge above.
    pub fn remove(&mut self, address: PciAddress) -> Option<Arc<PciFunction>> {
        let function = self.functions.remove(&address)?;
        self.aliasing.remove(&address);
        if let Some(bus) = secondary_bus(&function)
            && let Some(bridges) = self.bridges.get_mut(&bus)
        {
            bridges.remove(&address);
            if bridges.is_empty() {
                self.bridges.remove(&bus);
            }
        }
        Some(function)
    }

    /// Returns the function at `address`.
    pub fn get(&self, address: PciAddress) -> Option<&PciFunction> {
        self.functions.get(&address).map(|function| &**function)
    }

    /// Returns the number of functions.
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// Returns whether there are no functions.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// Returns all functions in the order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = &PciFunction> {
        self.functions.values().map(|function| &**function)
    }

    /// Returns the functions on the bus of `address`, in order, including the one at `address`, if any.
    pub fn functions_on_bus(&self, address: PciAddress) -> impl Iterator<Item = &PciFunction> {
        self.devfns(address, Devfn::from_byte(0), Devfn::MAX)
    }

    /// Returns the functions on the bus of `address` that have further requester IDs ([`PciFunction::dma_aliases`]), in
    /// order.
    pub fn aliasing_functions_on_bus(&self, address: PciAddress) -> impl Iterator<Item = &PciFunction> {
        let [first, last] = [Devfn::from_byte(0), Devfn::MAX].map(|devfn| address.on_same_bus(devfn));
        self.aliasing.range(first..=last).filter_map(|aliasing| self.get(*aliasing))
    }

    /// Returns the functions in the slot of `address`, in order, including the one at `address`, if any.
    pub fn functions_in_slot(&self, address: PciAddress) -> impl Iterator<Item = &PciFunction> {
        let byte = address.devfn().byte();
        self.devfns(address, Devfn::from_byte(byte & !7), Devfn::from_byte(byte | 7))
    }

    fn devfns(&self, bus: PciAddress, first: Devfn, last: Devfn) -> impl Iterator<Item = &PciFunction> {
        self.functions.range(bus.on_same_bus(first)..=bus.on_same_bus(last)).map(|(_, function)| &**function)
    }

    /// Returns the bridge above the bus of `address`; `None` on a root bus.
    ///
    /// All functions on a bus get the same answer: the first whose [`Upstream`] names a valid bridge or a root bus
    /// decides, else the bus number.
    pub fn bridge_above(&self, address: PciAddress) -> Option<&PciFunction> {
        let can_be_above =
            |bridge: &&PciFunction| bridge.address.domain() == address.domain() && bridge.address.bus() < address.bus();
        for function in self.functions_on_bus(address) {
            match function.upstream {
                Upstream::ByBusNumber => {}
                Upstream::RootBus => return None,
                Upstream::Bridge(bridge) => {
                    if let Some(bridge) = self.get(bridge).filter(can_be_above) {
                        return Some(bridge);
                    }
                }
            }
        }
        let mut bridges = self.bridges.get(&(address.domain(), address.bus()))?.iter();
        bridges.find_map(|&bridge| self.get(bridge).filter(can_be_above))
    }

    /// Returns all bridges between `address` and the root, nearest first.
    pub fn bridges_above(&self, address: PciAddress) -> impl Iterator<Item = &PciFunction> {
        iter::successors(self.bridge_above(address), |bridge| self.bridge_above(bridge.address))
    }
}

fn secondary_bus(function: &PciFunction) -> Option<(u32, u8)> {
    function.config.secondary_bus().map(|bus| (function.address.domain(), bus))
}

impl<F: Into<Arc<PciFunction>>> Extend<F> for PciTopology {
    fn extend<T: IntoIterator<Item = F>>(&mut self, functions: T) {
        for function in functions {
            self.insert(function);
        }
    }
}

impl<F: Into<Arc<PciFunction>>> FromIterator<F> for PciTopology {
    fn from_iter<T: IntoIterator<Item = F>>(functions: T) -> Self {
        let mut topology = Self::new();
        topology.extend(functions);
        topology
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
