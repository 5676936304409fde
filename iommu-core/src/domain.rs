//! Domains: what devices can reach.

use alloc::boxed::Box;
use alloc::sync::Arc;

use device_model::Errno;

use crate::address::{Access, Geometry, Iova, PhysAddr};
use crate::hardware::{
    DirtyRead, DirtyTracking, DomainKind, Endpoint, HardwareDomain, HardwareError, IommuDriver, PagingFeatures,
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
        features: PagingFeatures,
        data: Option<UserData<'_>>,
        representative: &Endpoint,
    ) -> Result<Arc<Self>, HardwareError> {
        if features.is_plain() && data.is_none() {
            return Self::allocate(DomainKind::Paging, iommu, representative);
        }
        let hardware = iommu.allocate_for_user(features, data, representative)?;
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
        let hardware = self.hardware.nest(data, device.endpoint())?;
        let parent = Some(self.clone());
        Ok(Arc::new(Self { kind: DomainKind::Nested, iommu: self.iommu.clone(), hardware, parent }))
    }

    /// What a nested domain leads into.
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// As [`HardwareDomain::enforce_coherency`].
    ///
    /// # Errors
    /// The driver's.
    pub fn enforce_coherency(&self) -> Result<(), HardwareError> {
        self.hardware.enforce_coherency()
    }

    /// Begins or ends to note which pages are written. It begins with no page noted (F57).
    ///
    /// # Errors
    /// The driver's; `EOPNOTSUPP` when it cannot.
    pub fn set_dirty_tracking(&self, tracking: DirtyTracking) -> Result<(), HardwareError> {
        if let (DirtyTracking::On, Some(geometry)) = (tracking, self.geometry()) {
            let all = geometry.last.get().saturating_sub(geometry.first.get()).saturating_add(1);
            self.hardware.read_dirty(geometry.first, all, DirtyRead::Clear, &mut |_, _| {})?;
        }
        self.hardware.set_dirty_tracking(tracking)
    }

    /// As [`HardwareDomain::read_dirty`].
    ///
    /// # Errors
    /// The driver's; `EOPNOTSUPP` when it cannot.
    pub fn read_dirty(
        &self,
        iova: Iova,
        size: u64,
        read: DirtyRead,
        mut dirty: impl FnMut(Iova, u64),
    ) -> Result<(), HardwareError> {
        self.hardware.read_dirty(iova, size, read, &mut dirty)
    }

    /// As [`HardwareDomain::invalidate`], for a nested domain.
    ///
    /// # Errors
    /// The driver's; `EOPNOTSUPP` when the domain is not nested.
    pub fn invalidate(&self, entry: UserData<'_>) -> Result<(), HardwareError> {
        self.hardware.invalidate(entry)
    }

    /// What the domain is for.
    pub fn kind(&self) -> DomainKind {
        self.kind
    }

    /// The IOMMU whose devices can be attached.
    pub fn iommu(&self) -> &Arc<dyn IommuDriver> {
        &self.iommu
    }

    /// What can be mapped; `None` without page tables.
    pub fn geometry(&self) -> Option<Geometry> {
        self.hardware.geometry()
    }

    /// Maps `size` bytes at `iova` to `phys` (I37). Takes locks of the IOMMU driver only.
    ///
    /// # Errors
    /// Nothing of the range is mapped then that was not before.
    pub fn map(&self, iova: Iova, phys: PhysAddr, size: u64, access: Access) -> Result<(), MapError> {
        let geometry = self.geometry().filter(|_| self.kind.is_paging()).ok_or(MapError::NotPaging(self.kind))?;
        let granule = geometry.page_sizes.smallest();
        if size == 0 || (iova.get() | phys.get() | size) & (granule - 1) != 0 {
            return Err(MapError::Misaligned { granule });
        }
        let last = iova.checked_add(size - 1).filter(|last| *last <= geometry.last && iova >= geometry.first);
        if last.is_none() || phys.checked_add(size - 1).is_none() {
            return Err(MapError::BeyondAperture { first: geometry.first, last: geometry.last });
        }
        self.hardware.map(iova, phys, size, access).map_err(MapError::Hardware)
    }

    /// Unmaps from `iova` on; how many bytes were unmapped: 0 when misaligned or without page tables, less than `size`
    /// when a hole was met, more when a large page lies across the end (I38).
    pub fn unmap(&self, iova: Iova, size: u64) -> u64 {
        match self.geometry() {
            Some(geometry)
                if self.kind.is_paging() && (iova.get() | size) & (geometry.page_sizes.smallest() - 1) == 0 =>
            {
                self.hardware.unmap(iova, size)
            }
            _ => 0,
        }
    }

    /// Where `iova` leads: nowhere in a blocking domain, to the same number in an identity domain (I39).
    pub fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        match self.kind {
            DomainKind::Blocking => None,
            DomainKind::Identity => Some(PhysAddr::new(iova.get())),
            _ => self.hardware.translate(iova),
        }
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

/// Why nothing was mapped.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The domain has no page tables.
    #[error("a domain of kind {0} cannot be mapped into")]
    NotPaging(DomainKind),
    /// An address or the size is not a multiple of the smallest page, or the size is 0.
    #[error("addresses and size must be multiples of {granule:#x}, and the size not 0")]
    Misaligned {
        /// The smallest page size.
        granule: u64,
    },
    /// The range leaves the addresses that the domain translates.
    #[error("the range leaves the aperture {first} to {last}")]
    BeyondAperture {
        /// Lowest address.
        first: Iova,
        /// Highest address, inclusive.
        last: Iova,
    },
    /// The IOMMU driver refused.
    #[error("the IOMMU refused the mapping")]
    Hardware(#[source] HardwareError),
}

impl MapError {
    /// `EINVAL`, or the driver's number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Hardware(error) => error.errno,
            _ => Errno::EINVAL,
        }
    }
}
