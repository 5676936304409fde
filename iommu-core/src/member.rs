//! A device in a group.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use device_model::{DeviceId, Errno};

use crate::group::{Group, Place};
use crate::hardware::{
    Capabilities, Description, Endpoint, EndpointProperties, FaultSink, HardwareError, IommuDriver, PageAnswer,
};
use crate::reserved::{RegionKind, ReservedRegion};

/// A device as a member of its group: what kernel use and device claims begin from.
///
/// The [`IommuSubsystem`](crate::IommuSubsystem) keeps it until the device is removed. It stays valid after that; what
/// begins then is refused.
// What every kernel use needs comes first, so that it lies in one cache line with the count of references.
#[repr(C)]
pub struct Member {
    group: Arc<Group>,
    place: Place,
    endpoint: Endpoint,
    properties: EndpointProperties,
}

impl Member {
    /// Its group.
    #[inline]
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Returns the device's name.
    #[inline]
    pub fn name(&self) -> &Arc<str> {
        &self.endpoint.name
    }

    /// Returns the device's identity.
    pub fn device(&self) -> DeviceId {
        self.endpoint.id
    }

    /// Returns the device as its IOMMU sees it.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    #[inline]
    pub(crate) fn place(&self) -> u32 {
        self.place.place
    }

    #[inline]
    pub(crate) fn serial(&self) -> u64 {
        self.place.serial
    }

    /// The IOMMU that serves it, or did.
    pub(crate) fn served_by(&self) -> &Arc<dyn IommuDriver> {
        self.group.unit().driver()
    }

    /// Stops its DMA by force.
    pub(crate) fn block(&self) -> Result<(), HardwareError> {
        self.served_by().block(&self.endpoint)
    }

    /// Disables page requests of it, if its IOMMU delivers any.
    pub(crate) fn disable_page_requests(&self) {
        if let Some(requests) = self.served_by().page_requests() {
            requests.disable(&self.endpoint);
        }
    }

    pub(crate) fn properties(&self) -> &EndpointProperties {
        &self.properties
    }

    pub(crate) fn needs_direct_mapping(&self) -> bool {
        self.properties.reserved.iter().any(|region| region.kind == RegionKind::Direct)
    }

    /// Returns what the IOMMU can do for the device; nothing once it was removed.
    pub fn capabilities(&self) -> Capabilities {
        if self.is_present() { self.properties.capabilities } else { Capabilities::default() }
    }

    /// Returns how many PASIDs the device supports; 0 for none, and once it was removed.
    pub fn max_pasids(&self) -> u32 {
        if self.is_present() { self.properties.max_pasids } else { 0 }
    }

    /// Returns the device's own reserved regions; none once it was removed. [`Group::reserved_regions`] has those of all.
    pub fn reserved_regions(&self) -> Vec<ReservedRegion> {
        if self.is_present() { self.properties.reserved.clone() } else { Vec::new() }
    }

    /// Returns the IOMMU that serves it; `None` once it was removed.
    pub fn iommu(&self) -> Option<&Arc<dyn IommuDriver>> {
        self.is_present().then(|| self.served_by())
    }

    /// Returns what user space may know of its IOMMU.
    ///
    /// # Errors
    /// The driver's; `ENODEV` once it was removed.
    pub fn describe_iommu(&self) -> Result<Description, HardwareError> {
        self.iommu().ok_or_else(removed)?.describe(&self.endpoint)
    }

    /// Answers a page request of it; nothing happens if it was removed.
    pub fn answer_page_request(&self, pasid: Option<u32>, index: u32, answer: PageAnswer) {
        if let Some(requests) = self.iommu().and_then(|iommu| iommu.page_requests()) {
            requests.answer(&self.endpoint, pasid, index, answer);
        }
    }

    /// Returns whether it is still in its group; stale as soon as it is read. Takes the group lock.
    pub fn is_present(&self) -> bool {
        self.group.lock().record(self).is_some()
    }
}

pub(crate) fn removed() -> HardwareError {
    HardwareError::new(Errno::ENODEV, "the device was removed")
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Member({}, group {})", self.endpoint.name, self.group.id())
    }
}

/// A member that its IOMMU serves until this is dropped: [`IommuDriver::release`] is called once after each successful probe.
pub(crate) struct Served(Arc<Member>);

impl Served {
    /// Asks the IOMMU to serve a device, which is to be in this place of a group. Called with no spinning lock held.
    pub(crate) fn probe(
        endpoint: &Endpoint,
        faults: Arc<dyn FaultSink>,
        group: &Arc<Group>,
        place: Place,
    ) -> Result<Self, HardwareError> {
        let (group, endpoint) = (group.clone(), endpoint.clone());
        let properties = group.unit().driver().probe(&endpoint, faults)?;
        Ok(Self(Arc::new(Member { group, place, endpoint, properties })))
    }

    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.0
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.served_by().release(&self.0.endpoint);
    }
}
