//! Simulated drivers: they bind as their models do, and do nothing.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use iommu_core::device_model::pci::{PciFunction, PciId, PortType};
use iommu_core::device_model::{AnyDriver, Bound, Errno, ProbeError, Removal};

use super::machine::Pci;
use crate::viability::{DriverDma, dma_of};

/// What a simulated driver demands of a function besides a match.
#[derive(Debug, Clone, Copy)]
enum Demands {
    Nothing,
    /// A PCIe port, as port services need; anything else is not there for it.
    PciePort,
    /// A function that it has an id for. Of another, which it gets only by `driver_override`, it makes nothing and says
    /// this.
    KnownFunction(Errno),
    /// The same, but a virtual function that nobody has set online is not there for it.
    PhysicalFunction(Errno),
}

#[derive(Debug)]
struct SimulatedDriver {
    name: Arc<str>,
    ids: Vec<PciId>,
    driver_managed_dma: bool,
    demands: Demands,
}

impl AnyDriver<Pci> for SimulatedDriver {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn ids(&self) -> &[PciId] {
        &self.ids
    }

    fn driver_managed_dma(&self) -> bool {
        self.driver_managed_dma
    }

    fn probe(&self, dev: &mut Bound<'_, Pci>) -> Result<(), ProbeError> {
        let refusal = match self.demands {
            Demands::PciePort => (!is_port(dev.description())).then_some(Errno::ENODEV),
            Demands::KnownFunction(errno) => (!self.knows(dev)).then_some(errno),
            Demands::PhysicalFunction(errno) => {
                let is_virtual = dev.description().physical_function.is_some();
                (is_virtual || !self.knows(dev)).then_some(errno)
            }
            Demands::Nothing => None,
        };
        refusal.map_or(Ok(()), |errno| Err(ProbeError::errno_only(errno)))
    }

    fn remove(&self, _dev: &mut Bound<'_, Pci>, _attempt: u32) -> Removal {
        Removal::Done
    }
}

impl SimulatedDriver {
    /// Without an override an id has matched, and be it one that was added.
    fn knows(&self, dev: &Bound<'_, Pci>) -> bool {
        let device = dev.device();
        device.driver_override().is_none() || self.ids.iter().any(|id| id.matches(&device.description().config))
    }
}

fn is_port(function: &PciFunction) -> bool {
    function.config.pcie().is_some_and(|pcie| {
        matches!(pcie.port_type, PortType::RootPort | PortType::UpstreamPort | PortType::DownstreamPort)
    })
}

const CLASS_BRIDGE: PciId = PciId::class(0x06_0400, 0xff_ff00);

/// The driver of this name, for the functions that `bound` to it in the tree.
pub(crate) fn simulated(name: &str, bound: &[&PciFunction]) -> Arc<dyn AnyDriver<Pci>> {
    let (demands, ids) = match name {
        "pcieport" => (Demands::PciePort, vec![CLASS_BRIDGE]),
        "pci-stub" => (Demands::Nothing, Vec::new()),
        "nvme" => (Demands::PhysicalFunction(Errno::ENODEV), ids_of(bound)),
        "e1000" | "e1000e" => (Demands::KnownFunction(Errno::EIO), ids_of(bound)),
        _ => (Demands::KnownFunction(Errno::ENODEV), ids_of(bound)),
    };
    driver(name, demands, ids)
}

/// The same, but it takes whatever it is bound to by hand, for a tree may not show what it goes by.
pub(crate) fn obliging(name: &str, bound: &[&PciFunction]) -> Arc<dyn AnyDriver<Pci>> {
    driver(name, Demands::Nothing, ids_of(bound))
}

/// A driver that is not known does DMA for the kernel, to be on the safe side.
fn driver(name: &str, demands: Demands, ids: Vec<PciId>) -> Arc<dyn AnyDriver<Pci>> {
    let driver_managed_dma = match dma_of(name) {
        DriverDma::Managed | DriverDma::UserSpace => true,
        DriverDma::Kernel | DriverDma::Unknown => false,
    };
    Arc::new(SimulatedDriver { name: name.into(), ids, driver_managed_dma, demands })
}

/// The ids under which a driver that has these functions would list them.
fn ids_of(bound: &[&PciFunction]) -> Vec<PciId> {
    let mut ids: Vec<PciId> = Vec::new();
    for function in bound {
        let (Some(vendor), Some(device)) = (function.config.vendor(), function.config.device()) else { continue };
        let id = PciId::device(vendor, device);
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}
