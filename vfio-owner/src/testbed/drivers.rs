//! Simulated drivers: they bind as their models do, and do nothing.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use iommu_core::device_model::pci::{PciDriver, PciFunction, PciId, PortType};
use iommu_core::device_model::{DeviceGuard, DmaApi, Driver, Errno, ProbeError};

use crate::viability::{DriverDma, dma_of};

/// What a simulated driver demands of a function besides a match.
#[derive(Debug, Clone, Copy)]
enum Demands {
    Nothing,
    /// A PCIe port, as port services need; anything else is not there for it.
    PciePort,
}

#[derive(Debug)]
struct SimulatedDriver {
    name: Arc<str>,
    demands: Demands,
}

impl Driver for SimulatedDriver {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn probe(&self, dev: &mut DeviceGuard<'_>) -> Result<(), ProbeError> {
        let Some(function) = dev.device().details::<PciFunction>() else {
            return Err(ProbeError::errno_only(Errno::ENODEV));
        };
        let refusal = match self.demands {
            Demands::PciePort if !is_port(function) => Some(Errno::ENODEV),
            _ => None,
        };
        refusal.map_or(Ok(()), |errno| Err(ProbeError::errno_only(errno)))
    }
}

fn is_port(function: &PciFunction) -> bool {
    function.config.pcie().is_some_and(|pcie| {
        matches!(pcie.port_type, PortType::RootPort | PortType::UpstreamPort | PortType::DownstreamPort)
    })
}

const CLASS_BRIDGE: PciId = PciId::class(0x06_0400, 0xff_ff00);

/// The driver of this name, for the functions that `bound` to it in the tree.
pub(crate) fn simulated(name: &str, bound: &[&PciFunction]) -> Arc<PciDriver> {
    let (demands, ids) = match name {
        "pcieport" => (Demands::PciePort, vec![CLASS_BRIDGE]),
        "pci-stub" => (Demands::Nothing, Vec::new()),
        _ => (Demands::Nothing, ids_of(bound)),
    };
    driver(name, demands, ids)
}

/// The same, but it takes whatever it is bound to by hand, for a tree may not show what it goes by.
pub(crate) fn obliging(name: &str, bound: &[&PciFunction]) -> Arc<PciDriver> {
    driver(name, Demands::Nothing, ids_of(bound))
}

/// A driver that is not known does DMA for the kernel, to be on the safe side.
fn driver(name: &str, demands: Demands, ids: Vec<PciId>) -> Arc<PciDriver> {
    let dma_api = match dma_of(name) {
        DriverDma::Managed | DriverDma::UserSpace => DmaApi::Managed,
        DriverDma::Kernel | DriverDma::Unknown => DmaApi::Kernel,
    };
    Arc::new(PciDriver::new(Arc::new(SimulatedDriver { name: name.into(), demands }), ids, dma_api))
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
