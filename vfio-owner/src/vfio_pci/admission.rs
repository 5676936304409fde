//! Which functions the driver takes.

use iommu_core::device_model::Errno;
use iommu_core::device_model::pci::{ConfigSpace, HeaderLayout, PciAddress, PciFunction, PciId};

/// What the driver is called.
pub const NAME: &str = "vfio-pci";

/// Its table: every function, if an override demands the driver. Ids that are added count besides.
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

const CAP_SRIOV: u16 = 0x10;

/// Whether the driver takes the function: its probe, but for the registration with VFIO.
///
/// # Errors
/// It does not, and the next driver is tried.
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
    let at = config.extended_capabilities().find(|found| found.id == CAP_SRIOV)?.offset;
    let enabled = config.read_u16(at.checked_add(CONTROL)?)? & ENABLE != 0;
    if enabled { config.read_u16(at.checked_add(COUNT)?) } else { Some(0) }
}

/// Why vfio-pci does not take a function.
// V60.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VfioPciRefusal {
    /// It is a bridge, or its header cannot be read.
    #[error("{device} is no endpoint, and a bridge is not for users")]
    NotAnEndpoint {
        /// The function.
        device: PciAddress,
        /// The layout of its header, if it can be read.
        layout: Option<HeaderLayout>,
    },
    /// Its virtual functions are in the hands of others.
    #[error("{device} has {count} enabled virtual functions")]
    HasVirtualFunctions {
        /// The function.
        device: PciAddress,
        /// How many are enabled.
        count: u16,
    },
    /// It is known to be unsafe in the hands of a user.
    #[error("{device} is on the list of functions that are unsafe in the hands of a user")]
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
