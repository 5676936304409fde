//! Copies: what one address space maps, mapped in another as well.
// Table Ft5, F20.

use alloc::vec;
use alloc::vec::Vec;
use core::iter;

use iommu_core::{Access, Iova, IovaRange, UserAddr};

use super::{Place, check_numbers};
use crate::io_page_table::{Area, IoPageTable, MapError};
use crate::pages::Part;

/// What `IOMMU_IOAS_COPY` is asked for, besides the two address spaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyRequest {
    /// Where the source has it.
    pub from: Iova,
    /// How much, in bytes.
    pub bytes: u64,
    /// Where the destination gets it.
    pub place: Place,
    /// What devices may do there.
    pub access: Access,
}

impl CopyRequest {
    /// What is wrong whatever the address spaces.
    // Ft5.2.
    pub(crate) fn check(&self) -> Result<(), MapError> {
        if self.from.get() == u64::MAX {
            return Err(MapError::Overflow);
        }
        check_numbers(self.place, self.bytes)
    }
}

/// What is copied.
pub(crate) enum Source {
    /// Part of one area, as mostly.
    One(Part),
    /// Parts of the areas that make it up, ascending.
    Several(Vec<Part>),
}

impl Source {
    // Ft5.5, Ft5.6.
    #[inline]
    pub(crate) fn of(table: &mut IoPageTable, request: &CopyRequest) -> Result<Self, MapError> {
        if request.bytes == 0 {
            return Err(MapError::BadLength);
        }
        let range = IovaRange::sized(request.from, request.bytes).ok_or(MapError::Overflow)?;
        let first = part(table, range).ok_or(MapError::SourceNotMapped { range })?;
        if first.bytes == range.bytes() { Ok(Self::One(first)) } else { Self::several(table, range, first) }
    }

    #[cold]
    fn several(table: &mut IoPageTable, range: IovaRange, first: Part) -> Result<Self, MapError> {
        let mut done = first.bytes;
        let mut parts = vec![first];
        while done < range.bytes() {
            let left = range.first().checked_add(done).and_then(|next| IovaRange::new(next, range.last()));
            let part = left.and_then(|left| part(table, left)).ok_or(MapError::SourceNotMapped { range })?;
            done += part.bytes;
            parts.push(part);
        }
        Ok(Self::Several(parts))
    }

    /// Makes one area for each part.
    // From Ft5.8 on.
    // F20.
    #[inline]
    pub(crate) fn put(self, table: &mut IoPageTable, request: &CopyRequest) -> Result<Iova, MapError> {
        match self {
            Self::One(part) => {
                let range = check(iter::once(&part), table, request)?;
                table.add_area(range, Area::Shared(part.mapped(Some(request.access))))?;
                Ok(range.first())
            }
            Self::Several(parts) => put_several(parts, table, request),
        }
    }
}

#[cold]
fn put_several(parts: Vec<Part>, table: &mut IoPageTable, request: &CopyRequest) -> Result<Iova, MapError> {
    let range = check(parts.iter(), table, request)?;
    // One part alone finds out when it is added.
    table.check_vacant(range)?;
    let mut copying = Copying { table, first: range.first(), done: 0 };
    for part in parts {
        copying.add(part, Some(request.access))?;
    }
    copying.done = 0;
    Ok(range.first())
}

/// Where parts go.
// Ft4.8 to Ft4.14, for a copy.
#[inline]
fn check<'a>(
    mut parts: impl Iterator<Item = &'a Part> + Clone,
    table: &mut IoPageTable,
    request: &CopyRequest,
) -> Result<IovaRange, MapError> {
    let alignment = table.alignment();
    let addr = parts.clone().next().map_or(UserAddr::new(0), Part::addr);
    let range = table.choose(request.place, addr, request.bytes, alignment)?;
    if parts.clone().any(|part| !part.addr().is_aligned(alignment)) {
        table.check_vacant(range)?;
        return Err(MapError::Misaligned { alignment });
    }
    if request.access.permits(Access::Write) && parts.any(|part| !part.access().permits(Access::Write)) {
        table.check_vacant(range)?;
        return Err(MapError::SourceReadOnly);
    }
    Ok(range)
}

/// What the area at the beginning of a range has of it.
#[expect(clippy::inline_always, reason = "reading it back from memory would wait for the words just stored")]
#[inline(always)]
fn part(table: &mut IoPageTable, range: IovaRange) -> Option<Part> {
    let (area_range, area) = table.areas.get_mut(range.first())?;
    let bytes = area_range.intersection(range)?.bytes();
    Some(area.share().part(range.first().get() - area_range.first().get(), bytes))
}

/// A copy that is being made. Dropping it takes out what was made.
struct Copying<'a> {
    table: &'a mut IoPageTable,
    first: Iova,
    /// How many bytes were made.
    done: u64,
}

impl Copying<'_> {
    /// Makes an area more.
    fn add(&mut self, part: Part, permitted: Option<Access>) -> Result<(), MapError> {
        let at = Iova::new(self.first.get().wrapping_add(self.done));
        let bytes = part.bytes;
        let range = IovaRange::sized(at, bytes).ok_or(MapError::Overflow)?;
        self.table.add_area(range, Area::Shared(part.mapped(permitted)))?;
        self.done += bytes;
        Ok(())
    }
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        let Some(made) = IovaRange::sized(self.first, self.done) else { return };
        while let Some(area) = self.table.areas.first_range_in(made) {
            self.table.remove_area(area.first());
        }
    }
}
