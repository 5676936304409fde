//! Domains: what devices can reach.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use device_model::Errno;
use device_model::sync::SpinMutex;

use crate::address::{Geometry, Iova, IovaRange};
use crate::dirty::DirtyBits;
use crate::dma_api::DmaSpace;
use crate::hardware::{
    DirtyFlags, DirtyPages, DirtyTracking, DomainKind, Endpoint, Gather, HardwareDomain, HardwareError, IommuDriver,
    Nested, Paging, PagingFlags, UserData,
};
use crate::member::Member;
use crate::physical_memory::PhysicalMemory;
use crate::unit::Unit;

/// A set of translations that devices can be attached to.
///
/// It is freed when nobody holds it any more: a group holds the domains that its devices are attached to, and those that
/// they may still reach because hardware failed.
#[derive(Debug)]
pub struct Domain {
    kind: DomainKind,
    unit: Arc<Unit>,
    hardware: Box<dyn HardwareDomain>,
    /// What can be mapped, if anything. It stays the same: asked for once.
    geometry: Option<Geometry>,
    /// What a nested domain is translated by; dropped after it.
    parent: Option<Arc<Self>>,
    /// The addresses that the DMA API allocates, in domains that it maps into: few are.
    dma_space: Option<Box<DmaSpace>>,
    /// What is still mapped although its owner wanted it unmapped; dropped after the page tables.
    quarantine: SpinMutex<Vec<Quarantined>>,
}

/// Whatever keeps memory from being reused.
type Quarantined = Box<dyn Any + Send + Sync>;

impl Domain {
    fn new(
        kind: DomainKind,
        member: &Member,
        hardware: Box<dyn HardwareDomain>,
        parent: Option<Arc<Self>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            kind,
            unit: member.group().unit().clone(),
            geometry: hardware.paging().filter(|_| kind.is_paging()).map(Paging::geometry),
            hardware,
            parent,
            dma_space: DmaSpace::new(kind).map(Box::new),
            quarantine: SpinMutex::default(),
        })
    }

    pub(crate) fn allocate(kind: DomainKind, member: &Member) -> Result<Arc<Self>, HardwareError> {
        let hardware = member.served_by().allocate(kind, member.endpoint())?;
        Ok(Self::new(kind, member, hardware, None))
    }

    /// The blocking domain: a driver without one gets an empty paging domain in its place.
    // It4.2.
    pub(crate) fn allocate_blocking(member: &Member) -> Result<Arc<Self>, HardwareError> {
        let (iommu, endpoint) = (member.served_by(), member.endpoint());
        let hardware =
            iommu.allocate(DomainKind::Blocking, endpoint).or_else(|_| iommu.allocate(DomainKind::Paging, endpoint))?;
        Ok(Self::new(DomainKind::Blocking, member, hardware, None))
    }

    /// A paging domain that can do more, or that user space describes.
    pub(crate) fn allocate_for_user(
        member: &Member,
        flags: PagingFlags,
        data: Option<UserData<'_>>,
    ) -> Result<Arc<Self>, HardwareError> {
        if flags.is_empty() && data.is_none() {
            return Self::allocate(DomainKind::Paging, member);
        }
        let hardware = member.served_by().allocate_for_user(flags, data, member.endpoint())?;
        Ok(Self::new(DomainKind::Paging, member, hardware, None))
    }

    /// Makes a domain of `device`'s IOMMU with page tables of user space, nested on this one, which lives as long. Takes
    /// the group lock.
    ///
    /// # Errors
    /// `EINVAL` when this is no paging domain, or one of another IOMMU than the device's; else the driver's.
    pub fn nest(self: &Arc<Self>, device: &Member, data: UserData<'_>) -> Result<Arc<Self>, HardwareError> {
        let served = device.iommu().is_some_and(|iommu| self.fits(iommu));
        if self.kind != DomainKind::Paging || !served {
            return Err(HardwareError::new(Errno::EINVAL, "the parent is no paging domain of the device's IOMMU"));
        }
        let none = HardwareError::new(Errno::EINVAL, "the domain was not made to be a parent");
        let hardware = self.hardware.nesting_parent().ok_or(none)?.nest(data, device.endpoint())?;
        Ok(Self::new(DomainKind::Nested, device, hardware, Some(self.clone())))
    }

    /// Keeps `memory` for as long as the domain exists. For what hardware refused to unmap or to flush: a device may still
    /// reach it through this domain, so that whatever pins it must not be dropped.
    pub fn quarantine(&self, memory: impl Any + Send + Sync) {
        let memory: Quarantined = Box::new(memory);
        self.quarantine.lock().push(memory);
    }

    /// Returns how many pieces of memory are in quarantine.
    pub fn quarantined(&self) -> usize {
        self.quarantine.lock().len()
    }

    /// Returns the domain that a nested one is nested on.
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
            self.read_dirty(all, DirtyFlags::empty(), |_| {})?;
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

    /// Calls `dirty` with the pages of `range` that were written, as [`DirtyTracking::read`] does, and flushes what was
    /// cleared.
    ///
    /// # Errors
    /// The driver's; `EOPNOTSUPP` when it cannot.
    pub fn read_dirty(
        &self,
        range: IovaRange,
        flags: DirtyFlags,
        mut dirty: impl FnMut(DirtyPages),
    ) -> Result<(), HardwareError> {
        let mut gather = Gather::new();
        let read = self.dirty_tracking()?.read(range, flags, &mut gather, &mut dirty);
        self.flush(&mut gather)?;
        read
    }

    /// Reads which pages of `range` were written as a bitmap in which a bit stands for `1 << shift` bytes, the first for those
    /// at the start of `range`. Calls `write` with those bytes of the bitmap in which bits are set, ascending, and with where
    /// they begin; without locks. What was cleared is flushed before.
    ///
    /// # Errors
    /// As for [`read_dirty`](Self::read_dirty). What was passed to `write` counts.
    pub fn read_dirty_bitmap(
        &self,
        range: IovaRange,
        shift: u32,
        flags: DirtyFlags,
        mut write: impl FnMut(u64, &[u8]),
    ) -> Result<(), HardwareError> {
        let bit = |iova: Iova| iova.get().saturating_sub(range.first().get()).checked_shr(shift).unwrap_or(0);
        let at = |bit: u64| range.first().checked_add(bit.checked_shl(shift).filter(|bytes| bytes >> shift == bit)?);
        let mut write = |first, bytes: &[u8]| {
            write(first, bytes);
            Ok::<(), HardwareError>(())
        };
        let page = 1_u64.checked_shl(shift);
        let mut part = DirtyBits::new();
        // The end of a page that was reported, which sticks out of its part.
        let mut reported = 0;
        let mut next = Some(range.first());
        while let Some(first) = next {
            let bits = part.bits();
            next = at(bits.end).filter(|next| *next <= range.last());
            let last = next.map_or(range.last(), |next| Iova::new(next.get() - 1));
            let Some(window) = IovaRange::new(first, last) else { break };
            part.set(bits.start..reported);
            let read = self.read_dirty(window, flags, |pages| {
                if Some(pages.page_size()) == page && first <= pages.first() && pages.range().last() <= last {
                    return part.set_word(bit(pages.first()), pages.written());
                }
                for run in pages.runs().filter_map(|run| run.intersection(range)) {
                    let (first, end) = (bit(run.first()), bit(run.last()) + 1);
                    reported = reported.max(end);
                    part.set(first..end);
                }
            });
            part.turn(bits.end, &mut write)?;
            read?;
        }
        Ok(())
    }

    fn nested(&self) -> Result<&dyn Nested, HardwareError> {
        let none = HardwareError::new(Errno::EOPNOTSUPP, "the domain is not nested");
        self.hardware.nested().ok_or(none)
    }

    /// Checks that entries of a format can be [invalidated](Self::invalidate), as
    /// [`Nested::check_format`](crate::hardware::Nested::check_format) does.
    ///
    /// # Errors
    /// The driver's; `EOPNOTSUPP` when the domain is not nested.
    pub fn check_invalidation_format(&self, kind: u32) -> Result<(), HardwareError> {
        self.nested()?.check_format(kind)
    }

    /// Drops what a nested domain has cached of the page tables of user space, as
    /// [`Nested::invalidate`](crate::hardware::Nested::invalidate) does.
    ///
    /// # Errors
    /// The driver's; `EOPNOTSUPP` when the domain is not nested.
    pub fn invalidate(&self, entry: UserData<'_>) -> Result<(), HardwareError> {
        self.nested()?.invalidate(entry)
    }

    /// Returns what can be mapped; `None` without page tables, and in a blocking domain.
    pub fn geometry(&self) -> Option<Geometry> {
        self.geometry
    }

    /// Returns what the domain is for.
    pub fn kind(&self) -> DomainKind {
        self.kind
    }

    /// Returns whether devices of `unit` can be attached: those of the unit that made the domain, and of others that
    /// [accept](IommuDriver::accepts) it.
    pub(crate) fn fits(&self, unit: &Arc<dyn IommuDriver>) -> bool {
        Arc::ptr_eq(unit, self.iommu()) || unit.accepts(&**self.iommu())
    }

    /// Returns the IOMMU that made the domain.
    pub fn iommu(&self) -> &Arc<dyn IommuDriver> {
        self.unit.driver()
    }

    pub(crate) fn iommu_name(&self) -> &Arc<str> {
        self.unit.name()
    }

    /// Whether this right covers the domain.
    pub(crate) fn is_covered_by(&self, memory: &PhysicalMemory) -> bool {
        self.unit.is_covered_by(memory)
    }

    pub(crate) fn dma_space(&self) -> Option<&DmaSpace> {
        self.dma_space.as_deref()
    }

    /// Returns what the IOMMU driver made, which can be downcast:
    /// `(domain.hardware() as &dyn Any).downcast_ref::<MyDomain>()`.
    pub fn hardware(&self) -> &dyn HardwareDomain {
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
