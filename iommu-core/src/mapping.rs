//! Mapping into domains, unmapping, and flushing what hardware has cached.

use core::iter::Peekable;

use device_model::Errno;

use crate::address::{Geometry, Iova, IovaRange, PhysAddr, PhysRun, Protection};
use crate::domain::Domain;
use crate::hardware::{DomainKind, Gather, HardwareError, PageRun, Paging};
use crate::physical_memory::PhysicalMemory;

impl Domain {
    /// The page tables, if what is mapped goes there, and what can be mapped.
    fn paging(&self) -> Option<(&dyn Paging, Geometry)> {
        self.hardware().paging().zip(self.geometry())
    }

    /// Maps `size` bytes at `iova` to `phys`, in the largest pages that fit. Takes locks of the IOMMU driver only.
    ///
    /// # Errors
    /// Nothing of the range is mapped then that was not before, except for [`MapError::Reachable`].
    pub fn map(
        &self,
        memory: &PhysicalMemory,
        iova: Iova,
        phys: PhysAddr,
        size: u64,
        protection: impl Into<Protection>,
    ) -> Result<(), MapError> {
        self.check_right(memory)?;
        self.map_trusted(iova, phys, size, protection)
    }

    /// Maps physical memory that lies in several pieces at `iova`, one behind the other, as [`map`](Self::map) maps one piece.
    /// Pieces that touch are mapped as one: the largest pages that fit may lie across them.
    ///
    /// The IOMMU driver is called once for many pieces, so that this takes less time than a call of [`map`](Self::map) for each.
    ///
    /// ```
    /// # use iommu_core::{Access, Domain, Iova, MapError, PhysAddr, PhysicalMemory};
    /// use iommu_core::address::PhysRun;
    ///
    /// # fn map_two(domain: &Domain, right: &PhysicalMemory) -> Result<(), MapError> {
    /// let pieces = [(0x8000, 0x1000), (0x3000, 0x2000)].map(|(phys, bytes)| PhysRun { phys: PhysAddr::new(phys), bytes });
    /// domain.map_sg(right, Iova::new(0x10_0000), pieces, Access::ReadWrite)?; // 0x10_0000 to 0x10_2fff, or nothing
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`map`](Self::map), each piece being checked as a mapping of its own, after those before it were mapped perhaps.
    /// Without any piece it is [`MapError::Misaligned`]. If `pieces` unwinds, what was mapped by then stays.
    pub fn map_sg(
        &self,
        memory: &PhysicalMemory,
        iova: Iova,
        pieces: impl IntoIterator<Item = PhysRun>,
        protection: impl Into<Protection>,
    ) -> Result<(), MapError> {
        self.check_right(memory)?;
        let mut pieces = pieces.into_iter().peekable();
        // Nothing is refused as a piece without a byte.
        let first = pieces.next().unwrap_or(PhysRun { phys: PhysAddr::new(0), bytes: 0 });
        if pieces.peek().is_none() {
            return self.map_trusted(iova, first.phys, first.bytes, protection);
        }
        let (paging, geometry) = self.paging().ok_or(MapError::NotPaging(self.kind()))?;
        let mut runs = PageRuns::new(geometry, iova, first, pieces)?;
        let mut mapped = 0;
        let all = runs.map(paging, protection.into(), &mut mapped);
        all.map_err(|error| self.undo(iova, mapped, runs.begun(), error))
    }

    fn check_right(&self, memory: &PhysicalMemory) -> Result<(), MapError> {
        if !self.is_covered_by(memory) {
            return Err(MapError::NoRight);
        }
        Ok(())
    }

    /// As [`map`](Self::map), where whoever called has the right in another form.
    pub(crate) fn map_trusted(
        &self,
        iova: Iova,
        phys: PhysAddr,
        size: u64,
        protection: impl Into<Protection>,
    ) -> Result<(), MapError> {
        let protection = protection.into();
        let (paging, Geometry { page_sizes, first, last }) = self.paging().ok_or(MapError::NotPaging(self.kind()))?;
        let granule = page_sizes.smallest();
        if size == 0 || (iova.get() | phys.get() | size) & (granule - 1) != 0 {
            return Err(MapError::Misaligned { granule });
        }
        let range = IovaRange::sized(iova, size).filter(|range| first <= iova && range.last() <= last);
        let (Some(range), Some(_)) = (range, phys.checked_add(size - 1)) else {
            return Err(MapError::BeyondAperture { first, last });
        };
        if !protection.intersects(Protection::READ | Protection::WRITE) {
            return Err(MapError::NoAccess);
        }
        let mut done = 0;
        let mapped = loop {
            let (at, to) = (iova.get() + done, phys.get() + done);
            let (page, count) = page_sizes.first_run(at | to, at ^ to, size - done);
            match paging.map_pages(Iova::new(at), PhysAddr::new(to), page, count, protection) {
                Ok(pages) => done += page * pages.clamp(1, count) as u64,
                Err(cause) => break Err(cause),
            }
            if done == size {
                break paging.sync_map(range);
            }
        };
        mapped.map_err(|cause| self.undo(iova, done, Some(range), MapError::Hardware(cause)))
    }

    /// Takes out again what was mapped of a range before an error, which then says whether that worked.
    #[cold]
    fn undo(&self, iova: Iova, mapped: u64, range: Option<IovaRange>, error: MapError) -> MapError {
        match (self.unmap(iova, mapped), range) {
            (Ok(unmapped), _) if unmapped >= mapped => error,
            (_, range) => MapError::Reachable { range: range.unwrap_or(IovaRange::ALL), cause: error.into_cause() },
        }
    }

    /// Unmaps from `iova` on and flushes, so that no access to what was unmapped is on its way when it returns. Returns how
    /// many bytes were unmapped: 0 when misaligned or without page tables, less than `size` when a hole was met, more when
    /// a large page lies across the end.
    ///
    /// # Errors
    /// Hardware refused. Devices may still reach any of the range: its memory must not be reused until they are attached to
    /// another domain.
    pub fn unmap(&self, iova: Iova, size: u64) -> Result<u64, HardwareError> {
        let Some((paging, geometry)) = self.paging() else { return Ok(0) };
        let mut gather = Gather::new();
        let unmapped = unmap_pages(paging, geometry, iova, size, &mut gather);
        flush(paging, &mut gather)?;
        unmapped
    }

    /// Begins to unmap several ranges that are flushed at once.
    ///
    /// ```
    /// # use iommu_core::{Domain, Iova, hardware::HardwareError};
    /// # fn unmap_two(domain: &Domain) -> Result<(), HardwareError> {
    /// let mut batch = domain.unmap_batch();
    /// batch.unmap(Iova::new(0x1000), 0x1000)?;
    /// batch.unmap(Iova::new(0x8000), 0x2000)?;
    /// batch.flush() // now no device reaches either
    /// # }
    /// ```
    pub fn unmap_batch(&self) -> UnmapBatch<'_> {
        UnmapBatch { domain: self, gather: Gather::new() }
    }

    /// As [`unmap`](Self::unmap), without the flush.
    pub(crate) fn unmap_gather(&self, iova: Iova, size: u64, gather: &mut Gather) -> Result<u64, HardwareError> {
        self.paging().map_or(Ok(0), |(paging, geometry)| unmap_pages(paging, geometry, iova, size, gather))
    }

    /// Flushes what was gathered; its page tables can be freed then. If hardware refuses, they leak: it may walk them.
    pub(crate) fn flush(&self, gather: &mut Gather) -> Result<(), HardwareError> {
        self.paging().map_or(Ok(()), |(paging, _)| flush(paging, gather))
    }

    /// Flushes all that was unmapped from this domain.
    pub(crate) fn flush_all(&self) -> Result<(), HardwareError> {
        self.hardware().paging().map_or(Ok(()), Paging::flush_all)
    }

    /// Returns where `iova` leads: nowhere in a blocking domain, to the same number in an identity domain.
    pub fn iova_to_phys(&self, iova: Iova) -> Option<PhysAddr> {
        match self.kind() {
            DomainKind::Blocking | DomainKind::Nested => None,
            DomainKind::Identity => Some(PhysAddr::new(iova.get())),
            DomainKind::Dma | DomainKind::DmaLazy | DomainKind::Paging => self.hardware().paging()?.iova_to_phys(iova),
        }
    }

    /// Returns where a range begins in physical memory, and how much of it is contiguous from there on; `None` if its first
    /// address leads nowhere.
    pub fn iova_to_run(&self, range: IovaRange) -> Option<PhysRun> {
        match self.kind() {
            DomainKind::Blocking | DomainKind::Nested => None,
            DomainKind::Identity => Some(PhysRun { phys: PhysAddr::new(range.first().get()), bytes: range.bytes() }),
            DomainKind::Dma | DomainKind::DmaLazy | DomainKind::Paging => self.hardware().paging()?.iova_to_run(range),
        }
    }

    /// Keeps devices from bypassing CPU caches through this domain from now on.
    ///
    /// # Errors
    /// The driver's; `EOPNOTSUPP` when it cannot, or without page tables.
    pub fn enforce_coherency(&self) -> Result<(), HardwareError> {
        let none = HardwareError::new(Errno::EOPNOTSUPP, "the domain has no page tables");
        self.hardware().paging().ok_or(none)?.enforce_coherency()
    }
}

/// How many runs of pages a call of the driver maps, where there are several.
const BATCH: usize = 32;

/// Pieces of memory on their way into page tables, one behind the other: as runs of the largest pages that fit.
struct PageRuns<I: Iterator<Item = PhysRun>> {
    pieces: Peekable<I>,
    geometry: Geometry,
    iova: Iova,
    /// Where the next run begins.
    at: Iova,
    /// What no run has of the pieces that were taken: the end of one, and others that touch it.
    left: PhysRun,
    /// How many bytes may come behind that.
    room: u64,
}

impl<I: Iterator<Item = PhysRun>> PageRuns<I> {
    /// Begins at `iova` with a first piece.
    #[inline]
    fn new(geometry: Geometry, iova: Iova, piece: PhysRun, pieces: Peekable<I>) -> Result<Self, MapError> {
        let Geometry { page_sizes, first, last } = geometry;
        let granule = page_sizes.smallest();
        if !iova.is_aligned(granule) {
            return Err(MapError::Misaligned { granule });
        }
        let reached = IovaRange::new(iova, last).filter(|_| first <= iova);
        let room = reached.ok_or(MapError::BeyondAperture { first, last })?.bytes();
        let left = PhysRun { phys: piece.phys, bytes: 0 };
        let mut runs = Self { pieces, geometry, iova, at: iova, left, room };
        runs.take(piece)?;
        Ok(runs)
    }

    /// Maps all of them, and adds to `mapped` what is mapped, also on failure.
    #[inline]
    fn map(&mut self, paging: &dyn Paging, protection: Protection, mapped: &mut u64) -> Result<(), MapError> {
        if !protection.intersects(Protection::READ | Protection::WRITE) {
            return Err(MapError::NoAccess);
        }
        let mut batch = [PageRun { phys: self.left.phys, page_size: 0, count: 0 }; BATCH];
        loop {
            let (at, mut count) = (self.at, 0);
            for slot in &mut batch {
                let Some(run) = self.next()? else { break };
                *slot = run;
                count += 1;
            }
            let Some(runs) = batch.get(..count).filter(|runs| !runs.is_empty()) else { break };
            paging.map_runs(at, runs, protection, mapped).map_err(MapError::Hardware)?;
        }
        self.begun().map_or(Ok(()), |range| paging.sync_map(range)).map_err(MapError::Hardware)
    }

    /// The range up to the end of the last run, if there was one.
    fn begun(&self) -> Option<IovaRange> {
        IovaRange::sized(self.iova, self.at.get().wrapping_sub(self.iova.get()))
    }

    /// The next run, if there is one.
    #[inline]
    fn next(&mut self) -> Result<Option<PageRun>, MapError> {
        if self.left.bytes == 0 {
            let Some(piece) = self.pieces.next() else { return Ok(None) };
            self.left.phys = piece.phys;
            self.take(piece)?;
        }
        while let Some(piece) = self.touching() {
            self.take(piece)?;
        }
        let (PhysRun { phys, bytes }, at) = (self.left, self.at.get());
        let (page_size, count) = self.geometry.page_sizes.first_run(at | phys.get(), at ^ phys.get(), bytes);
        let done = page_size * count as u64;
        self.left = PhysRun { phys: PhysAddr::new(phys.get().wrapping_add(done)), bytes: bytes - done };
        self.at = Iova::new(at.wrapping_add(done));
        Ok(Some(PageRun { phys, page_size, count }))
    }

    /// The next piece, if it touches what is left.
    #[inline]
    fn touching(&mut self) -> Option<PhysRun> {
        let end = self.left.end();
        self.pieces.next_if(|piece| end == Some(piece.phys))
    }

    /// Takes a piece that lies behind what is left.
    #[inline]
    fn take(&mut self, PhysRun { phys, bytes }: PhysRun) -> Result<(), MapError> {
        let Geometry { page_sizes, first, last } = self.geometry;
        let granule = page_sizes.smallest();
        if bytes == 0 || (phys.get() | bytes) & (granule - 1) != 0 {
            return Err(MapError::Misaligned { granule });
        }
        let (Some(room), Some(_)) = (self.room.checked_sub(bytes), phys.checked_add(bytes - 1)) else {
            return Err(MapError::BeyondAperture { first, last });
        };
        self.room = room;
        self.left.bytes += bytes;
        Ok(())
    }
}

/// As [`Domain::unmap`], without the flush.
fn unmap_pages(
    paging: &dyn Paging,
    Geometry { page_sizes, .. }: Geometry,
    iova: Iova,
    size: u64,
    gather: &mut Gather,
) -> Result<u64, HardwareError> {
    if (iova.get() | size) & (page_sizes.smallest() - 1) != 0 {
        return Ok(0);
    }
    let mut done = 0;
    while let Some(at) = iova.checked_add(done).filter(|_| done < size) {
        let (page, count) = page_sizes.first_run(at.get(), 0, size - done);
        match paging.unmap_pages(at, page, count, gather)? {
            0 => break,
            unmapped => done = done.saturating_add(unmapped),
        }
    }
    Ok(done)
}

fn flush(paging: &dyn Paging, gather: &mut Gather) -> Result<(), HardwareError> {
    if gather.range().is_none() {
        return Ok(());
    }
    let flushed = paging.flush(gather);
    if flushed.is_err() {
        core::mem::forget(core::mem::take(gather));
    }
    flushed
}

/// Ranges that are unmapped, and flushed at once. Dropping it flushes, too, and ignores errors.
#[derive(Debug)]
#[must_use = "what was unmapped can be reached until it is flushed"]
pub struct UnmapBatch<'d> {
    domain: &'d Domain,
    gather: Gather,
}

impl UnmapBatch<'_> {
    /// Unmaps from `iova` on and returns how many bytes that were, as [`Domain::unmap`] does. Devices may reach them until
    /// the flush.
    ///
    /// # Errors
    /// Hardware refused, as for [`Domain::unmap`].
    pub fn unmap(&mut self, iova: Iova, size: u64) -> Result<u64, HardwareError> {
        self.domain.unmap_gather(iova, size, &mut self.gather)
    }

    /// Flushes: when it returns, no access to what was unmapped is on its way.
    ///
    /// # Errors
    /// Hardware refused. Devices may still reach all that was unmapped: its memory must not be reused until they are
    /// attached to another domain.
    pub fn flush(mut self) -> Result<(), HardwareError> {
        self.domain.flush(&mut core::mem::take(&mut self.gather))
    }
}

impl Drop for UnmapBatch<'_> {
    fn drop(&mut self) {
        // There is nobody to tell; who wants to know calls `flush`.
        let _ = self.domain.flush(&mut self.gather);
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
    /// The protection permits neither reads nor writes.
    #[error("the mapping would permit neither reads nor writes")]
    NoAccess,
    /// The right to map physical memory is one of another subsystem.
    #[error("the right to map physical memory does not cover this domain")]
    NoRight,
    /// The IOMMU driver refused.
    #[error("the IOMMU refused the mapping")]
    Hardware(#[source] HardwareError),
    /// The IOMMU driver refused, and to unmap what it had mapped by then. Devices may reach any of the range: its memory must
    /// be kept in [quarantine](Domain::quarantine).
    #[error("the IOMMU refused the mapping, and to undo it: devices may reach {range}")]
    Reachable {
        /// The range that was to be mapped.
        range: IovaRange,
        /// Why it refused the mapping.
        #[source]
        cause: HardwareError,
    },
}

impl MapError {
    /// The same in the words of hardware.
    fn into_cause(self) -> HardwareError {
        match self {
            Self::Hardware(cause) | Self::Reachable { cause, .. } => cause,
            other => HardwareError::new(other.errno(), alloc::format!("{other}")),
        }
    }

    /// Returns `EINVAL`, `EPERM` without the right, or the driver's number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Hardware(error) | Self::Reachable { cause: error, .. } => error.errno,
            Self::NoRight => Errno::EPERM,
            _ => Errno::EINVAL,
        }
    }
}
