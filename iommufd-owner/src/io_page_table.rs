//! An I/O address space: what is mapped, what may not be, and the domains that show it to devices (F11).

mod placement;

use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::address::PAGE_SIZE;
use iommu_core::{Access, Domain, Iova, IovaMap, IovaRange, MapError, PhysAddr, PhysicalMemory};

use crate::error::{AddDomainError, InTheWay, MapErr, UnmapErr};
use crate::hwpt::Coherency;
use crate::object::ObjectId;
use crate::pages::{Pages, Slice};

/// A mapping: a part of a window of memory.
#[derive(Debug)]
pub(crate) struct Area {
    pub(crate) pages: Arc<Pages>,
    /// Where in the window it begins, in bytes.
    pub(crate) offset: u64,
    pub(crate) access: Access,
    storage: Storage,
    /// Pins of accesses that lie in it.
    pub(crate) access_pins: u32,
    pub(crate) accesses: Accesses,
}

/// Whether an area's memory is pinned for domains (F29).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    Unpinned,
    Pinned,
}

/// Whether accesses may pin an area (F23).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accesses {
    Welcome,
    /// It is being unmapped.
    Refused,
}

/// Why a range may not be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReservedFor {
    /// A device that is attached needs it for itself.
    Device(ObjectId),
    /// A domain does not reach it.
    Domain(ObjectId),
}

/// Whether a domain may use pages larger than the smallest (Ft7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LargePages {
    /// It may.
    #[default]
    Enabled,
    /// Every page is mapped for itself, so that mappings can be cut.
    Disabled,
}

/// A domain that shows the address space.
#[derive(Debug)]
struct Shown {
    id: ObjectId,
    domain: Arc<Domain>,
    coherency: Coherency,
}

/// What an IOAS guards with its innermost lock.
#[derive(Debug)]
pub(crate) struct IoPageTable {
    memory: PhysicalMemory,
    pub(crate) areas: IovaMap<Area>,
    reserved: Vec<(IovaRange, ReservedFor)>,
    /// Ascending; empty for no restriction (F14).
    allowed: Vec<IovaRange>,
    domains: Vec<Shown>,
    /// How many accesses that pin are attached (F13).
    pub(crate) pinning_accesses: u32,
    pub(crate) large_pages: LargePages,
}

impl IoPageTable {
    pub(crate) fn new(memory: PhysicalMemory) -> Self {
        Self {
            memory,
            areas: IovaMap::default(),
            reserved: Vec::new(),
            allowed: Vec::new(),
            domains: Vec::new(),
            pinning_accesses: 0,
            large_pages: LargePages::default(),
        }
    }

    /// What addresses and lengths must be multiples of (F13).
    pub(crate) fn alignment(&self) -> u64 {
        let domains = self.domains.iter().filter_map(|shown| Some(shown.domain.geometry()?.page_sizes.smallest()));
        let whole_pages = self.pinning_accesses > 0 || self.large_pages == LargePages::Disabled;
        domains.chain(whole_pages.then_some(PAGE_SIZE)).max().unwrap_or(1)
    }

    pub(crate) fn has_domains(&self) -> bool {
        !self.domains.is_empty()
    }

    /// Whether no device can bypass CPU caches (Ft12.5).
    pub(crate) fn is_coherent(&self) -> bool {
        self.domains.iter().all(|shown| shown.coherency == Coherency::Enforced)
    }

    /// Whether some area is not a multiple of `alignment`.
    pub(crate) fn violates(&self, alignment: u64) -> Option<IovaRange> {
        let mask = alignment - 1;
        let aligned = |range: &IovaRange, area: &Area| (range.first().get() | range.bytes() | area.offset) & mask == 0;
        self.areas.iter().find(|(range, area)| !aligned(range, area)).map(|(range, _)| range)
    }

    /// The holes of what is reserved, ascending (F70).
    pub(crate) fn usable(&self) -> Vec<IovaRange> {
        IovaRange::ALL.without(self.reserved.iter().map(|(range, _)| *range))
    }

    /// Ft3.4 to Ft3.7.
    pub(crate) fn allow(&mut self, mut ranges: Vec<IovaRange>) -> Result<(), InTheWay> {
        ranges.sort_unstable();
        for range in &ranges {
            if let Some((reserved, _)) = self.reserved.iter().find(|(reserved, _)| reserved.overlaps(*range)) {
                return Err(InTheWay::Reserved { range: *reserved });
            }
        }
        self.allowed = ranges;
        Ok(())
    }

    /// F15: no mapping and no promise may be in the way.
    fn reserve(&mut self, range: IovaRange, whose: ReservedFor) -> Result<(), InTheWay> {
        if let Some((mapped, _)) = self.areas.first_in(range) {
            return Err(InTheWay::Mapped { range: mapped });
        }
        if let Some(allowed) = self.allowed.iter().find(|allowed| allowed.overlaps(range)) {
            return Err(InTheWay::Allowed { range: *allowed });
        }
        self.reserved.push((range, whose));
        Ok(())
    }

    /// All of these, or none.
    pub(crate) fn reserve_all(
        &mut self,
        ranges: impl IntoIterator<Item = IovaRange>,
        whose: ReservedFor,
    ) -> Result<(), InTheWay> {
        let before = self.reserved.len();
        for range in ranges {
            if let Err(in_the_way) = self.reserve(range, whose) {
                self.reserved.truncate(before);
                return Err(in_the_way);
            }
        }
        Ok(())
    }

    pub(crate) fn unreserve(&mut self, whose: ReservedFor) {
        self.reserved.retain(|(_, owner)| *owner != whose);
    }

    /// Where a new area of these bytes goes (F16).
    pub(crate) fn place(&self, addr: u64, bytes: u64) -> Result<IovaRange, MapErr> {
        placement::place(&self.areas, &self.allowed, &self.reserved, self.alignment(), addr, bytes)
    }

    /// Ft4.10 to Ft4.12.
    pub(crate) fn check_fixed(&self, iova: Iova, bytes: u64) -> Result<IovaRange, MapErr> {
        let alignment = self.alignment();
        if !iova.is_aligned(alignment) {
            return Err(MapErr::Misaligned { alignment });
        }
        let range = IovaRange::sized(iova, bytes).ok_or(MapErr::Overflow)?;
        if let Some((reserved, _)) = self.reserved.iter().find(|(reserved, _)| reserved.overlaps(range)) {
            return Err(MapErr::Reserved { range: *reserved });
        }
        Ok(range)
    }

    /// Ft4.13.
    pub(crate) fn check_vacant(&self, range: IovaRange) -> Result<(), MapErr> {
        self.areas.first_range_in(range).map_or(Ok(()), |existing| Err(MapErr::Mapped { existing }))
    }

    /// Makes an area, in every domain or not at all (F18). The range was checked but for Ft4.13.
    pub(crate) fn add_area(
        &mut self,
        range: IovaRange,
        pages: Arc<Pages>,
        offset: u64,
        access: Access,
    ) -> Result<(), MapErr> {
        let place = self.areas.vacant(range).map_err(|overlap| MapErr::Mapped { existing: overlap.existing })?;
        let mut area =
            Area { pages, offset, access, storage: Storage::Unpinned, access_pins: 0, accesses: Accesses::Welcome };
        if !self.domains.is_empty() {
            area.pin(range)?;
            for (done, shown) in self.domains.iter().enumerate() {
                if let Err(error) = fill(&self.memory, &shown.domain, range, &area, self.large_pages) {
                    for shown in self.domains.iter().take(done) {
                        area.unmap(&shown.domain, range);
                    }
                    area.unpin(range);
                    return Err(error.into());
                }
            }
        }
        place.insert(area);
        Ok(())
    }

    /// Unmaps the areas of a range in ascending order; how many bytes (table Ft6, F21). Stops at one that accesses have
    /// pinned.
    pub(crate) fn remove_areas(&mut self, range: IovaRange, bytes: &mut u64) -> Result<(), UnmapErr> {
        // Mostly, what was mapped at once is unmapped at once.
        let whole = |area_range: IovaRange, area: &Area| area_range == range && area.access_pins == 0;
        if let Some((_, area)) = self.areas.remove_if(range.first(), whole) {
            self.end_area(range, area);
            *bytes = bytes.saturating_add(range.bytes());
            return Ok(());
        }
        let mut found = *bytes > 0;
        while let Some((area_range, area)) = self.areas.first_in(range) {
            found = true;
            if !range.covers(area_range) {
                return Err(UnmapErr::WouldCut { area: area_range });
            }
            if area.access_pins > 0 {
                return Err(UnmapErr::Pinned { area: area_range });
            }
            self.remove_area(area_range.first());
            *bytes = bytes.saturating_add(area_range.bytes());
        }
        if found { Ok(()) } else { Err(UnmapErr::NotMapped { range }) }
    }

    fn remove_area(&mut self, first: Iova) {
        if let Some((range, area)) = self.areas.remove(first) {
            self.end_area(range, area);
        }
    }

    /// Takes an area that is no more out of every domain.
    fn end_area(&self, range: IovaRange, mut area: Area) {
        for shown in &self.domains {
            area.unmap(&shown.domain, range);
        }
        area.unpin(range);
    }

    /// Cuts an area in two before `at`, if one lies across (F61).
    pub(crate) fn cut(&mut self, at: Iova) -> Result<(), UnmapErr> {
        let Some((range, area)) = self.areas.get(at).filter(|(range, _)| range.first() != at) else { return Ok(()) };
        let alignment = self.alignment();
        if !at.is_aligned(alignment) || area.access_pins > 0 || self.large_pages == LargePages::Enabled {
            return Err(UnmapErr::CannotCut { area: range, at });
        }
        let Some((range, left)) = self.areas.remove(range.first()) else { return Ok(()) };
        let length = at.get() - range.first().get();
        let right = Area { pages: left.pages.clone(), offset: left.offset + length, ..left };
        let halves = [(IovaRange::sized(range.first(), length), left), (IovaRange::new(at, range.last()), right)];
        for (half, area) in halves {
            if let Some(half) = half {
                // The whole was there before, so its halves have room.
                let _ = self.areas.insert(half, area);
            }
        }
        Ok(())
    }

    /// Shows everything in one more domain (F53), or leaves all as it was.
    pub(crate) fn add_domain(
        &mut self,
        id: ObjectId,
        domain: &Arc<Domain>,
        coherency: Coherency,
    ) -> Result<(), AddDomainError> {
        let geometry = domain.geometry().ok_or(AddDomainError::NotPaging)?;
        let smallest = geometry.page_sizes.smallest();
        if smallest > PAGE_SIZE {
            return Err(AddDomainError::PagesTooLarge { smallest });
        }
        if let Some(area) = self.violates(smallest.max(self.alignment())) {
            return Err(AddDomainError::InTheWay(InTheWay::Mapped { range: area }));
        }
        let aperture = IovaRange::new(geometry.first, geometry.last).ok_or(AddDomainError::NotPaging)?;
        let outside = IovaRange::ALL.without([aperture]);
        self.reserve_all(outside, ReservedFor::Domain(id)).map_err(AddDomainError::InTheWay)?;
        if let Err(error) = self.fill_domain(domain) {
            self.unreserve(ReservedFor::Domain(id));
            return Err(AddDomainError::Map(error));
        }
        self.domains.push(Shown { id, domain: domain.clone(), coherency });
        Ok(())
    }

    fn fill_domain(&mut self, domain: &Domain) -> Result<(), MapErr> {
        let ranges: Vec<IovaRange> = self.areas.iter().map(|(range, _)| range).collect();
        for (done, range) in ranges.iter().enumerate() {
            let Some((_, area)) = self.areas.get_mut(range.first()) else { continue };
            let was = area.storage;
            let result =
                area.pin(*range).and_then(|()| Ok(fill(&self.memory, domain, *range, area, self.large_pages)?));
            if let Err(error) = result {
                if was == Storage::Unpinned {
                    area.unpin(*range);
                }
                let last_domain = self.domains.is_empty();
                for range in ranges.iter().take(done) {
                    let Some((_, area)) = self.areas.get_mut(range.first()) else { continue };
                    area.unmap(domain, *range);
                    if last_domain {
                        area.unpin(*range);
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes everything out of a domain, and unpins it if that was the last (F54).
    pub(crate) fn remove_domain(&mut self, id: ObjectId) {
        let Some(place) = self.domains.iter().position(|shown| shown.id == id) else { return };
        let Shown { domain, .. } = self.domains.remove(place);
        self.unreserve(ReservedFor::Domain(id));
        let last = self.domains.is_empty();
        let ranges: Vec<IovaRange> = self.areas.iter().map(|(range, _)| range).collect();
        for range in ranges {
            let Some((_, area)) = self.areas.get_mut(range.first()) else { continue };
            area.unmap(&domain, range);
            if last {
                area.unpin(range);
            }
        }
    }
}

impl Drop for IoPageTable {
    fn drop(&mut self) {
        while let Some((range, _)) = self.areas.first_in(IovaRange::ALL) {
            self.remove_area(range.first());
        }
    }
}

impl Area {
    /// The part of the window that the area shows.
    pub(crate) fn slice(&self, range: IovaRange) -> Slice {
        Slice::of(self.offset, range.bytes())
    }

    fn pin(&mut self, range: IovaRange) -> Result<(), MapErr> {
        if self.storage == Storage::Unpinned {
            self.pages.pin(self.slice(range))?;
            self.storage = Storage::Pinned;
        }
        Ok(())
    }

    /// Takes the area out of a domain. What hardware refuses to unmap, a device may still reach: its memory stays pinned
    /// for as long as the domain exists.
    fn unmap(&self, domain: &Domain, range: IovaRange) {
        if domain.unmap(range.first(), range.bytes()).is_err() {
            let kept = Kept { pages: self.pages.clone(), slice: self.slice(range) };
            // Pinned already, so that it is only counted.
            if kept.pages.pin(kept.slice).is_ok() {
                domain.quarantine(kept);
            }
        }
    }

    fn unpin(&mut self, range: IovaRange) {
        if self.storage == Storage::Pinned {
            self.pages.unpin(self.slice(range));
            self.storage = Storage::Unpinned;
        }
    }
}

/// Memory that a device may still reach.
struct Kept {
    pages: Arc<Pages>,
    slice: Slice,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.pages.unpin(self.slice);
    }
}

/// Maps a pinned area into a domain, or nothing of it: each run of memory as a whole, so that large pages can be used, or
/// page by page.
fn fill(
    memory: &PhysicalMemory,
    domain: &Domain,
    range: IovaRange,
    area: &Area,
    large_pages: LargePages,
) -> Result<(), MapError> {
    let most = if large_pages == LargePages::Disabled { PAGE_SIZE } else { u64::MAX };
    // With pages smaller than those of the CPU an area may begin and end inside of one.
    let mut skip = area.offset % PAGE_SIZE;
    let mut done = 0;
    for run in area.pages.runs(area.slice(range)) {
        let (mut phys, end) = (run.phys.get() + skip, run.phys.get() + run.bytes);
        skip = 0;
        while phys < end && done < range.bytes() {
            let bytes = (end - phys).min(most).min(range.bytes() - done);
            let at = Iova::new(range.first().get() + done);
            if let Err(error) = domain.map(memory, at, PhysAddr::new(phys), bytes, area.access) {
                if let Some(done) = IovaRange::sized(range.first(), done) {
                    area.unmap(domain, done);
                }
                return Err(error);
            }
            (done, phys) = (done + bytes, phys + bytes);
        }
    }
    Ok(())
}
