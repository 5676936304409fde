//! An IOMMU, and a user's memory, that fail when they are told to.

mod memory;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use device_model::Errno;
use device_model::sync::{Arc, Mutex};

use crate::address::{Access, Geometry, Iova, PhysAddr};
use crate::hardware::{
    Description, DirtyRead, DirtyTracking, DomainKind, Endpoint, EndpointProperties, HardwareDomain, HardwareError,
    IommuDriver, PageAnswer, PageRequestSink, PagingFeatures, UserData,
};

pub use memory::FailingMemory;

/// Wraps an IOMMU and makes calls of it fail before they reach it, so that every way back can be tested.
///
/// Calls that can fail are counted, but for the description and what is read or invalidated. One that is made to fail never
/// reaches the IOMMU below, so it has no effect; all others, and the calls that cannot fail, go through unchanged.
#[derive(Debug)]
pub struct FailingIommu {
    inner: Arc<dyn IommuDriver>,
    plan: Arc<Plan>,
}

/// A call that can fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// [`IommuDriver::probe`].
    Probe,
    /// [`IommuDriver::allocate`] of a domain of this kind.
    Allocate(DomainKind),
    /// [`HardwareDomain::attach`] to a domain of this kind.
    Attach(DomainKind),
    /// [`HardwareDomain::attach_pasid`] to a domain of this kind.
    AttachPasid(DomainKind),
    /// [`HardwareDomain::map`].
    Map,
    /// [`HardwareDomain::enforce_coherency`].
    EnforceCoherency,
    /// [`HardwareDomain::set_dirty_tracking`].
    SetDirtyTracking,
    /// [`IommuDriver::enable_page_requests`].
    EnablePageRequests,
}

/// A call that was made to fail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailedCall {
    /// Its number among all calls that can fail, from 0.
    pub number: u64,
    /// What it was to do.
    pub operation: Operation,
    /// To which device; a map concerns none.
    pub device: Option<Endpoint>,
    /// What it failed with.
    pub error: HardwareError,
}

impl FailingIommu {
    /// Fails nothing yet. Its domains wrap those of `inner`.
    pub fn new(inner: Arc<dyn IommuDriver>) -> Arc<Self> {
        Arc::new(Self { inner, plan: Arc::default() })
    }

    /// Makes the call fail that comes after `n` others, counted from now; just that one. Several can be told to fail.
    pub fn fail_nth(&self, n: u64, error: HardwareError) {
        let mut orders = self.plan.0.lock();
        let number = orders.calls.saturating_add(n);
        orders.failures.insert(number, error);
    }

    /// Makes every attach of the device of this name to a domain of `kind`, or of any kind, fail with `EIO`, until
    /// [`heal`](Self::heal). Attaching a PASID is not meant.
    pub fn refuse_attach(&self, device: impl Into<Arc<str>>, kind: Option<DomainKind>) {
        self.plan.0.lock().refusals.push((device.into(), kind));
    }

    /// Takes back all that was told to fail.
    pub fn heal(&self) {
        let mut orders = self.plan.0.lock();
        orders.failures.clear();
        orders.refusals.clear();
    }

    /// How many calls that can fail were made so far, those that did fail included.
    pub fn calls(&self) -> u64 {
        self.plan.0.lock().calls
    }

    /// The last call that was made to fail, if any; not one that the IOMMU below failed.
    pub fn last_failed(&self) -> Option<FailedCall> {
        self.plan.0.lock().last_failed.clone()
    }
}

/// What is to fail, shared by an IOMMU and its domains. The lock is held for no call to the IOMMU below.
#[derive(Debug, Default)]
struct Plan(Mutex<Orders>);

#[derive(Debug, Default)]
struct Orders {
    calls: u64,
    failures: BTreeMap<u64, HardwareError>,
    refusals: Vec<(Arc<str>, Option<DomainKind>)>,
    last_failed: Option<FailedCall>,
}

impl Plan {
    /// Counts a call; whether it is to go through.
    fn admit(&self, operation: Operation, device: Option<&Endpoint>) -> Result<(), HardwareError> {
        let mut orders = self.0.lock();
        let number = orders.calls;
        orders.calls += 1;
        let error = orders.failures.remove(&number).or_else(|| orders.refusal(operation, device));
        let Some(error) = error else { return Ok(()) };
        orders.last_failed = Some(FailedCall { number, operation, device: device.cloned(), error: error.clone() });
        Err(error)
    }
}

impl Orders {
    fn refusal(&self, operation: Operation, device: Option<&Endpoint>) -> Option<HardwareError> {
        let (Operation::Attach(to), Some(device)) = (operation, device) else { return None };
        let refused =
            self.refusals.iter().any(|(name, kind)| *name == device.name && kind.is_none_or(|kind| kind == to));
        refused.then(|| HardwareError::new(Errno::EIO, alloc::format!("{} refuses {to} domains", device.name)))
    }
}

impl IommuDriver for FailingIommu {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn probe(&self, dev: &Endpoint) -> Result<EndpointProperties, HardwareError> {
        self.plan.admit(Operation::Probe, Some(dev))?;
        self.inner.probe(dev)
    }

    fn release(&self, dev: &Endpoint) {
        self.inner.release(dev);
    }

    fn allocate(&self, kind: DomainKind, dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        self.plan.admit(Operation::Allocate(kind), Some(dev))?;
        let inner = self.inner.allocate(kind, dev)?;
        Ok(Box::new(FailingDomain { inner, kind, plan: self.plan.clone() }))
    }

    fn allocate_for_user(
        &self,
        features: PagingFeatures,
        data: Option<UserData<'_>>,
        dev: &Endpoint,
    ) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        let kind = DomainKind::Paging;
        self.plan.admit(Operation::Allocate(kind), Some(dev))?;
        let inner = self.inner.allocate_for_user(features, data, dev)?;
        Ok(Box::new(FailingDomain { inner, kind, plan: self.plan.clone() }))
    }

    fn describe(&self, dev: &Endpoint) -> Result<Description, HardwareError> {
        self.inner.describe(dev)
    }

    fn enable_page_requests(&self, dev: &Endpoint, sink: Arc<dyn PageRequestSink>) -> Result<(), HardwareError> {
        self.plan.admit(Operation::EnablePageRequests, Some(dev))?;
        self.inner.enable_page_requests(dev, sink)
    }

    fn disable_page_requests(&self, dev: &Endpoint) {
        self.inner.disable_page_requests(dev);
    }

    fn answer_page_request(&self, dev: &Endpoint, pasid: Option<u32>, index: u32, answer: PageAnswer) {
        self.inner.answer_page_request(dev, pasid, index, answer);
    }

    fn block(&self, dev: &Endpoint) {
        self.inner.block(dev);
    }
}

#[derive(Debug)]
struct FailingDomain {
    inner: Box<dyn HardwareDomain>,
    kind: DomainKind,
    plan: Arc<Plan>,
}

impl HardwareDomain for FailingDomain {
    fn attach(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        self.plan.admit(Operation::Attach(self.kind), Some(dev))?;
        self.inner.attach(dev)
    }

    fn attach_pasid(&self, dev: &Endpoint, pasid: u32) -> Result<(), HardwareError> {
        self.plan.admit(Operation::AttachPasid(self.kind), Some(dev))?;
        self.inner.attach_pasid(dev, pasid)
    }

    fn detach_pasid(&self, dev: &Endpoint, pasid: u32) {
        self.inner.detach_pasid(dev, pasid);
    }

    fn geometry(&self) -> Option<Geometry> {
        self.inner.geometry()
    }

    fn map(&self, iova: Iova, phys: PhysAddr, size: u64, access: Access) -> Result<(), HardwareError> {
        self.plan.admit(Operation::Map, None)?;
        self.inner.map(iova, phys, size, access)
    }

    fn unmap(&self, iova: Iova, size: u64) -> u64 {
        self.inner.unmap(iova, size)
    }

    fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        self.inner.translate(iova)
    }

    fn enforce_coherency(&self) -> Result<(), HardwareError> {
        self.plan.admit(Operation::EnforceCoherency, None)?;
        self.inner.enforce_coherency()
    }

    fn set_dirty_tracking(&self, tracking: DirtyTracking) -> Result<(), HardwareError> {
        self.plan.admit(Operation::SetDirtyTracking, None)?;
        self.inner.set_dirty_tracking(tracking)
    }

    fn read_dirty(
        &self,
        iova: Iova,
        size: u64,
        read: DirtyRead,
        dirty: &mut dyn FnMut(Iova, u64),
    ) -> Result<(), HardwareError> {
        self.inner.read_dirty(iova, size, read, dirty)
    }

    fn nest(&self, data: UserData<'_>, dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        let kind = DomainKind::Nested;
        self.plan.admit(Operation::Allocate(kind), Some(dev))?;
        let inner = self.inner.nest(data, dev)?;
        Ok(Box::new(FailingDomain { inner, kind, plan: self.plan.clone() }))
    }

    fn invalidate(&self, entry: UserData<'_>) -> Result<(), HardwareError> {
        self.inner.invalidate(entry)
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
