//! Fault injection for IOMMUs and user memory: calls fail or panic on command.

mod memory;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::any::Any;

use device_model::Errno;
use device_model::sync::{Arc, SpinMutex};

use crate::address::{Geometry, Iova, IovaRange, PhysAddr, PhysRun, Protection};
use crate::hardware::{
    Description, DirtyFlags, DirtyPages, DirtyTracking, DomainKind, Endpoint, EndpointProperties, FaultSink, Gather,
    HardwareDomain, HardwareError, IommuDriver, Nested, NestingParent, PageAnswer, PageRequestSink, PageRequests,
    Paging, PagingFlags, UserData,
};

pub use memory::FailingMemory;

/// Wraps an IOMMU and injects errors and panics into its calls, so that every rollback can be tested.
///
/// Counts all calls except those without an effect on attachments or mappings: descriptions, translations, reads and
/// invalidations. A call that fails or panics by injection does not reach the wrapped IOMMU, so it has no effect; all
/// others are forwarded unchanged. Several injections can be active at once.
#[derive(Debug)]
pub struct FailingIommu {
    inner: Arc<dyn IommuDriver>,
    plan: Arc<Plan>,
}

/// A call that is counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// [`IommuDriver::probe`].
    Probe,
    /// [`IommuDriver::release`], which can only panic.
    Release,
    /// [`IommuDriver::block`].
    Block,
    /// [`IommuDriver::allocate`] of a domain of this kind.
    Allocate(DomainKind),
    /// [`HardwareDomain::attach`] to a domain of this kind.
    Attach(DomainKind),
    /// [`HardwareDomain::attach_pasid`] to a domain of this kind.
    AttachPasid(DomainKind),
    /// [`HardwareDomain::detach_pasid`] from a domain of this kind, which can only panic.
    DetachPasid(DomainKind),
    /// [`Paging::map_pages`], which [`Paging::map_runs`] calls for each run.
    Map,
    /// [`Paging::unmap_pages`].
    Unmap,
    /// [`Paging::flush`] and [`Paging::flush_all`].
    Flush,
    /// [`Paging::enforce_coherency`].
    EnforceCoherency,
    /// [`DirtyTracking::start`].
    StartDirtyTracking,
    /// [`DirtyTracking::stop`].
    StopDirtyTracking,
    /// [`PageRequests::enable`].
    EnablePageRequests,
    /// [`PageRequests::disable`], which can only panic.
    DisablePageRequests,
}

impl Operation {
    /// Returns whether the call can return an error.
    pub const fn can_fail(self) -> bool {
        !matches!(self, Self::Release | Self::DetachPasid(_) | Self::DisablePageRequests)
    }
}

/// A call that failed or panicked by injection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailedCall {
    /// Number of the call, from 0: among those that can fail, or among all of them if it panicked.
    pub number: u32,
    /// The operation.
    pub operation: Operation,
    /// The device; `None` for a call that concerns a domain only.
    pub device: Option<Endpoint>,
    /// The injected error; `None` for a panic, or an unmap that unmapped nothing.
    pub error: Option<HardwareError>,
}

impl FailingIommu {
    /// Wraps `inner` without injections. Domains that it allocates are wrapped as well.
    pub fn new(inner: Arc<dyn IommuDriver>) -> Arc<Self> {
        Arc::new(Self { inner, plan: Arc::default() })
    }

    /// Injects `error` into the call that comes after `n` others that [can fail](Operation::can_fail), counted from
    /// now. May be called several times.
    pub fn fail_nth(&self, n: u32, error: HardwareError) {
        let mut orders = self.plan.0.lock();
        let number = orders.fallible.saturating_add(n);
        orders.failures.insert(number, error);
    }

    /// Injects a panic into the call that comes after `n` others of any kind, counted from now.
    pub fn panic_nth(&self, n: u32) {
        let mut orders = self.plan.0.lock();
        let number = orders.all.saturating_add(n);
        orders.panics.insert(number);
    }

    /// Lets the call that comes after `n` others that can fail, counted from now, unmap nothing if it is an unmap, as at a
    /// hole: the range is unmapped short. May be called several times.
    pub fn shorten_nth(&self, n: u32) {
        let mut orders = self.plan.0.lock();
        let number = orders.fallible.saturating_add(n);
        orders.short.insert(number);
    }

    /// Lets every attach of the device of this name to a domain of `kind`, or of any kind, fail with `EIO`, until
    /// [`heal`](Self::heal). Attaching a PASID is not affected.
    pub fn refuse_attach(&self, device: impl Into<Arc<str>>, kind: Option<DomainKind>) {
        self.plan.0.lock().refused_attaches.push((device.into(), kind));
    }

    /// Lets every call of this kind fail with `EIO`, until [`heal`](Self::heal).
    pub fn refuse(&self, operation: Operation) {
        self.plan.0.lock().refused.push(operation);
    }

    /// Removes all injections.
    pub fn heal(&self) {
        let mut orders = self.plan.0.lock();
        let Orders { fallible, all, .. } = *orders;
        let last_failed = orders.last_failed.take();
        *orders = Orders { fallible, all, last_failed, ..Orders::default() };
    }

    /// Returns how many calls that can fail were made so far, failed ones included.
    pub fn calls(&self) -> u32 {
        self.plan.0.lock().fallible
    }

    /// Returns how many calls of any kind were made so far.
    pub fn all_calls(&self) -> u32 {
        self.plan.0.lock().all
    }

    /// Returns the last call that failed or panicked by injection; not one that the wrapped IOMMU failed.
    pub fn last_failed(&self) -> Option<FailedCall> {
        self.plan.0.lock().last_failed.clone()
    }
}

/// What is to fail, shared by an IOMMU and its domains. The lock is held for no call to the IOMMU below.
#[derive(Debug, Default)]
struct Plan(SpinMutex<Orders>);

#[derive(Debug, Default)]
struct Orders {
    fallible: u32,
    all: u32,
    failures: BTreeMap<u32, HardwareError>,
    panics: BTreeSet<u32>,
    short: BTreeSet<u32>,
    refused_attaches: Vec<(Arc<str>, Option<DomainKind>)>,
    refused: Vec<Operation>,
    last_failed: Option<FailedCall>,
}

impl Plan {
    /// Counts a call; if it is to go through, how many that can fail came before.
    fn admit(&self, operation: Operation, device: Option<&Endpoint>) -> Result<u32, HardwareError> {
        let mut orders = self.0.lock();
        let Orders { fallible, all, .. } = *orders;
        orders.all = all.wrapping_add(1);
        let panics = orders.panics.remove(&all);
        let error = if operation.can_fail() {
            orders.fallible = fallible.wrapping_add(1);
            orders.failures.remove(&fallible).or_else(|| orders.refusal(operation, device)).filter(|_| !panics)
        } else {
            None
        };
        if !panics && error.is_none() {
            return Ok(fallible);
        }
        let number = if panics { all } else { fallible };
        orders.last_failed = Some(FailedCall { number, operation, device: device.cloned(), error: error.clone() });
        drop(orders);
        #[expect(clippy::panic, reason = "a test ordered it")]
        error.map_or_else(|| panic!("call {number} was told to panic: {operation:?}"), Err)
    }

    /// As [`admit`](Self::admit), of an unmap, which may also be told to unmap nothing.
    fn admit_unmap(&self) -> Result<Extent, HardwareError> {
        let number = self.admit(Operation::Unmap, None)?;
        let mut orders = self.0.lock();
        if !orders.short.remove(&number) {
            return Ok(Extent::Whole);
        }
        orders.last_failed = Some(FailedCall { number, operation: Operation::Unmap, device: None, error: None });
        Ok(Extent::Nothing)
    }

    /// As [`admit`](Self::admit), of a call that cannot fail.
    fn pass(&self, operation: Operation, device: &Endpoint) {
        let _ = self.admit(operation, Some(device));
    }
}

/// How much of what it was asked for a call does.
enum Extent {
    Whole,
    Nothing,
}

impl Orders {
    fn refusal(&self, operation: Operation, device: Option<&Endpoint>) -> Option<HardwareError> {
        let attach_refused = || {
            let (Operation::Attach(to), Some(device)) = (operation, device) else { return false };
            self.refused_attaches.iter().any(|(name, kind)| *name == device.name && kind.is_none_or(|kind| kind == to))
        };
        let refused = self.refused.contains(&operation) || attach_refused();
        refused.then(|| HardwareError::new(Errno::EIO, "the IOMMU was told to refuse"))
    }
}

impl IommuDriver for FailingIommu {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn probe(&self, dev: &Endpoint, faults: Arc<dyn FaultSink>) -> Result<EndpointProperties, HardwareError> {
        self.plan.admit(Operation::Probe, Some(dev))?;
        self.inner.probe(dev, faults)
    }

    fn release(&self, dev: &Endpoint) {
        self.plan.pass(Operation::Release, dev);
        self.inner.release(dev);
    }

    fn allocate(&self, kind: DomainKind, dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        self.plan.admit(Operation::Allocate(kind), Some(dev))?;
        let inner = self.inner.allocate(kind, dev)?;
        Ok(Box::new(FailingDomain { inner, kind, plan: self.plan.clone() }))
    }

    fn allocate_for_user(
        &self,
        flags: PagingFlags,
        data: Option<UserData<'_>>,
        dev: &Endpoint,
    ) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        let kind = DomainKind::Paging;
        self.plan.admit(Operation::Allocate(kind), Some(dev))?;
        let inner = self.inner.allocate_for_user(flags, data, dev)?;
        Ok(Box::new(FailingDomain { inner, kind, plan: self.plan.clone() }))
    }

    fn describe(&self, dev: &Endpoint) -> Result<Description, HardwareError> {
        self.inner.describe(dev)
    }

    fn page_requests(&self) -> Option<&dyn PageRequests> {
        self.inner.page_requests().map(|_| self as &dyn PageRequests)
    }

    fn accepts(&self, maker: &dyn IommuDriver) -> bool {
        let any: &dyn Any = maker;
        let maker = any.downcast_ref::<Self>().map_or(maker, |wrapped| &*wrapped.inner);
        core::ptr::addr_eq(maker, &raw const *self.inner) || self.inner.accepts(maker)
    }

    fn block(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        self.plan.admit(Operation::Block, Some(dev))?;
        self.inner.block(dev)
    }
}

impl PageRequests for FailingIommu {
    fn enable(&self, dev: &Endpoint, sink: Arc<dyn PageRequestSink>) -> Result<(), HardwareError> {
        self.plan.admit(Operation::EnablePageRequests, Some(dev))?;
        self.inner.page_requests().ok_or_else(no_role)?.enable(dev, sink)
    }

    fn disable(&self, dev: &Endpoint) {
        self.plan.pass(Operation::DisablePageRequests, dev);
        if let Some(requests) = self.inner.page_requests() {
            requests.disable(dev);
        }
    }

    fn answer(&self, dev: &Endpoint, pasid: Option<u32>, index: u32, answer: PageAnswer) {
        if let Some(requests) = self.inner.page_requests() {
            requests.answer(dev, pasid, index, answer);
        }
    }
}

/// For a role that is not there; nobody gets to the call, for the accessor of the role says so.
fn no_role() -> HardwareError {
    HardwareError::new(Errno::EOPNOTSUPP, "the IOMMU below has no such role")
}

#[derive(Debug)]
struct FailingDomain {
    inner: Box<dyn HardwareDomain>,
    kind: DomainKind,
    plan: Arc<Plan>,
}

impl FailingDomain {
    fn inner_paging(&self) -> Result<&dyn Paging, HardwareError> {
        self.inner.paging().ok_or_else(no_role)
    }

    fn inner_dirty_tracking(&self) -> Result<&dyn DirtyTracking, HardwareError> {
        self.inner.dirty_tracking().ok_or_else(no_role)
    }
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
        self.plan.pass(Operation::DetachPasid(self.kind), dev);
        self.inner.detach_pasid(dev, pasid);
    }

    fn paging(&self) -> Option<&dyn Paging> {
        self.inner.paging().map(|_| self as &dyn Paging)
    }

    fn dirty_tracking(&self) -> Option<&dyn DirtyTracking> {
        self.inner.dirty_tracking().map(|_| self as &dyn DirtyTracking)
    }

    fn nesting_parent(&self) -> Option<&dyn NestingParent> {
        self.inner.nesting_parent().map(|_| self as &dyn NestingParent)
    }

    fn nested(&self) -> Option<&dyn Nested> {
        self.inner.nested()
    }
}

impl Paging for FailingDomain {
    fn geometry(&self) -> Geometry {
        self.inner.paging().map_or(Geometry::NOTHING, Paging::geometry)
    }

    fn map_pages(
        &self,
        iova: Iova,
        phys: PhysAddr,
        page_size: u64,
        count: usize,
        protection: Protection,
    ) -> Result<usize, HardwareError> {
        self.plan.admit(Operation::Map, None)?;
        self.inner_paging()?.map_pages(iova, phys, page_size, count, protection)
    }

    fn sync_map(&self, range: IovaRange) -> Result<(), HardwareError> {
        self.inner_paging()?.sync_map(range)
    }

    fn unmap_pages(&self, iova: Iova, page_size: u64, count: usize, gather: &mut Gather) -> Result<u64, HardwareError> {
        match self.plan.admit_unmap()? {
            Extent::Whole => {
                let unmapped = self.inner_paging()?.unmap_pages(iova, page_size, count, gather)?;
                // Whatever the wrapped IOMMU has cached, the flush can fail.
                if let Some(range) = IovaRange::sized(iova, unmapped) {
                    gather.add(range, page_size);
                }
                Ok(unmapped)
            }
            Extent::Nothing => Ok(0),
        }
    }

    fn flush(&self, gather: &Gather) -> Result<(), HardwareError> {
        self.plan.admit(Operation::Flush, None)?;
        self.inner_paging()?.flush(gather)
    }

    fn flush_all(&self) -> Result<(), HardwareError> {
        self.plan.admit(Operation::Flush, None)?;
        self.inner_paging()?.flush_all()
    }

    fn iova_to_phys(&self, iova: Iova) -> Option<PhysAddr> {
        self.inner.paging()?.iova_to_phys(iova)
    }

    fn iova_to_run(&self, range: IovaRange) -> Option<PhysRun> {
        self.inner.paging()?.iova_to_run(range)
    }

    fn enforce_coherency(&self) -> Result<(), HardwareError> {
        self.plan.admit(Operation::EnforceCoherency, None)?;
        self.inner_paging()?.enforce_coherency()
    }
}

impl DirtyTracking for FailingDomain {
    fn start(&self) -> Result<(), HardwareError> {
        self.plan.admit(Operation::StartDirtyTracking, None)?;
        self.inner_dirty_tracking()?.start()
    }

    fn stop(&self) -> Result<(), HardwareError> {
        self.plan.admit(Operation::StopDirtyTracking, None)?;
        self.inner_dirty_tracking()?.stop()
    }

    fn read(
        &self,
        range: IovaRange,
        flags: DirtyFlags,
        gather: &mut Gather,
        dirty: &mut dyn FnMut(DirtyPages),
    ) -> Result<(), HardwareError> {
        self.inner_dirty_tracking()?.read(range, flags, gather, dirty)
    }
}

impl NestingParent for FailingDomain {
    fn nest(&self, data: UserData<'_>, dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        let kind = DomainKind::Nested;
        self.plan.admit(Operation::Allocate(kind), Some(dev))?;
        let inner = self.inner.nesting_parent().ok_or_else(no_role)?.nest(data, dev)?;
        Ok(Box::new(Self { inner, kind, plan: self.plan.clone() }))
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
