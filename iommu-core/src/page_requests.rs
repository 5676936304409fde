//! Page requests of a device, delivered to the owner of its group.

use alloc::sync::Arc;

use device_model::Errno;

use crate::claim::Claim;
use crate::hardware::{HardwareError, PageRequestSink};
use crate::member::{Member, removed};

/// Delivers the page requests of a device to the owner of its group. Dropping it ends that; so does the end of the claim
/// that it was enabled through, whichever comes first. Requests are answered
/// [`PageAnswer::Invalid`](crate::hardware::PageAnswer::Invalid) then.
#[derive(Debug)]
#[must_use = "dropping it disables page requests"]
pub struct PageRequestDelivery {
    member: Arc<Member>,
    serial: u64,
    /// Dropped here, after the group lock was released.
    _sink: Arc<dyn PageRequestSink>,
}

impl Claim {
    /// Delivers the page requests of `member` to `sink`, which replaces the one before. Takes the group lock.
    ///
    /// # Errors
    /// The driver's; `EINVAL` when the device is in another group, `ENODEV` once it was removed.
    pub fn enable_page_requests(
        &self,
        member: &Arc<Member>,
        sink: Arc<dyn PageRequestSink>,
    ) -> Result<PageRequestDelivery, HardwareError> {
        if !Arc::ptr_eq(member.group(), self.group()) {
            return Err(HardwareError::new(Errno::EINVAL, "the claim is of another group"));
        }
        let mut change = self.group().change();
        let serial = change.enable_page_requests(member, self.serial(), sink.clone()).ok_or_else(removed)??;
        drop(change);
        Ok(PageRequestDelivery { member: member.clone(), serial, _sink: sink })
    }
}

impl Drop for PageRequestDelivery {
    fn drop(&mut self) {
        self.member.group().change().disable_page_requests(&self.member, self.serial);
    }
}
