//! The domains of a software IOMMU.

use alloc::boxed::Box;

use device_model::Errno;
use device_model::sync::atomic::{AtomicBool, Ordering};
use device_model::sync::{Arc, LockClass, Mutex};

use super::context::ContextTable;
use super::nested::NestedTable;
use super::page_table::{PageTable, TableFormat, Translation};
use super::{FaultReason, Memory};
use crate::address::{Access, Geometry, Iova, PhysAddr};
use crate::hardware::{
    Capabilities, DirtyRead, DirtySupport, DirtyTracking, DomainKind, Endpoint, HardwareDomain, HardwareError, Nesting,
    PagingFeatures, UserData,
};

const PAGE_TABLES: LockClass = LockClass::new("page tables of a domain", 920);

/// What a domain does to an address.
#[derive(Debug)]
pub(super) enum Translator {
    Blocking,
    Identity,
    Paging { format: TableFormat, pages: Mutex<Pages> },
    Nested(NestedTable),
}

/// The page tables of a domain, and whether writes are noted in them.
#[derive(Debug)]
pub(super) struct Pages {
    table: PageTable,
    tracking: DirtyTracking,
}

impl Translator {
    pub(super) fn new(kind: DomainKind, format: TableFormat) -> Self {
        match kind {
            DomainKind::Blocking | DomainKind::Nested => Self::Blocking,
            DomainKind::Identity => Self::Identity,
            DomainKind::Dma | DomainKind::DmaLazy | DomainKind::Paging => {
                let pages = Pages { table: PageTable::new(format), tracking: DirtyTracking::Off };
                Self::Paging { format, pages: Mutex::of(PAGE_TABLES, pages) }
            }
        }
    }

    /// Runs `touch` with the place where an access to `iova` goes, which stays mapped meanwhile.
    pub(super) fn with_translation<R>(
        &self,
        iova: Iova,
        wanted: Access,
        memory: &Memory,
        touch: impl FnOnce(Translation) -> R,
    ) -> Result<R, FaultReason> {
        match self {
            Self::Nested(table) => table.with_translation(iova, wanted, memory, touch),
            Self::Blocking | Self::Identity | Self::Paging { .. } => self.with_paging(iova, wanted, touch),
        }
    }

    /// As [`with_translation`](Self::with_translation), of one stage: through a nested table nothing passes.
    pub(super) fn with_paging<R>(
        &self,
        iova: Iova,
        wanted: Access,
        touch: impl FnOnce(Translation) -> R,
    ) -> Result<R, FaultReason> {
        match self {
            Self::Blocking | Self::Nested(_) => Err(FaultReason::Blocked),
            Self::Identity => {
                let remaining = (u64::MAX - iova.get()).saturating_add(1);
                Ok(touch(Translation { phys: PhysAddr::new(iova.get()), remaining, access: Access::ReadWrite }))
            }
            Self::Paging { pages, .. } => {
                let mut pages = pages.lock();
                let translation = pages.table.translate(iova, wanted)?;
                if pages.tracking == DirtyTracking::On && wanted != Access::Read {
                    pages.table.mark_dirty(iova);
                }
                Ok(touch(translation))
            }
        }
    }
}

/// A domain, and the devices that can be attached to it.
#[derive(Debug)]
pub(super) struct SoftDomain {
    pub(super) translator: Arc<Translator>,
    pub(super) contexts: Arc<ContextTable>,
    pub(super) max_pasids: u32,
    pub(super) features: PagingFeatures,
    /// What the IOMMU can do.
    pub(super) capabilities: Capabilities,
    /// Whether only devices can be attached whose DMA can be kept coherent (F55).
    pub(super) coherent: AtomicBool,
}

impl SoftDomain {
    fn pages(&self) -> Result<&Mutex<Pages>, HardwareError> {
        match &*self.translator {
            Translator::Paging { pages, .. } => Ok(pages),
            _ => Err(HardwareError::new(Errno::EINVAL, "the domain has no page tables")),
        }
    }

    fn tracked(&self) -> Result<&Mutex<Pages>, HardwareError> {
        match self.features.dirty_tracking {
            DirtySupport::Required => self.pages(),
            DirtySupport::No => Err(HardwareError::new(Errno::EOPNOTSUPP, "the domain was not made to track writes")),
        }
    }
}

impl HardwareDomain for SoftDomain {
    fn attach(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        let wanted = if self.coherent.load(Ordering::Acquire) {
            Capabilities::ENFORCED_COHERENCY
        } else {
            Capabilities::default()
        };
        self.contexts.attach(dev, &self.translator, wanted)
    }

    fn attach_pasid(&self, dev: &Endpoint, pasid: u32) -> Result<(), HardwareError> {
        if self.max_pasids == 0 {
            return Err(HardwareError::new(Errno::EOPNOTSUPP, "the IOMMU has no PASIDs"));
        }
        if pasid == 0 || pasid >= self.max_pasids {
            return Err(HardwareError::new(Errno::EINVAL, "the device has no such PASID"));
        }
        self.contexts.change(dev, |context| context.attach_pasid(pasid, self.translator.clone()))
    }

    fn detach_pasid(&self, dev: &Endpoint, pasid: u32) {
        // A device that is not served has no PASID to detach.
        let _ = self.contexts.change(dev, |context| context.detach_pasid(pasid, &self.translator));
    }

    fn geometry(&self) -> Option<Geometry> {
        match &*self.translator {
            Translator::Paging { format, .. } => Some(format.geometry()),
            _ => None,
        }
    }

    fn map(&self, iova: Iova, phys: PhysAddr, size: u64, access: Access) -> Result<(), HardwareError> {
        Ok(self.pages()?.lock().table.map(iova, phys, size, access)?)
    }

    fn unmap(&self, iova: Iova, size: u64) -> u64 {
        self.pages().map_or(0, |pages| pages.lock().table.unmap(iova, size))
    }

    fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        match &*self.translator {
            Translator::Paging { pages, .. } => {
                pages.lock().table.lookup(iova).ok().map(|translation| translation.phys)
            }
            Translator::Identity => Some(PhysAddr::new(iova.get())),
            Translator::Blocking | Translator::Nested(_) => None,
        }
    }

    fn enforce_coherency(&self) -> Result<(), HardwareError> {
        if !self.capabilities.has(Capabilities::ENFORCED_COHERENCY) {
            return Err(HardwareError::new(Errno::EOPNOTSUPP, "the IOMMU cannot enforce coherency"));
        }
        self.coherent.store(true, Ordering::Release);
        Ok(())
    }

    fn set_dirty_tracking(&self, tracking: DirtyTracking) -> Result<(), HardwareError> {
        self.tracked()?.lock().tracking = tracking;
        Ok(())
    }

    fn read_dirty(
        &self,
        iova: Iova,
        size: u64,
        read: DirtyRead,
        dirty: &mut dyn FnMut(Iova, u64),
    ) -> Result<(), HardwareError> {
        self.tracked()?.lock().table.read_dirty(iova, size, read, dirty);
        Ok(())
    }

    fn nest(&self, data: UserData<'_>, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        if self.features.nesting == Nesting::No {
            return Err(HardwareError::new(Errno::EINVAL, "the domain was not made to be a parent"));
        }
        let table = NestedTable::new(self.translator.clone(), data)?;
        Ok(Box::new(Self {
            translator: Arc::new(Translator::Nested(table)),
            contexts: self.contexts.clone(),
            max_pasids: self.max_pasids,
            features: PagingFeatures::default(),
            capabilities: self.capabilities,
            coherent: AtomicBool::new(self.coherent.load(Ordering::Acquire)),
        }))
    }

    fn invalidate(&self, entry: UserData<'_>) -> Result<(), HardwareError> {
        match &*self.translator {
            Translator::Nested(table) => table.invalidate(entry),
            _ => Err(HardwareError::new(Errno::EOPNOTSUPP, "the domain is not nested")),
        }
    }
}
