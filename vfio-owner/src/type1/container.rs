//! The type1 of one container.

use alloc::vec::Vec;
use core::ops::Range;

use iommu_core::address::PageSizes;
use iommu_core::hardware::HardwareError;
use iommu_core::{Claim, GroupId, Iova, IovaMap, IovaRange, PhysicalMemory};

use super::attach::{AttachedGroup, Coherency, SharedDomain};
use super::mapping::{Mapping, Source};
use super::processes::{ProcessKey, Processes};
use super::{Type1Config, reach};
use crate::backend::{AttachGroupError, DirtyError, MapDmaError, UnmapDmaError};
use crate::backend::{
    ContainerIommu, DirtyRequest, DirtySink, DirtyTracking, Extension, IommuInfo, MAX_BITMAP_BYTES, MapRequest,
    Migration, Unmap, cut_by,
};
use crate::sparse::Sparse;
use iommu_core::device_model::Errno;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
    /// Version 2 on domains that can be a second stage.
    Nesting,
}

/// Mappings, and the domains that they are in. The container's lock makes one call at a time.
#[derive(Debug)]
pub(super) struct Type1Container {
    pub(super) memory: PhysicalMemory,
    pub(super) version: Version,
    pub(super) config: Type1Config,
    pub(super) mappings: IovaMap<Mapping>,
    /// Those that mappings name.
    pub(super) processes: Processes,
    /// How many mappings have their memory given away.
    away: u32,
    pub(super) domains: Vec<SharedDomain>,
    pub(super) groups: Sparse<GroupId, AttachedGroup>,
    /// What all groups can address.
    pub(super) allowed: Vec<IovaRange>,
    pub(super) page_sizes: PageSizes,
    tracking: DirtyTracking,
}

impl Type1Container {
    pub(super) fn new(memory: PhysicalMemory, version: Version, config: Type1Config) -> Self {
        Self {
            memory,
            version,
            config,
            mappings: IovaMap::new(),
            processes: Processes::default(),
            away: 0,
            domains: Vec::new(),
            groups: Sparse::default(),
            allowed: Vec::new(),
            page_sizes: reach::page_sizes([].into_iter()),
            tracking: DirtyTracking::Off,
        }
    }

    /// What `iova` and `bytes` span, if whole pages.
    fn span(&self, iova: Iova, bytes: u64) -> Result<IovaRange, UnmapDmaError> {
        if bytes == 0 || (iova.get() | bytes) & (self.page_sizes.smallest() - 1) != 0 {
            return Err(UnmapDmaError::Misaligned { page_sizes: self.page_sizes });
        }
        IovaRange::sized(iova, bytes).ok_or(UnmapDmaError::Wraps)
    }

    /// The mappings that an unmap concerns, as a range that cuts none; `None` for none.
    // Vt16.5 to Vt16.10.
    fn concerned(&self, what: Unmap) -> Result<Option<IovaRange>, UnmapDmaError> {
        let range = match what {
            Unmap::All => return Ok(Some(IovaRange::ALL)),
            Unmap::Range { iova, bytes } => self.span(iova, bytes)?,
        };
        if self.version != Version::One {
            return match cut_by(&self.mappings, range) {
                Some(mapping) => Err(UnmapDmaError::WouldCut { mapping }),
                None => Ok(Some(range)),
            };
        }
        let starts_inside =
            self.mappings.get(range.first()).is_some_and(|(mapping, _)| mapping.first() < range.first());
        let last = self.mappings.get(range.last()).map_or(range.last(), |(mapping, _)| mapping.last());
        Ok(if starts_inside { None } else { IovaRange::new(range.first(), last) })
    }

    /// Unmaps every mapping in `range`, which cuts none; how many bytes.
    pub(super) fn remove_all(&mut self, range: IovaRange) -> u64 {
        let mut bytes: u64 = 0;
        if range == IovaRange::ALL {
            while let Some((range, mut mapping)) = self.mappings.pop_last() {
                bytes = bytes.saturating_add(range.bytes());
                self.end(range, &mut mapping);
            }
            return bytes;
        }
        while let Some((mapping, _)) = self.mappings.first_in(range) {
            bytes = bytes.saturating_add(mapping.bytes());
            self.remove(mapping);
        }
        bytes
    }

    fn remove(&mut self, range: IovaRange) {
        if let Some((range, mut mapping)) = self.mappings.remove(range.first()) {
            self.end(range, &mut mapping);
        }
    }

    /// Takes a mapping that is no more out of every domain.
    fn end(&mut self, range: IovaRange, mapping: &mut Mapping) {
        self.away -= u32::from(mapping.is_away());
        let names = mapping.names();
        // Also if hardware unwinds.
        let processes = scopeguard::guard(&mut self.processes, |processes| leave(processes, names));
        mapping.unpin(&processes, range, &self.domains);
    }

    /// Checks whether the dirty pages of a range can be reported.
    fn may_report(&self, range: IovaRange, page_size: u64) -> Result<(), DirtyError> {
        if self.tracking == DirtyTracking::Off {
            return Err(DirtyError::Off);
        }
        if page_size != self.page_sizes.smallest() || cut_by(&self.mappings, range).is_some() {
            return Err(DirtyError::Range { page_sizes: self.page_sizes });
        }
        Ok(())
    }

    /// What a request maps, if it is whole pages that do not wrap.
    // Vt15.4, Vt15.5.
    fn requested(&self, request: &MapRequest) -> Result<IovaRange, MapDmaError> {
        let MapRequest { iova, bytes, addr, .. } = request;
        if *bytes == 0 || (iova.get() | bytes | addr.get()) & (self.page_sizes.smallest() - 1) != 0 {
            return Err(MapDmaError::Misaligned { page_sizes: self.page_sizes });
        }
        addr.checked_add(bytes - 1).ok_or(MapDmaError::Wraps)?;
        IovaRange::sized(*iova, *bytes).ok_or(MapDmaError::Wraps)
    }
}

impl ContainerIommu for Type1Container {
    fn check_extension(&self, extension: Extension) -> u32 {
        let coherent = || self.domains.iter().all(|shared| shared.coherency == Coherency::Enforced);
        u32::from(match extension {
            Extension::TYPE1
            | Extension::TYPE1_V2
            | Extension::NESTING
            | Extension::UNMAP_ALL
            | Extension::UPDATE_VADDR => true,
            Extension::DMA_CC => coherent(),
            _ => false,
        })
    }

    fn attach_group(&mut self, claim: &Claim) -> Result<(), AttachGroupError> {
        let group = claim.group();
        if self.away > 0 {
            return Err(AttachGroupError::VaddrInvalid { mappings: self.away });
        }
        if self.groups.contains(group.id()) {
            return Err(AttachGroupError::Attached { group: group.id() });
        }
        let no_domain = |cause| AttachGroupError::NoDomain { group: group.id(), cause };
        let fresh = group.allocate_paging().map_err(no_domain)?;
        if self.version == Version::Nesting {
            return Err(no_domain(HardwareError::new(Errno::EINVAL, "the IOMMU does not nest domains for type1")));
        }
        claim.attach(&fresh)?;
        self.join(claim, fresh).inspect_err(|_| claim.detach())
    }

    fn detach_group(&mut self, claim: &Claim) {
        self.leave(claim);
    }

    fn map(&mut self, request: &MapRequest) -> Result<(), MapDmaError> {
        let range = self.requested(request)?;
        let full = self.mappings.len() >= self.config.dma_entry_limit as usize;
        let place =
            self.mappings.vacant(range).map_err(|overlap| MapDmaError::Mapped { existing: overlap.existing })?;
        if full {
            return Err(MapDmaError::TooManyMappings);
        }
        if !self.allowed.is_empty() && !self.allowed.iter().any(|allowed| allowed.covers(range)) {
            return Err(MapDmaError::NotAllowed { range });
        }
        let MapRequest { ref process, addr, access, .. } = *request;
        let limit = process.limit();
        let source = Source { process, payer: process, limit, addr, access };
        let behind = source.pin(&self.memory, range, &self.domains)?;
        let process = self.processes.enter(process, 2);
        place.insert(Mapping::new(process, limit, addr, access, behind));
        Ok(())
    }

    fn unmap(&mut self, what: Unmap) -> Result<u64, UnmapDmaError> {
        // Mostly, what was mapped at once is unmapped at once.
        if let Unmap::Range { iova, bytes } = what
            && let range = self.span(iova, bytes)?
            && let Some((_, mut mapping)) = self.mappings.remove_if(iova, |mapping, _| mapping == range)
        {
            self.end(range, &mut mapping);
            return Ok(bytes);
        }
        Ok(self.concerned(what)?.map_or(0, |range| self.remove_all(range)))
    }

    fn unmap_dirty(&mut self, request: DirtyRequest, into: &mut dyn DirtySink) -> Result<u64, UnmapDmaError> {
        let DirtyRequest { iova, bytes, page_size } = request;
        let range = self.span(iova, bytes)?;
        self.may_report(range, page_size)?;
        let mut unmapped: u64 = 0;
        while let Some((mapping, _)) = self.mappings.first_in(range) {
            into.report(pages_of(range, mapping, page_size)).map_err(DirtyError::from)?;
            // Before its pages can no longer be asked for.
            into.finish().map_err(DirtyError::from)?;
            unmapped = unmapped.saturating_add(mapping.bytes());
            self.remove(mapping);
        }
        Ok(unmapped)
    }

    fn invalidate_vaddr(&mut self, what: Unmap) -> Result<u64, UnmapDmaError> {
        let Some(range) = self.concerned(what)? else { return Ok(0) };
        let mut present = Vec::new();
        for (range, mapping) in self.mappings.overlapping(range) {
            if mapping.is_away() {
                return Err(UnmapDmaError::VaddrInvalid { mapping: range });
            }
            present.push(range);
        }
        let mut bytes: u64 = 0;
        for range in present {
            if let Some((_, mapping)) = self.mappings.get_mut(range.first()) {
                mapping.give_away();
                self.away += 1;
                bytes = bytes.saturating_add(range.bytes());
            }
        }
        Ok(bytes)
    }

    fn update_vaddr(&mut self, request: &MapRequest) -> Result<(), MapDmaError> {
        let range = self.requested(request)?;
        let Some((existing, _)) = self.mappings.first_in(range) else { return Err(MapDmaError::NotMapped { range }) };
        let Some((_, mapping)) = self.mappings.get_mut(existing.first()) else {
            return Err(MapDmaError::NotMapped { range });
        };
        if existing != range || !mapping.is_away() {
            return Err(MapDmaError::NotThatMapping { existing });
        }
        mapping.take_back(&mut self.processes, range, &request.process, request.addr)?;
        self.away -= 1;
        Ok(())
    }

    fn info(&self) -> IommuInfo {
        let made = u32::try_from(self.mappings.len()).unwrap_or(u32::MAX);
        IommuInfo {
            page_sizes: self.page_sizes,
            ranges: self.allowed.clone(),
            mappings_left: self.config.dma_entry_limit.saturating_sub(made),
            migration: PageSizes::from_bitmap(self.page_sizes.smallest())
                .map(|page_sizes| Migration { page_sizes, max_bitmap_bytes: MAX_BITMAP_BYTES }),
        }
    }

    fn tracks_dirty(&self) -> Result<(), DirtyError> {
        if self.version == Version::One { Err(DirtyError::NotTracked) } else { Ok(()) }
    }

    fn track_dirty(&mut self, tracking: DirtyTracking) -> Result<(), DirtyError> {
        self.tracks_dirty()?;
        self.tracking = tracking;
        Ok(())
    }

    fn dirty_pages(&mut self, request: DirtyRequest, into: &mut dyn DirtySink) -> Result<(), DirtyError> {
        let DirtyRequest { iova, bytes, page_size } = request;
        self.tracks_dirty()?;
        let range = self.span(iova, bytes).map_err(|_| DirtyError::Range { page_sizes: self.page_sizes })?;
        self.may_report(range, page_size)?;
        for (mapping, _) in self.mappings.overlapping(range) {
            into.report(pages_of(range, mapping, page_size))?;
        }
        Ok(into.finish()?)
    }
}

fn leave(processes: &mut Processes, names: [ProcessKey; 2]) {
    for name in names {
        processes.leave(name);
    }
}

/// The pages of a mapping, counted from the first of a range that covers it.
fn pages_of(range: IovaRange, mapping: IovaRange, page_size: u64) -> Range<u64> {
    let page = |iova: Iova| (iova.get() - range.first().get()) / page_size;
    page(mapping.first())..page(mapping.last()) + 1
}

impl Drop for Type1Container {
    fn drop(&mut self) {
        self.remove_all(IovaRange::ALL);
    }
}
