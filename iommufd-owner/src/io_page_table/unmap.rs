//! Unmapping: areas go as a whole, unless they can be cut.
// Table Ft6, F61.

use iommu_core::device_model::Errno;
use iommu_core::{Iova, IovaRange};

use super::{Area, IoPageTable};
use crate::object_id::NoObjectError;

impl IoPageTable {
    /// Unmaps an area that is all of a range, and returns whether there was one. Mostly, what was mapped at once is unmapped
    /// at once.
    #[inline]
    pub(crate) fn remove_whole(&mut self, range: IovaRange) -> bool {
        self.remove_area_if(range.first(), |area_range, area| area_range == range && area.access_pins() == 0)
    }

    /// Unmaps the areas of a range in ascending order. Stops at one that accesses have pinned.
    // Table Ft6, F21.
    pub(crate) fn remove_areas(&mut self, removal: &mut Removal) -> Result<(), UnmapError> {
        let range = removal.range;
        while let Some((area_range, area)) = removal.rest.and_then(|rest| self.areas.first_in(rest)) {
            if !range.covers(area_range) {
                return Err(UnmapError::WouldCut { area: area_range });
            }
            if area.access_pins() > 0 {
                return Err(UnmapError::Pinned { area: area_range });
            }
            self.remove_area(area_range.first());
            removal.done(area_range);
        }
        if removal.bytes > 0 { Ok(()) } else { Err(UnmapError::NotMapped { range }) }
    }

    pub(crate) fn remove_area(&mut self, first: Iova) {
        self.remove_area_if(first, |_, _| true);
    }

    /// Removes the area that begins at `first` if it is wanted, and returns whether it was.
    #[inline]
    fn remove_area_if(&mut self, first: Iova, wanted: impl FnOnce(IovaRange, &Area) -> bool) -> bool {
        if self.domains.is_empty() {
            return self.areas.drop_if(first, wanted);
        }
        let removed = self.areas.remove_if(first, wanted);
        let Some((range, mut area)) = removed else { return false };
        area.unmap(range, self.domains.values());
        true
    }

    /// Cuts an area in two behind `last`, unless that is its first or last address. No domain may use large pages.
    // F61, Ft12.8.
    pub(crate) fn cut(&mut self, last: Iova) -> Result<(), UnmapError> {
        let across = self.areas.get(last).filter(|(range, _)| range.first() != last && range.last() != last);
        let Some(((range, area), at)) = across.zip(last.checked_add(1)) else { return Ok(()) };
        let alignment = self.alignment();
        if !at.is_aligned(alignment) || area.access_pins() > 0 {
            return Err(UnmapError::CannotCut { area: range, at });
        }
        let Some((range, area)) = self.areas.remove(range.first()) else { return Ok(()) };
        let length = at.get() - range.first().get();
        let halves = [IovaRange::sized(range.first(), length), IovaRange::new(at, range.last())];
        for (half, area) in halves.into_iter().zip(area.split(range, length)) {
            if let Some(half) = half {
                // The whole was there before, so its halves have room.
                let _ = self.areas.insert(half, area);
            }
        }
        Ok(())
    }
}

/// An unmap under way.
#[derive(Debug)]
pub(crate) struct Removal {
    range: IovaRange,
    /// What is behind the areas that were unmapped; what others map before it stays.
    // F24.
    rest: Option<IovaRange>,
    bytes: u64,
}

impl Removal {
    pub(crate) fn of(range: IovaRange) -> Self {
        Self { range, rest: Some(range), bytes: 0 }
    }

    /// How many bytes were unmapped.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn done(&mut self, area: IovaRange) {
        self.bytes = self.bytes.saturating_add(area.bytes());
        self.rest = area.last().checked_add(1).and_then(|next| IovaRange::new(next, self.range.last()));
    }
}

/// Why an unmap stopped. What it had unmapped until then stays so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnmapError {
    /// No such address space.
    #[error(transparent)]
    NoObject(#[from] NoObjectError),
    /// A number is too large.
    #[error("addresses or lengths do not fit in 64 bits")]
    Overflow,
    /// The length is 0.
    #[error("the length is 0")]
    BadLength,
    /// Nothing is there.
    #[error("nothing is mapped in {range}")]
    NotMapped {
        /// Where.
        range: IovaRange,
    },
    /// A mapping sticks out of the range.
    #[error("the range would split the mapping {area}")]
    WouldCut {
        /// The mapping.
        area: IovaRange,
    },
    /// A user in the kernel has it pinned, and does not let go.
    #[error("{area} is pinned by an access")]
    Pinned {
        /// The mapping.
        area: IovaRange,
    },
    /// A mapping cannot be cut there.
    #[error("the mapping {area} cannot be cut at {at}")]
    CannotCut {
        /// The mapping.
        area: IovaRange,
        /// Where.
        at: Iova,
    },
}

impl UnmapError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoObject(error) => error.errno(),
            Self::Overflow => Errno::EOVERFLOW,
            Self::BadLength | Self::CannotCut { .. } => Errno::EINVAL,
            Self::NotMapped { .. } | Self::WouldCut { .. } => Errno::ENOENT,
            Self::Pinned { .. } => Errno::EDEADLK,
        }
    }
}
