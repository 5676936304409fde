//! The VFIO group, as an owner of DMA.

use alloc::format;
use alloc::sync::Arc;

use iommu_core::device_model::sync::Mutex;
use iommu_core::{AttachError, Claim, ClaimError, Domain, Group, Owner};

/// A VFIO group: one `/dev/vfio/N`. It claims its IOMMU group once, as a whole, whatever number of devices is opened
/// through it.
#[derive(Debug)]
pub struct VfioGroup {
    group: Arc<Group>,
    owner: Owner,
    /// Outside the group lock.
    claim: Mutex<Option<Claim>>,
}

impl VfioGroup {
    /// The VFIO group of an IOMMU group. It owns nothing yet: binding vfio-pci claims nothing (V11).
    pub fn new(group: Arc<Group>) -> Self {
        let owner = Owner::new(format!("VFIO group {}", group.id()));
        Self { group, owner, claim: Mutex::new(None) }
    }

    /// The IOMMU group.
    pub fn iommu_group(&self) -> &Arc<Group> {
        &self.group
    }

    /// The owner that it is.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Claims the IOMMU group, which moves all its devices to the blocking domain. Takes this group's lock, then the
    /// IOMMU group's.
    ///
    /// # Errors
    /// Kernel drivers or an owner have the group, be it this one (It5.2); nothing has changed.
    pub fn claim(&self) -> Result<(), ClaimError> {
        let mut slot = self.claim.lock();
        let claim = self.group.claim(&self.owner)?;
        *slot = Some(claim);
        Ok(())
    }

    /// Gives the IOMMU group back; the kernel's default domain returns. Nothing happens without a claim.
    pub fn release(&self) {
        drop(self.claim.lock().take());
    }

    /// Attaches the whole group to `domain`; `None` without a claim, for only an owner attaches.
    ///
    /// # Errors
    /// As for [`Claim::attach`]; nothing has moved.
    pub fn attach(&self, domain: &Arc<Domain>) -> Option<Result<(), AttachError>> {
        self.claim.lock().as_ref().map(|claim| claim.attach(domain))
    }

    /// Moves the whole group back to the blocking domain. Nothing happens without a claim.
    pub fn detach(&self) {
        if let Some(claim) = self.claim.lock().as_ref() {
            claim.detach();
        }
    }
}
