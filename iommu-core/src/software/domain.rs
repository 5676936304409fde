//! The domains of a software IOMMU.

use alloc::boxed::Box;

use device_model::Errno;
use device_model::sync::atomic::{AtomicBool, Ordering};
use device_model::sync::{Arc, LockClass, SpinMutex};

use super::nested::{self, NestedTable};
use super::page_table::{PageTable, TableFormat, Translation};
use super::tlb::Tlb;
use super::unit::{Unit, Units};
use super::{Memory, SoftIommuConfig};
use crate::address::{Access, Geometry, Iova, IovaRange, PhysAddr, Protection};
use crate::hardware::{
    Capabilities, DirtyFlags, DirtyTracking, DomainKind, Endpoint, FaultReason, Gather, HardwareDomain, HardwareError,
    Nested, NestingParent, Paging, PagingFlags, UserData,
};

const PAGE_TABLES: LockClass = LockClass::new("page tables of a domain", 920);

/// What a domain does to an address.
#[derive(Debug)]
pub(super) enum Translator {
    Blocking,
    Identity,
    Paging { format: TableFormat, pages: SpinMutex<Pages> },
    Nested(NestedTable),
}

/// The page tables of a domain, what is cached of them, and whether writes are tracked in them.
#[derive(Debug)]
pub(super) struct Pages {
    table: PageTable,
    tlb: Option<Tlb>,
    tracks_writes: bool,
}

impl Pages {
    fn translate(&mut self, iova: Iova, wanted: Access) -> Result<Translation, FaultReason> {
        let cached = self.tlb.as_ref().and_then(|tlb| tlb.lookup(iova));
        let (translation, was_dirty) = match cached {
            Some(cached) => cached,
            None => (self.table.lookup(iova)?, false),
        };
        if !translation.protection.permits(wanted) {
            return Err(FaultReason::NotPermitted);
        }
        let dirties = self.tracks_writes && wanted != Access::Read && !was_dirty;
        if dirties {
            self.table.mark_dirty(iova);
        }
        if let Some(tlb) = self.tlb.as_mut().filter(|_| dirties || cached.is_none()) {
            tlb.fill(iova, translation, dirties);
        }
        Ok(translation)
    }
}

impl Translator {
    pub(super) fn new(kind: DomainKind, config: &SoftIommuConfig) -> Self {
        match kind {
            DomainKind::Blocking | DomainKind::Nested => Self::Blocking,
            DomainKind::Identity => Self::Identity,
            DomainKind::Dma | DomainKind::DmaLazy | DomainKind::Paging => {
                let tlb = config.iotlb.then(Tlb::default);
                let pages = Pages { table: PageTable::new(config.format), tlb, tracks_writes: false };
                Self::Paging { format: config.format, pages: SpinMutex::of(PAGE_TABLES, pages) }
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
                let phys = PhysAddr::new(iova.get());
                Ok(touch(Translation { phys, remaining, page_size: 0, protection: Protection::all() }))
            }
            Self::Paging { pages, .. } => {
                let mut pages = pages.lock();
                let translation = pages.translate(iova, wanted)?;
                Ok(touch(translation))
            }
        }
    }

    /// The page tables, if there are any.
    fn pages(&self) -> Option<(TableFormat, &SpinMutex<Pages>)> {
        match self {
            Self::Paging { format, pages } => Some((*format, pages)),
            Self::Blocking | Self::Identity | Self::Nested(_) => None,
        }
    }
}

/// A domain, and the units whose devices can be attached to it.
#[derive(Debug)]
pub(super) struct SoftDomain {
    pub(super) translator: Arc<Translator>,
    pub(super) units: Arc<Units>,
    /// The number of the unit that made it.
    pub(super) unit: usize,
    pub(super) flags: PagingFlags,
    /// Whether only devices can be attached whose DMA can be kept coherent.
    // F55.
    pub(super) coherent: AtomicBool,
}

impl SoftDomain {
    /// The unit of `dev`, if the page tables of this domain are of a format that it walks.
    fn serving(&self, dev: &Endpoint) -> Result<&Unit, HardwareError> {
        let unit = self.units.serving(dev, self.unit);
        match self.translator.pages() {
            Some((format, _)) if format != unit.config.format => {
                Err(HardwareError::new(Errno::EINVAL, "the unit walks page tables of another format"))
            }
            _ => Ok(unit),
        }
    }
}

impl HardwareDomain for SoftDomain {
    fn attach(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        let wanted = if self.coherent.load(Ordering::Acquire) {
            Capabilities::ENFORCED_COHERENCY
        } else {
            Capabilities::empty()
        };
        self.serving(dev)?.contexts.attach(dev, &self.translator, wanted)
    }

    fn attach_pasid(&self, dev: &Endpoint, pasid: u32) -> Result<(), HardwareError> {
        let unit = self.serving(dev)?;
        if unit.config.max_pasids == 0 {
            return Err(HardwareError::new(Errno::EOPNOTSUPP, "the IOMMU has no PASIDs"));
        }
        if pasid == 0 || pasid >= unit.config.max_pasids {
            return Err(HardwareError::new(Errno::EINVAL, "the device has no such PASID"));
        }
        unit.contexts.change(dev, |context| context.attach_pasid(pasid, self.translator.clone()))
    }

    fn detach_pasid(&self, dev: &Endpoint, pasid: u32) {
        let unit = self.units.serving(dev, self.unit);
        // A device that is not served has no PASID to detach.
        let _ = unit.contexts.change(dev, |context| context.detach_pasid(pasid, &self.translator));
    }

    fn paging(&self) -> Option<&dyn Paging> {
        self.translator.pages().map(|_| self as &dyn Paging)
    }

    fn dirty_tracking(&self) -> Option<&dyn DirtyTracking> {
        self.flags.contains(PagingFlags::DIRTY_TRACKING).then_some(self)
    }

    fn nesting_parent(&self) -> Option<&dyn NestingParent> {
        self.flags.contains(PagingFlags::NEST_PARENT).then_some(self)
    }

    fn nested(&self) -> Option<&dyn Nested> {
        matches!(&*self.translator, Translator::Nested(_)).then_some(self)
    }
}

fn no_tables() -> HardwareError {
    HardwareError::new(Errno::EINVAL, "the domain has no page tables")
}

impl Paging for SoftDomain {
    fn geometry(&self) -> Geometry {
        self.translator.pages().map_or(TableFormat::X86_39, |(format, _)| format).geometry()
    }

    fn map_pages(
        &self,
        iova: Iova,
        phys: PhysAddr,
        page_size: u64,
        count: usize,
        protection: Protection,
    ) -> Result<usize, HardwareError> {
        let (_, pages) = self.translator.pages().ok_or_else(no_tables)?;
        Ok(pages.lock().table.map_pages(iova, phys, page_size, count, protection)?)
    }

    fn unmap_pages(&self, iova: Iova, page_size: u64, count: usize, gather: &mut Gather) -> Result<u64, HardwareError> {
        let (_, pages) = self.translator.pages().ok_or_else(no_tables)?;
        let unmapped = pages.lock().table.unmap(iova, page_size.saturating_mul(count as u64));
        if let Some(range) = IovaRange::sized(iova, unmapped) {
            gather.add(range, page_size);
        }
        Ok(unmapped)
    }

    fn flush(&self, gather: &Gather) -> Result<(), HardwareError> {
        if let (Some((_, pages)), Some(range)) = (self.translator.pages(), gather.range())
            && let Some(tlb) = &mut pages.lock().tlb
        {
            tlb.flush(range);
        }
        Ok(())
    }

    fn flush_all(&self) -> Result<(), HardwareError> {
        if let Some((_, pages)) = self.translator.pages()
            && let Some(tlb) = &mut pages.lock().tlb
        {
            tlb.flush_all();
        }
        Ok(())
    }

    fn iova_to_phys(&self, iova: Iova) -> Option<PhysAddr> {
        let (_, pages) = self.translator.pages()?;
        pages.lock().table.lookup(iova).ok().map(|translation| translation.phys)
    }

    fn enforce_coherency(&self) -> Result<(), HardwareError> {
        if !self.units.unit(self.unit).config.capabilities.contains(Capabilities::ENFORCED_COHERENCY) {
            return Err(HardwareError::new(Errno::EOPNOTSUPP, "the IOMMU cannot enforce coherency"));
        }
        self.coherent.store(true, Ordering::Release);
        Ok(())
    }
}

impl DirtyTracking for SoftDomain {
    fn start(&self) -> Result<(), HardwareError> {
        let (_, pages) = self.translator.pages().ok_or_else(no_tables)?;
        pages.lock().tracks_writes = true;
        Ok(())
    }

    fn stop(&self) -> Result<(), HardwareError> {
        let (_, pages) = self.translator.pages().ok_or_else(no_tables)?;
        pages.lock().tracks_writes = false;
        Ok(())
    }

    fn read(
        &self,
        range: IovaRange,
        flags: DirtyFlags,
        gather: &mut Gather,
        dirty: &mut dyn FnMut(Iova, u64),
    ) -> Result<(), HardwareError> {
        let (_, pages) = self.translator.pages().ok_or_else(no_tables)?;
        pages.lock().table.read_dirty(range, flags, &mut |iova, size| {
            if let Some(page) = IovaRange::sized(iova, size).filter(|_| !flags.contains(DirtyFlags::NO_CLEAR)) {
                gather.add(page, size);
            }
            dirty(iova, size);
        });
        Ok(())
    }
}

impl NestingParent for SoftDomain {
    fn nest(&self, data: UserData<'_>, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        let table = NestedTable::new(self.translator.clone(), data)?;
        Ok(Box::new(Self {
            translator: Arc::new(Translator::Nested(table)),
            units: self.units.clone(),
            unit: self.unit,
            flags: PagingFlags::empty(),
            coherent: AtomicBool::new(self.coherent.load(Ordering::Acquire)),
        }))
    }
}

impl Nested for SoftDomain {
    fn check_format(&self, kind: u32) -> Result<(), HardwareError> {
        nested::check_format(kind)
    }

    fn invalidate(&self, entry: UserData<'_>) -> Result<(), HardwareError> {
        match &*self.translator {
            Translator::Nested(table) => table.invalidate(entry),
            _ => Err(HardwareError::new(Errno::EOPNOTSUPP, "the domain is not nested")),
        }
    }
}
