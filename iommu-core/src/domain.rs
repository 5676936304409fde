//! Domains: what devices can reach.

use alloc::boxed::Box;
use alloc::sync::Arc;

use device_model::Errno;

use crate::address::{Iova, IovaRange};
use crate::hardware::{
    DirtyFlags, DirtyTracking, DomainKind, Endpoint, Gather, HardwareDomain, HardwareError, IommuDriver, PagingFlags,
    UserData,
};
use crate::member::Member;

/// A set of translations that devices can be attached to.
#[derive(Debug)]
pub struct Domain {
    kind: DomainKind,
    iommu: Arc<dyn IommuDriver>,
    hardware: Box<dyn HardwareDomain>,
    /// What a nested domain leads into; dropped after it.
    parent: Option<Arc<Self>>,
}

impl Domain {
    pub(crate) fn allocate(
        kind: DomainKind,
        iommu: &Arc<dyn IommuDriver>,
        representative: &Endpoint,
    ) -> Result<Arc<Self>, HardwareError> {
        let hardware = iommu.allocate(kind, representative)?;
        Ok(Arc::new(Self { kind, iommu: iommu.clone(), hardware, parent: None }))
    }

    /// The blocking domain: a driver without one gets an empty paging domain in its place (It4.2).
    pub(crate) fn allocate_blocking(
        iommu: &Arc<dyn IommuDriver>,
        representative: &Endpoint,
    ) -> Result<Arc<Self>, HardwareError> {
        let hardware = iommu
            .allocate(DomainKind::Blocking, representative)
            .or_else(|_| iommu.allocate(DomainKind::Paging, representative))?;
        Ok(Arc::new(Self { kind: DomainKind::Blocking, iommu: iommu.clone(), hardware, parent: None }))
    }

    /// A paging domain that can do more, or that user space describes.
    pub(crate) fn allocate_for_user(
        iommu: &Arc<dyn IommuDriver>,
        flags: PagingFlags,
        data: Option<UserData<'_>>,
        representative: &Endpoint,
    ) -> Result<Arc<Self>, HardwareError> {
        if flags.is_empty() && data.is_none() {
            return Self::allocate(DomainKind::Paging, iommu, representative);
        }
        let hardware = iommu.allocate_for_user(flags, data, representative)?;
        Ok(Arc::new(Self { kind: DomainKind::Paging, iommu: iommu.clone(), hardware, parent: None }))
    }

    /// A domain of `device`'s IOMMU with page tables of user space, nested on this one, which lives as long (Ft11.13).
    /// Takes the group lock.
    ///
    /// # Errors
    /// `EINVAL` when this is no paging domain, or one of another IOMMU than the device's; else the driver's.
    pub fn nest(self: &Arc<Self>, device: &Member, data: UserData<'_>) -> Result<Arc<Self>, HardwareError> {
        let served = device.iommu().is_some_and(|iommu| Arc::ptr_eq(&iommu, &self.iommu));
        if self.kind != DomainKind::Paging || !served {
            return Err(HardwareError::new(Errno::EINVAL, "the parent is no paging domain of the device's IOMMU"));
        }
        let none = HardwareError::new(Errno::EINVAL, "the domain was not made to be a parent");
        let hardware = self.hardware.nesting_parent().ok_or(none)?.nest(data, device.endpoint())?;
        let parent = Some(self.clone());
        Ok(Arc::new(Self { kind: DomainKind::Nested, iommu: self.iommu.clone(), hardware, parent }))
    }

    /// What a nested domain leads into.
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    fn dirty_tracking(&self) -> Result<&dyn DirtyTracking, HardwareError> {
        let none = HardwareError::new(Errno::EOPNOTSUPP, "the domain does not track dirty pages");
        self.hardware.dirty_tracking().ok_or(none)
    }

    /// Begins to track which pages are written; none is dirty at first.
    ///
    /// # Errors
    /// The driver's; `EOPNOTSUPP` when it cannot.
    pub fn start_dirty_tracking(&self) -> Result<(), HardwareError> {
        let tracking = self.dirty_tracking()?;
        if let Some(all) = self.geometry().and_then(|geometry| IovaRange::new(geometry.first, geometry.last)) {
            self.read_dirty(all, DirtyFlags::empty(), |_, _| {})?;
        }
        tracking.start()
    }

    /// Ends tracking.
    ///
    /// # Errors
    /// The driver's; `EOPNOTSUPP` when it cannot.
    pub fn stop_dirty_tracking(&self) -> Result<(), HardwareError> {
        self.dirty_tracking()?.stop()
    }

    /// Calls `dirty` with each page of `range` that was written, as [`DirtyTracking::read`] does, and flushes what was
    /// cleared.
    ///
    /// # Errors
    /// The driver's; `EOPNOTSUPP` when it cannot.
    pub fn read_dirty(
        &self,
        range: IovaRange,
        flags: DirtyFlags,
        mut dirty: impl FnMut(Iova, u64),
    ) -> Result<(), HardwareError> {
        let mut gather = Gather::new();
        let read = self.dirty_tracking()?.read(range, flags, &mut gather, &mut dirty);
        self.flush(gather)?;
        read
    }

    /// Drops what a nested domain has cached of the page tables of user space, as [`Nested::invalidate`] does.
    ///
    /// # Errors
    /// The driver's; `EOPNOTSUPP` when the domain is not nested.
    pub fn invalidate(&self, entry: UserData<'_>) -> Result<(), HardwareError> {
        let none = HardwareError::new(Errno::EOPNOTSUPP, "the domain is not nested");
        self.hardware.nested().ok_or(none)?.invalidate(entry)
    }

    /// What the domain is for.
    pub fn kind(&self) -> DomainKind {
        self.kind
    }

    /// Returns whether devices of `unit` can be attached: those of the unit that made the domain, and of others that
    /// [accept](IommuDriver::accepts) it.
    pub(crate) fn fits(&self, unit: &Arc<dyn IommuDriver>) -> bool {
        Arc::ptr_eq(unit, &self.iommu) || unit.accepts(&*self.iommu)
    }

    /// The IOMMU whose devices can be attached.
    pub fn iommu(&self) -> &Arc<dyn IommuDriver> {
        &self.iommu
    }

    pub(crate) fn hardware(&self) -> &dyn HardwareDomain {
        &*self.hardware
    }

    pub(crate) fn attach(&self, endpoint: &Endpoint) -> Result<(), HardwareError> {
        self.hardware.attach(endpoint)
    }

    pub(crate) fn attach_pasid(&self, endpoint: &Endpoint, pasid: u32) -> Result<(), HardwareError> {
        self.hardware.attach_pasid(endpoint, pasid)
    }

    pub(crate) fn detach_pasid(&self, endpoint: &Endpoint, pasid: u32) {
        self.hardware.detach_pasid(endpoint, pasid);
    }
}
