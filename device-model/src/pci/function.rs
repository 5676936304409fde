//! One function.

use alloc::vec::Vec;

use super::address::{Devfn, PciAddress};
use super::bar::Bars;
use super::config::ConfigSpace;

/// A PCI function: the way of its requests to memory, and the windows that others reach it through.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PciFunction {
    /// Where it is.
    pub address: PciAddress,
    /// What it says of itself.
    pub config: ConfigSpace,
    /// Its windows. The configuration space tells where they are, but not how long.
    pub bars: Bars,
    /// What is known of the bridge above, apart from bus numbers.
    pub upstream: Upstream,
    /// The physical function whose virtual function (SR-IOV) this is; `None` for a function of its own.
    pub physical_function: Option<PciAddress>,
    /// Ids of the same bus under which its requests appear besides its own: a flaw of the device that is known by its id.
    /// Usually empty.
    pub dma_aliases: Vec<Devfn>,
    /// What is known of its isolation by its ids, whatever its ACS capability says.
    pub acs_quirk: Option<AcsQuirk>,
}

impl PciFunction {
    /// The function of this configuration space at `address`, without windows and quirks, its bridge to be found by bus number.
    pub const fn new(address: PciAddress, config: ConfigSpace) -> Self {
        Self {
            address,
            config,
            bars: Bars::NONE,
            upstream: Upstream::ByBusNumber,
            physical_function: None,
            dma_aliases: Vec::new(),
            acs_quirk: None,
        }
    }

    /// Whether it is one of several functions of a device: it says so, or it is not function 0. The functions behind the
    /// first often leave the bit out. The number of a virtual function says nothing of that kind.
    pub fn is_multifunction(&self) -> bool {
        let counts = self.address.function() != 0 && self.physical_function.is_none();
        counts || self.config.has_multifunction_bit()
    }
}

/// Which bridge leads to a function's bus.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Upstream {
    /// The bridge whose secondary bus it is, if any.
    #[default]
    ByBusNumber,
    /// None: the bus comes out of the root complex.
    RootBus,
    /// This one, whatever its bus numbers say (the bus of virtual functions has no bridge of its own number).
    Bridge(PciAddress),
}

/// What a device is known to do, by its ids.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AcsQuirk {
    /// It isolates as ACS would, without having the capability.
    Isolated,
    /// It does not isolate, even if its capability says so.
    NotIsolated,
}
