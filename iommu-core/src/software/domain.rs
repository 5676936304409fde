//! The domains of a software IOMMU.

use alloc::boxed::Box;

use device_model::Errno;
use device_model::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use device_model::sync::{Arc, LockClass, SpinMutex, SpinMutexGuard};

use super::nested::{self, NestedTable};
use super::page_table::{PageTable, TableFormat, Translation};
use super::tlb::Tlb;
use super::unit::{Unit, Units};
use super::{Memory, SoftIommuConfig};
use crate::address::{Access, Geometry, Iova, IovaRange, PhysAddr, PhysRun, Protection};
use crate::hardware::{
    Capabilities, DirtyFlags, DirtyPages, DirtyTracking, DomainKind, Endpoint, FaultReason, Gather, HardwareDomain,
    HardwareError, Nested, NestingParent, PageRun, Paging, PagingFlags, UserData,
};

const PAGE_TABLES: LockClass = LockClass::new("page tables of a domain", 920);

/// What a domain does to an address.
#[derive(Debug)]
#[cfg_attr(shuttle, expect(clippy::large_enum_variant, reason = "locks of the model checker are large"))]
pub(super) enum Translator {
    Blocking,
    Identity,
    Paging(PageTables),
    Nested(NestedTable),
}

/// The page tables of a domain, and which devices may have translations of their own.
#[derive(Debug)]
pub(super) struct PageTables {
    format: TableFormat,
    /// Whether the unit has a cache of its own.
    iotlb: bool,
    pages: SpinMutex<Pages>,
    /// The [`Shards`] of devices that have ever cached a translation. Changed under the lock of the tables: who has unmapped
    /// something sees where it was cached before.
    cached_in: AtomicUsize,
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
                let pages = SpinMutex::of(PAGE_TABLES, pages);
                let cached_in = AtomicUsize::new(0);
                Self::Paging(PageTables { format: config.format, iotlb: config.iotlb, pages, cached_in })
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
            Self::Blocking | Self::Identity | Self::Paging(_) => self.with_paging(iova, wanted, touch),
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
            Self::Paging(tables) => {
                let mut pages = tables.pages.lock();
                let translation = pages.translate(iova, wanted)?;
                Ok(touch(translation))
            }
        }
    }

    /// Whether a device may cache what it translates; one of this shard does from now on. Called during a translation.
    pub(super) fn cached_in(&self, shard: usize) -> bool {
        let Self::Paging(tables) = self else { return false };
        let known = tables.cached_in.load(Ordering::Relaxed);
        if known & 1 << shard == 0 {
            tables.cached_in.store(known | 1 << shard, Ordering::Release);
        }
        true
    }

    /// The page tables, if there are any.
    fn tables(&self) -> Option<&PageTables> {
        match self {
            Self::Paging(tables) => Some(tables),
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
        let walks = self.translator.tables().is_none_or(|tables| tables.format == unit.config.format);
        walks.then_some(unit).ok_or_else(other_format)
    }

    fn tables(&self) -> Result<&PageTables, HardwareError> {
        self.translator.tables().ok_or_else(|| HardwareError::new(Errno::EINVAL, "the domain has no page tables"))
    }

    fn pages(&self) -> Result<SpinMutexGuard<'_, Pages>, HardwareError> {
        Ok(self.tables()?.pages.lock())
    }

    /// Drops all that is cached of `range`.
    fn flush_range(&self, range: IovaRange) {
        let Some(tables) = self.translator.tables() else { return };
        if tables.iotlb
            && let Some(tlb) = &mut tables.pages.lock().tlb
        {
            tlb.flush(range);
        }
        let cached_in = tables.cached_in.load(Ordering::Acquire);
        if cached_in != 0 {
            self.units.flush(&self.translator, cached_in, range);
        }
    }
}

#[cold]
fn other_format() -> HardwareError {
    HardwareError::new(Errno::EINVAL, "the unit walks page tables of another format")
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
        self.translator.tables().map(|_| self as &dyn Paging)
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

impl Paging for SoftDomain {
    fn geometry(&self) -> Geometry {
        self.translator.tables().map_or(TableFormat::X86_39, |tables| tables.format).geometry()
    }

    fn map_pages(
        &self,
        iova: Iova,
        phys: PhysAddr,
        page_size: u64,
        count: usize,
        protection: Protection,
    ) -> Result<usize, HardwareError> {
        Ok(self.pages()?.table.map_pages(iova, phys, page_size, count, protection)?)
    }

    fn map_runs(
        &self,
        iova: Iova,
        runs: &[PageRun],
        protection: Protection,
        mapped: &mut u64,
    ) -> Result<(), HardwareError> {
        let mut pages = self.pages()?;
        let map_pages = |at, run: PageRun| pages.table.map_pages(at, run.phys, run.page_size, run.count, protection);
        Ok(PageRun::map_each(runs, iova, mapped, map_pages)?)
    }

    fn unmap_pages(&self, iova: Iova, page_size: u64, count: usize, gather: &mut Gather) -> Result<u64, HardwareError> {
        let tables = self.tables()?;
        let mut pages = tables.pages.lock();
        let unmapped = pages.table.unmap(iova, page_size.saturating_mul(count as u64));
        // Nobody caches it from now on.
        let perhaps_cached = tables.iotlb || tables.cached_in.load(Ordering::Relaxed) != 0;
        drop(pages);
        if perhaps_cached && let Some(range) = IovaRange::sized(iova, unmapped) {
            gather.add(range, page_size);
        }
        Ok(unmapped)
    }

    fn flush(&self, gather: &Gather) -> Result<(), HardwareError> {
        gather.range().into_iter().for_each(|range| self.flush_range(range));
        Ok(())
    }

    fn flush_all(&self) -> Result<(), HardwareError> {
        self.flush_range(IovaRange::ALL);
        Ok(())
    }

    fn iova_to_phys(&self, iova: Iova) -> Option<PhysAddr> {
        self.pages().ok()?.table.lookup(iova).ok().map(|translation| translation.phys)
    }

    fn iova_to_run(&self, range: IovaRange) -> Option<PhysRun> {
        self.pages().ok()?.table.lookup_run(range)
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
        self.pages()?.tracks_writes = true;
        // What devices have cached to write would go unnoticed.
        self.flush_range(IovaRange::ALL);
        Ok(())
    }

    fn stop(&self) -> Result<(), HardwareError> {
        self.pages()?.tracks_writes = false;
        Ok(())
    }

    fn read(
        &self,
        range: IovaRange,
        flags: DirtyFlags,
        gather: &mut Gather,
        dirty: &mut dyn FnMut(DirtyPages),
    ) -> Result<(), HardwareError> {
        self.pages()?.table.read_dirty(range, flags, |pages| {
            if !flags.contains(DirtyFlags::NO_CLEAR) {
                gather.add(pages.range(), pages.page_size());
            }
            dirty(pages);
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
