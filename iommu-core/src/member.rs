//! A device in a group.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use device_model::{DeviceId, Errno};
use slab::Slab;

use crate::claim::Claim;
use crate::group::{Group, Record};
use crate::hardware::{Capabilities, Description, Endpoint, HardwareError, IommuDriver, PageAnswer, PageRequestSink};
use crate::reserved::ReservedRegion;

/// A device as a member of its group: what kernel use and device claims begin from.
///
/// It stays valid after the device was removed; what begins then is refused.
pub struct Member {
    endpoint: Endpoint,
    group: Arc<Group>,
    key: usize,
}

impl Member {
    pub(crate) fn new(endpoint: Endpoint, group: Arc<Group>, key: usize) -> Arc<Self> {
        Arc::new(Self { endpoint, group, key })
    }

    /// Its group.
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// The device's name.
    pub fn name(&self) -> &Arc<str> {
        &self.endpoint.name
    }

    /// The device's identity.
    pub fn device(&self) -> DeviceId {
        self.endpoint.id
    }

    /// The device as its IOMMU sees it.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn key(&self) -> usize {
        self.key
    }

    /// Its record among those of its group, unless it was removed.
    #[inline]
    pub(crate) fn record<'a>(&self, members: &'a mut Slab<Record>) -> Option<&'a mut Record> {
        members.get_mut(self.key).filter(|record| record.endpoint.id == self.endpoint.id)
    }

    /// What the IOMMU can do for the device; nothing once it was removed.
    pub fn capabilities(&self) -> Capabilities {
        let mut state = self.group.lock();
        self.record(&mut state.members).map(|record| record.properties.capabilities).unwrap_or_default()
    }

    /// The device's own reserved regions; none once it was removed. [`Group::reserved_regions`] has those of all.
    pub fn reserved_regions(&self) -> Vec<ReservedRegion> {
        let mut state = self.group.lock();
        self.record(&mut state.members).map(|record| record.properties.reserved.clone()).unwrap_or_default()
    }

    /// The IOMMU that serves it; `None` once it was removed.
    pub fn iommu(&self) -> Option<Arc<dyn IommuDriver>> {
        let mut state = self.group.lock();
        self.record(&mut state.members).map(|record| record.iommu.clone())
    }

    fn served(&self) -> Result<Arc<dyn IommuDriver>, HardwareError> {
        self.iommu().ok_or_else(|| HardwareError::new(Errno::ENODEV, "the device was removed"))
    }

    /// What user space may know of its IOMMU.
    ///
    /// # Errors
    /// The driver's; `ENODEV` once it was removed.
    pub fn describe_iommu(&self) -> Result<Description, HardwareError> {
        self.served()?.describe(&self.endpoint)
    }

    /// From now on its page requests go to `sink`, for the owner of the group.
    ///
    /// # Errors
    /// The driver's; `EOPNOTSUPP` when it delivers none, `EINVAL` when the claim is of another group, `ENODEV` once the
    /// device was removed.
    pub fn enable_page_requests(&self, claim: &Claim, sink: Arc<dyn PageRequestSink>) -> Result<(), HardwareError> {
        if !Arc::ptr_eq(claim.group(), &self.group) {
            return Err(HardwareError::new(Errno::EINVAL, "the claim is of another group"));
        }
        let none = HardwareError::new(Errno::EOPNOTSUPP, "the IOMMU driver delivers no page requests");
        self.served()?.page_requests().ok_or(none)?.enable(&self.endpoint, sink)
    }

    /// Its page requests are answered [`PageAnswer::Invalid`] from now on.
    pub fn disable_page_requests(&self) {
        if let Some(iommu) = self.iommu()
            && let Some(requests) = iommu.page_requests()
        {
            requests.disable(&self.endpoint);
        }
    }

    /// Answers a page request of it; nothing happens if it was removed.
    pub fn answer_page_request(&self, pasid: Option<u32>, index: u32, answer: PageAnswer) {
        if let Some(iommu) = self.iommu()
            && let Some(requests) = iommu.page_requests()
        {
            requests.answer(&self.endpoint, pasid, index, answer);
        }
    }

    /// Whether it is still in its group; stale as soon as it is read.
    pub fn is_present(&self) -> bool {
        self.record(&mut self.group.lock().members).is_some()
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Member({}, group {})", self.endpoint.name, self.group.id())
    }
}
