//! The domains of a software IOMMU.

use device_model::Errno;
use device_model::sync::{Arc, LockClass, Mutex};

use super::FaultReason;
use super::context::ContextTable;
use super::page_table::{PageTable, TableFormat, Translation};
use crate::address::{Access, Geometry, Iova, PhysAddr};
use crate::hardware::{DomainKind, Endpoint, HardwareDomain, HardwareError};

const PAGE_TABLES: LockClass = LockClass::new("page tables of a domain", 920);

/// What a domain does to an address.
#[derive(Debug)]
pub(super) enum Translator {
    Blocking,
    Identity,
    Paging { format: TableFormat, pages: Mutex<PageTable> },
}

impl Translator {
    pub(super) fn new(kind: DomainKind, format: TableFormat) -> Self {
        match kind {
            DomainKind::Blocking => Self::Blocking,
            DomainKind::Identity => Self::Identity,
            DomainKind::Dma | DomainKind::DmaLazy | DomainKind::Paging => {
                Self::Paging { format, pages: Mutex::of(PAGE_TABLES, PageTable::new(format)) }
            }
        }
    }

    /// Runs `touch` with the place where an access to `iova` goes, which stays mapped meanwhile.
    pub(super) fn with_translation<R>(
        &self,
        iova: Iova,
        wanted: Access,
        touch: impl FnOnce(Translation) -> R,
    ) -> Result<R, FaultReason> {
        match self {
            Self::Blocking => Err(FaultReason::Blocked),
            Self::Identity => {
                let remaining = (u64::MAX - iova.get()).saturating_add(1);
                Ok(touch(Translation { phys: PhysAddr::new(iova.get()), remaining, access: Access::ReadWrite }))
            }
            Self::Paging { pages, .. } => {
                let pages = pages.lock();
                pages.translate(iova, wanted).map(touch)
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
}

impl HardwareDomain for SoftDomain {
    fn attach(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        self.contexts.change(dev, |context| context.attach(self.translator.clone()))
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
            Translator::Blocking | Translator::Identity => None,
        }
    }

    fn map(&self, iova: Iova, phys: PhysAddr, size: u64, access: Access) -> Result<(), HardwareError> {
        match &*self.translator {
            Translator::Paging { pages, .. } => Ok(pages.lock().map(iova, phys, size, access)?),
            Translator::Blocking | Translator::Identity => {
                Err(HardwareError::new(Errno::EINVAL, "the domain has no page tables"))
            }
        }
    }

    fn unmap(&self, iova: Iova, size: u64) -> u64 {
        match &*self.translator {
            Translator::Paging { pages, .. } => pages.lock().unmap(iova, size),
            Translator::Blocking | Translator::Identity => 0,
        }
    }

    fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        match &*self.translator {
            Translator::Paging { pages, .. } => pages.lock().lookup(iova).ok().map(|translation| translation.phys),
            Translator::Identity => Some(PhysAddr::new(iova.get())),
            Translator::Blocking => None,
        }
    }
}
