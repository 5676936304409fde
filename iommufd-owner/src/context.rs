//! The iommufd context, as an owner of DMA.

use alloc::sync::Arc;

use iommu_core::{Claim, ClaimError, Member, Owner};

/// An iommufd: one open `/dev/iommu`. It is one owner, however many devices it binds.
#[derive(Debug)]
pub struct Context {
    owner: Owner,
}

impl Context {
    /// A context without devices. The name is for messages (`"iommufd of qemu"`).
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { owner: Owner::new(name) }
    }

    /// The owner that it is.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Binds a device: one claim for this device. Further devices of its group can be bound by this context, not by
    /// another (It6.3, It6.4). Takes the group lock.
    ///
    /// # Errors
    /// Kernel drivers or another owner have the group; nothing has changed.
    pub fn bind(&self, device: &Arc<Member>) -> Result<BoundDevice, ClaimError> {
        let claim = device.claim(&self.owner)?;
        Ok(BoundDevice { device: device.clone(), claim })
    }
}

/// A device bound to a context. Dropping it releases the device's claim; the group stays owned until the context's
/// last device in it goes.
#[derive(Debug)]
#[must_use = "dropping it unbinds the device"]
pub struct BoundDevice {
    device: Arc<Member>,
    claim: Claim,
}

impl BoundDevice {
    /// The device.
    pub fn device(&self) -> &Arc<Member> {
        &self.device
    }

    /// Its claim, through which domains are attached.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }
}
