//! Reset of a device alone, and of all that are reset with it.

use alloc::sync::Arc;

use iommu_core::GroupId;
use iommu_core::device_model::Errno;
use iommu_core::device_model::pci::PciAddress;

/// Why a device was not reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResetError {
    /// The device cannot be reset alone.
    #[error("the device cannot be reset alone")]
    NotResettable,
    /// The driver is being unbound, which holds the device lock until the device is closed.
    #[error("the driver of the device is being unbound")]
    Leaving,
}

impl ResetError {
    /// Returns the error number that Linux gives.
    pub const fn errno(self) -> Errno {
        match self {
            Self::NotResettable => Errno::EINVAL,
            Self::Leaving => Errno::EAGAIN,
        }
    }
}

/// A function that a hot reset affects, whatever its driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AffectedFunction {
    /// The name of the device.
    pub device: Arc<str>,
    /// Where it is.
    pub address: PciAddress,
    /// Its IOMMU group, if it has one.
    pub group: Option<GroupId>,
}

/// Outcome of a hot reset that was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// The link below the bridge is up again.
    Up,
    /// It did not come back in time.
    Down,
}

/// No slot or bus reset affects the device: it is on a root bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("neither the slot nor the bus of the device can be reset")]
pub struct NoHotReset;
