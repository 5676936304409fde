//! Which functions vfio-pci binds.

use iommu_core::device_model::Errno;
use iommu_core::device_model::pci::{ConfigSpace, HeaderLayout, PciAddress, PciFunction, PciId};

/// The name of the driver.
pub const NAME: &str = "vfio-pci";

/// The id table: every function, if `driver_override` names the driver. Dynamic ids count as well.
// D20.
pub const IDS: [PciId; 1] = [PciId::ANY.override_only()];

/// Accelerators of Intel that users must not have by default, for a user can make them do harm to the whole machine.
const DENIED: [PciId; 8] = [
    PciId::device(0x8086, 0x0435),
    PciId::device(0x8086, 0x0443),
    PciId::device(0x8086, 0x0b25),
    PciId::device(0x8086, 0x0cfe),
    PciId::device(0x8086, 0x19e2),
    PciId::device(0x8086, 0x19e3),
    PciId::device(0x8086, 0x37c8),
    PciId::device(0x8086, 0x37c9),
];

pub(super) const EXT_SRIOV: u16 = 0x10;

/// Checks whether the driver binds the function, as far as the function itself tells. A probe also looks for virtual
/// functions that another driver has left behind, and registers the device with VFIO.
///
/// # Errors
/// Fails if the function is not an endpoint, has enabled virtual functions, or is on the denylist. The next driver is
/// tried then.
// V60.
pub fn admits(function: &PciFunction) -> Result<(), VfioPciRefusal> {
    let device = function.address;
    if DENIED.iter().any(|id| id.matches(&function.config)) {
        return Err(VfioPciRefusal::Denied { device });
    }
    let layout = function.config.layout();
    if layout != Some(HeaderLayout::Endpoint) {
        return Err(VfioPciRefusal::NotAnEndpoint { device, layout });
    }
    match enabled_virtual_functions(&function.config) {
        Some(count) if count > 0 && function.physical_function.is_none() => {
            Err(VfioPciRefusal::HasVirtualFunctions { device, count })
        }
        _ => Ok(()),
    }
}

/// How many virtual functions are enabled, as the SR-IOV capability says; `None` without one.
fn enabled_virtual_functions(config: &ConfigSpace) -> Option<u16> {
    const CONTROL: u16 = 0x08;
    const ENABLE: u16 = 1;
    const COUNT: u16 = 0x10;
    let at = config.extended_capabilities().find(|found| found.id == EXT_SRIOV)?.offset;
    let enabled = config.read_u16(at.checked_add(CONTROL)?)? & ENABLE != 0;
    if enabled { config.read_u16(at.checked_add(COUNT)?) } else { Some(0) }
}

/// Why vfio-pci does not bind a function.
// V60.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VfioPciRefusal {
    /// The function is a bridge, or its header cannot be read.
    #[error("{device} is not an endpoint: vfio-pci does not bind bridges")]
    NotAnEndpoint {
        /// The function.
        device: PciAddress,
        /// The header type, if it can be read.
        layout: Option<HeaderLayout>,
    },
    /// Virtual functions are enabled.
    #[error("{device} has {count} enabled virtual functions")]
    HasVirtualFunctions {
        /// The function.
        device: PciAddress,
        /// Number of enabled virtual functions.
        count: u16,
    },
    /// The function is on the denylist: user space could use it to harm the machine.
    #[error("{device} is on the denylist of vfio-pci, being unsafe for user space")]
    Denied {
        /// The function.
        device: PciAddress,
    },
}

impl VfioPciRefusal {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotAnEndpoint { .. } | Self::Denied { .. } => Errno::EINVAL,
            Self::HasVirtualFunctions { .. } => Errno::EBUSY,
        }
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
