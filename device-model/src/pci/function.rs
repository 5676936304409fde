//! PCI functions.

use alloc::vec::Vec;

use super::address::{Devfn, PciAddress};
use super::bar::{Bar, Bars};
use super::config::ConfigSpace;

/// A PCI function: configuration space, BARs, and place in the topology.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PciFunction {
    /// Address of the function.
    pub address: PciAddress,
    /// Configuration space.
    pub config: ConfigSpace,
    /// BARs. The configuration space holds their addresses, but not their sizes.
    pub bars: Bars,
    /// BARs of the first virtual function that it can have (SR-IOV); those of the others follow.
    pub virtual_bars: Bars,
    /// The bridge above, as far as known.
    pub upstream: Upstream,
    /// The physical function of a virtual function (SR-IOV); else `None`.
    pub physical_function: Option<PciAddress>,
    /// Further requester IDs on the same bus under which its requests appear: a quirk known by vendor and device.
    /// Usually empty.
    pub dma_aliases: Vec<Devfn>,
    /// Isolation known by vendor and device, whatever the ACS capability says.
    pub acs_quirk: Option<AcsQuirk>,
}

impl PciFunction {
    /// Creates a function without BARs and quirks, whose bridge is found by bus number.
    pub const fn new(address: PciAddress, config: ConfigSpace) -> Self {
        Self {
            address,
            config,
            bars: Bars::NONE,
            virtual_bars: Bars::NONE,
            upstream: Upstream::ByBusNumber,
            physical_function: None,
            dma_aliases: Vec::new(),
            acs_quirk: None,
        }
    }

    /// Returns virtual function `index`, from 0 on, of this physical function, or `None` if it cannot have so many.
    pub fn virtual_function(&self, index: u16) -> Option<Self> {
        let address = self.config.sriov()?.address(self.address, index)?;
        let mut bars = Bars::NONE;
        for (slot, bar) in self.virtual_bars.iter() {
            let at = bar.address().wrapping_add(bar.size().wrapping_mul(index.into()));
            // Of the same size in the same place, so it fits.
            let _ = Bar::new(at, bar.size(), bar.kind()).map(|bar| bars.insert(slot, bar));
        }
        let function = Self::new(address, self.config.of_virtual_function()?);
        Some(Self { bars, upstream: self.upstream, physical_function: Some(self.address), ..function })
    }

    /// Returns whether the device has several functions: the multifunction bit is set, or this is not function 0, since
    /// other functions often leave the bit clear. Virtual functions have no such bit.
    pub fn is_multifunction(&self) -> bool {
        let counts = self.address.function() != 0 && self.physical_function.is_none();
        counts || self.config.has_multifunction_bit()
    }
}

/// The bridge that leads to a function's bus.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Upstream {
    /// The bridge whose secondary bus it is, if any.
    #[default]
    ByBusNumber,
    /// No bridge: a root bus.
    RootBus,
    /// This bridge, whatever its bus numbers (a bus of virtual functions may be no bridge's secondary bus).
    Bridge(PciAddress),
}

/// Isolation of a device that is known by its ids.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AcsQuirk {
    /// Isolates like ACS, without the capability.
    Isolated,
    /// Does not isolate, even if its capability says so.
    NotIsolated,
}
