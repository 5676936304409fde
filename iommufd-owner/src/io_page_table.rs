//! An I/O address space: what is mapped, what may not be, and the domains that show it to devices.
// F11.

mod area;
mod domains;
mod placement;
mod reserved;
mod unmap;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::Errno;
use iommu_core::{Iova, IovaMap, IovaRange, MapError as DomainMapError, PhysicalMemory, UserAddr};

pub(crate) use area::{Accesses, Area};
use area::{FillError, Filler};
pub use domains::AddDomainError;
use domains::Shown;
use reserved::Reserved;
pub(crate) use reserved::ReservedFor;
pub(crate) use unmap::Removal;
pub use unmap::UnmapError;

use crate::hwpt::Coherency;
use crate::ioas::Place;
use crate::object_id::{NoObjectError, ObjectId};
use crate::pages::PinError;

/// Whether a domain may use pages larger than the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LargePages {
    /// It may.
    #[default]
    Enabled,
    /// Every page is mapped for itself, so that mappings can be cut.
    Disabled,
}

/// What an IOAS guards with its innermost lock.
#[derive(Debug)]
pub(crate) struct IoPageTable {
    memory: PhysicalMemory,
    pub(crate) areas: IovaMap<Area>,
    reserved: Reserved,
    /// Empty for no restriction.
    // F14.
    allowed: IovaMap<()>,
    domains: BTreeMap<ObjectId, Shown>,
    /// How many domains have each smallest page.
    granules: BTreeMap<u64, usize>,
    /// How many accesses that pin are attached.
    // F13.
    pub(crate) pinning_accesses: u32,
    pub(crate) large_pages: LargePages,
}

impl IoPageTable {
    pub(crate) fn new(memory: PhysicalMemory) -> Self {
        Self {
            memory,
            areas: IovaMap::default(),
            reserved: Reserved::default(),
            allowed: IovaMap::default(),
            domains: BTreeMap::new(),
            granules: BTreeMap::new(),
            pinning_accesses: 0,
            large_pages: LargePages::default(),
        }
    }

    /// What addresses and lengths must be multiples of.
    // F13.
    pub(crate) fn alignment(&self) -> u64 {
        let of_domains = self.granules.last_key_value().map_or(1, |(granule, _)| *granule);
        let whole_pages = self.pinning_accesses > 0 || self.large_pages == LargePages::Disabled;
        if whole_pages { of_domains.max(PAGE_SIZE) } else { of_domains }
    }

    pub(crate) fn has_domains(&self) -> bool {
        !self.domains.is_empty()
    }

    /// Whether no device can bypass CPU caches.
    // Ft12.5.
    pub(crate) fn is_coherent(&self) -> bool {
        self.domains.values().all(|shown| shown.coherency == Coherency::Enforced)
    }

    /// An area that is not a multiple of `alignment`, if any.
    pub(crate) fn violates(&self, alignment: u64) -> Option<IovaRange> {
        if alignment <= self.alignment() {
            return None;
        }
        let mask = alignment - 1;
        let aligned =
            |range: &IovaRange, area: &Area| (range.first().get() | range.bytes() | area.addr().get()) & mask == 0;
        self.areas.iter().find(|(range, area)| !aligned(range, area)).map(|(range, _)| range)
    }

    /// The page sizes that every domain can map, a bit for each, of whole pages of the CPU; all without a domain. Of
    /// smaller ones the CPU's stands for them.
    // F98c.
    pub(crate) fn page_sizes(&self) -> u64 {
        let of_domains = |shown: &Shown| shown.domain.geometry().map_or(0, |geometry| geometry.page_sizes.bitmap());
        let common = self.domains.values().map(of_domains).fold(u64::MAX, |all, sizes| all & sizes);
        let small = PAGE_SIZE - 1;
        let whole = if common & small == 0 { common } else { common & !small | PAGE_SIZE };
        whole.max(self.alignment())
    }

    /// The holes of what is reserved, ascending.
    // F70.
    pub(crate) fn usable(&self) -> Vec<IovaRange> {
        self.reserved.holes(IovaRange::ALL).collect()
    }

    // Ft3.6, Ft3.7.
    pub(crate) fn allow(&mut self, allowed: IovaMap<()>) -> Result<(), RangeError> {
        for (range, ()) in allowed.iter() {
            if let Some(reserved) = self.reserved.first_in(range) {
                return Err(RangeError::Reserved { range: reserved });
            }
        }
        self.allowed = allowed;
        Ok(())
    }

    /// No mapping and no allowed range may be in the way. Reserves all of these, or none.
    // F15.
    pub(crate) fn reserve(
        &mut self,
        ranges: impl IntoIterator<Item = IovaRange> + Clone,
        whose: ReservedFor,
    ) -> Result<(), RangeError> {
        for range in ranges.clone() {
            if let Some(mapped) = self.areas.first_range_in(range) {
                return Err(RangeError::Mapped { range: mapped });
            }
            if let Some(allowed) = self.allowed.first_range_in(range) {
                return Err(RangeError::Allowed { range: allowed });
            }
        }
        for range in ranges {
            self.reserved.insert(range, whose);
        }
        Ok(())
    }

    pub(crate) fn unreserve(&mut self, whose: ReservedFor) {
        self.reserved.remove(whose);
    }

    /// Returns what of a range is mapped without a hole from its first address on.
    pub(crate) fn mapped_from(&self, range: IovaRange) -> Option<IovaRange> {
        let mut last = None;
        for (area, _) in self.areas.overlapping(range) {
            let next = last.map_or(Some(range.first()), |last: Iova| last.checked_add(1))?;
            if !area.contains(next) {
                break;
            }
            last = Some(area.last());
        }
        IovaRange::new(range.first(), last?.min(range.last()))
    }

    /// Where a new area of these bytes of memory at `addr` goes, of this [`alignment`](Self::alignment).
    // Ft4.8 to Ft4.12.
    #[inline]
    pub(crate) fn choose(
        &mut self,
        place: Place,
        addr: UserAddr,
        bytes: u64,
        alignment: u64,
    ) -> Result<IovaRange, MapError> {
        if bytes & (alignment - 1) != 0 {
            return Err(MapError::Misaligned { alignment });
        }
        match place {
            // F16.
            Place::Anywhere => {
                placement::place(&mut self.areas, &self.allowed, &self.reserved, alignment, addr.get(), bytes)
            }
            Place::Fixed(iova) => self.check_fixed(iova, bytes, alignment),
        }
    }

    // Ft4.10 to Ft4.12.
    #[inline]
    fn check_fixed(&self, iova: Iova, bytes: u64, alignment: u64) -> Result<IovaRange, MapError> {
        if !iova.is_aligned(alignment) {
            return Err(MapError::Misaligned { alignment });
        }
        let range = IovaRange::sized(iova, bytes).ok_or(MapError::Overflow)?;
        self.reserved.first_in(range).map_or(Ok(range), |reserved| Err(MapError::Reserved { range: reserved }))
    }

    // Ft4.13.
    pub(crate) fn check_vacant(&self, range: IovaRange) -> Result<(), MapError> {
        self.areas.first_range_in(range).map_or(Ok(()), |existing| Err(MapError::Mapped { existing }))
    }

    /// Makes an area, in every domain or not at all. The range was checked, except that it is vacant and that the domains can
    /// map it.
    // F18.
    #[inline]
    pub(crate) fn add_area(&mut self, range: IovaRange, mut area: Area) -> Result<(), MapError> {
        let place = self.areas.vacant(range).map_err(|overlap| MapError::Mapped { existing: overlap.existing })?;
        if !self.domains.is_empty() {
            show(&mut area, range, &self.domains, Filler { memory: &self.memory, large_pages: self.large_pages })?;
        }
        place.insert(area);
        Ok(())
    }
}

/// Maps an area into all domains, or into none.
#[inline(never)]
fn show(
    area: &mut Area,
    range: IovaRange,
    domains: &BTreeMap<ObjectId, Shown>,
    filler: Filler<'_>,
) -> Result<(), MapError> {
    Ok(area.map(range, domains.values(), filler)?)
}

impl From<FillError> for MapError {
    fn from(error: FillError) -> Self {
        match error {
            FillError::Pin(error) => error.into(),
            FillError::Domain(error) => error.into(),
        }
    }
}

/// What keeps a range from being reserved, or allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// A mapping.
    #[error("{range} is mapped")]
    Mapped {
        /// Where.
        range: IovaRange,
    },
    /// A range in the allowed IOVA list.
    #[error("{range} is in the allowed IOVA list")]
    Allowed {
        /// Where.
        range: IovaRange,
    },
    /// Something reserved.
    #[error("{range} is reserved")]
    Reserved {
        /// Where.
        range: IovaRange,
    },
}

impl RangeError {
    /// Returns `EADDRINUSE`.
    pub const fn errno(&self) -> Errno {
        Errno::EADDRINUSE
    }
}

/// Why nothing was mapped.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// No such address space.
    #[error(transparent)]
    NoObject(#[from] NoObjectError),
    /// A number is too large.
    #[error("addresses or lengths do not fit in 64 bits")]
    Overflow,
    /// The length is 0.
    #[error("the length is 0, or beyond any memory")]
    BadLength,
    /// A number is not a multiple of what the domains map.
    #[error("addresses and length must be multiples of {alignment:#x}")]
    Misaligned {
        /// What they must be multiples of.
        alignment: u64,
    },
    /// A device or a domain cannot use that address.
    #[error("{range} is reserved")]
    Reserved {
        /// What is reserved.
        range: IovaRange,
    },
    /// Something is mapped there.
    #[error("{existing} is mapped already")]
    Mapped {
        /// The lowest mapping in the way.
        existing: IovaRange,
    },
    /// No hole is large enough.
    #[error("there is no place for {bytes:#x} bytes")]
    NoPlace {
        /// How many.
        bytes: u64,
    },
    /// The source of a copy is not wholly mapped.
    #[error("{range} of the source is not wholly mapped")]
    SourceNotMapped {
        /// What was to be copied.
        range: IovaRange,
    },
    /// The source of a copy is mapped for reading only.
    #[error("the source is mapped for reading only")]
    SourceReadOnly,
    /// The memory was not pinned.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// A domain did not take it.
    #[error(transparent)]
    Domain(#[from] DomainMapError),
}

impl MapError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoObject(error) => error.errno(),
            Self::Overflow => Errno::EOVERFLOW,
            Self::BadLength | Self::Misaligned { .. } | Self::Reserved { .. } => Errno::EINVAL,
            Self::Mapped { .. } => Errno::EEXIST,
            Self::NoPlace { .. } => Errno::ENOSPC,
            Self::SourceNotMapped { .. } => Errno::ENOENT,
            Self::SourceReadOnly => Errno::EPERM,
            Self::Pin(error) => error.errno(),
            Self::Domain(error) => error.errno(),
        }
    }
}
