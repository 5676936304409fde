//! Unrecoverable faults: DMA that did not pass.

use core::fmt;

use device_model::DeviceId;

use crate::address::{Access, Iova};

/// Why an access did not pass.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultReason {
    /// The IOMMU does not serve the device: it was never probed, or is released.
    #[error("the device is not served")]
    Unserved,
    /// No domain is attached: none yet since the probe, or none at this PASID.
    #[error("no domain is attached")]
    NotAttached,
    /// The blocking domain is attached, or the device was blocked.
    #[error("the device is blocked")]
    Blocked,
    /// The address is inside the aperture, but nothing is mapped there.
    #[error("nothing is mapped there")]
    NotMapped,
    /// The mapping permits only the other direction.
    #[error("the mapping does not permit this access")]
    NotPermitted,
    /// The page tables cannot hold the address, or the access runs past the end of the 64-bit space.
    #[error("the address is beyond the aperture")]
    BeyondAperture,
    /// The address is in the interrupt window: a write there is an interrupt, a read means nothing, and neither reaches
    /// memory.
    #[error("the address is in the interrupt window")]
    InterruptWindow,
}

/// An access that did not pass.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub struct Fault {
    /// Whose access it was.
    pub device: DeviceId,
    /// The PASID that the access carried, if any.
    pub pasid: Option<u32>,
    /// The first address that did not pass. Bytes before it, if the access began earlier, did.
    pub iova: Iova,
    /// Whether it was a read or a write.
    pub access: Access,
    /// Why.
    #[source]
    pub reason: FaultReason,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::ReadWrite => "read and write",
        };
        write!(f, "{:?}: {access} of {} faulted", self.device, self.iova)?;
        match self.pasid {
            Some(pasid) => write!(f, " (PASID {pasid})"),
            None => Ok(()),
        }
    }
}

/// Receives the unrecoverable faults of a device.
pub trait FaultSink: Send + Sync + fmt::Debug {
    /// Takes note of a fault. The IOMMU driver calls it without its locks, perhaps from an interrupt handler: it must not
    /// sleep.
    fn report(&self, fault: &Fault);
}
