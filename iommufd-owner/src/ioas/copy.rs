//! Copies: what one address space maps, mapped in another as well.
// Table Ft5, F20.

use alloc::vec::Vec;

use iommu_core::{Access, Iova, IovaRange};

use super::{Ioas, Place, check_numbers};
use crate::io_page_table::{Area, IoPageTable, MapError};
use crate::pages::Shared;

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

impl Ioas {
    /// The parts of areas that make up the source of a copy.
    // Ft5.5, Ft5.6.
    pub(crate) fn copy_source(&self, request: &CopyRequest) -> Result<Source, MapError> {
        if request.bytes == 0 {
            return Err(MapError::BadLength);
        }
        let range = IovaRange::sized(request.from, request.bytes).ok_or(MapError::Overflow)?;
        let gone = MapError::SourceNotMapped { range };
        let mut table = self.lock_table();
        let mut next = Some(range);
        let mut piece = || {
            let rest = next?;
            let (area_range, area) = table.areas.get_mut(rest.first())?;
            let part = area_range.intersection(rest)?;
            next = part.last().checked_add(1).and_then(|at| IovaRange::new(at, range.last()));
            let skip = part.first().get() - area_range.first().get();
            Some(Piece { memory: area.share().part(skip, part.bytes(), Some(request.access)), bytes: part.bytes() })
        };
        let first = piece().ok_or_else(|| gone.clone())?;
        let mut source = Source { first, rest: Vec::new() };
        source.rest.extend(core::iter::from_fn(piece));
        let covered: u64 = source.pieces().map(|piece| piece.bytes).sum();
        if covered == range.bytes() { Ok(source) } else { Err(gone) }
    }

    /// One area for each piece of the source.
    // From Ft5.8 on.
    // F20.
    pub(crate) fn copy(&self, source: Source, request: &CopyRequest) -> Result<Iova, MapError> {
        let CopyRequest { bytes, place, access, .. } = *request;
        let mut table = self.lock_table();
        let range = check_copy(&mut table, &source, place, bytes)?;
        if access.permits(Access::Write) && source.pieces().any(|piece| !piece.memory.access().permits(Access::Write)) {
            return Err(MapError::SourceReadOnly);
        }
        let mut copying = Copying { table: &mut table, first: range.first(), done: 0 };
        for Piece { memory, bytes } in core::iter::once(source.first).chain(source.rest) {
            copying.add(Area::Shared(memory), bytes)?;
        }
        copying.done = 0;
        Ok(range.first())
    }
}

/// A copy that is being made. Dropping it takes out what was made.
struct Copying<'a> {
    table: &'a mut IoPageTable,
    first: Iova,
    /// How many bytes were made.
    done: u64,
}

impl Copying<'_> {
    /// Makes an area of so many bytes more.
    fn add(&mut self, area: Area, bytes: u64) -> Result<(), MapError> {
        let at = Iova::new(self.first.get().wrapping_add(self.done));
        self.table.add_area(IovaRange::sized(at, bytes).ok_or(MapError::Overflow)?, area)?;
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

/// What is copied.
pub(crate) struct Source {
    first: Piece,
    rest: Vec<Piece>,
}

impl Source {
    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        core::iter::once(&self.first).chain(&self.rest)
    }
}

/// A part of an area.
struct Piece {
    memory: Shared,
    bytes: u64,
}

/// Where a copy goes.
// Ft4.8 to Ft4.14, for a copy.
fn check_copy(table: &mut IoPageTable, source: &Source, place: Place, bytes: u64) -> Result<IovaRange, MapError> {
    let alignment = table.alignment();
    if !bytes.is_multiple_of(alignment) {
        return Err(MapError::Misaligned { alignment });
    }
    let range = match place {
        Place::Anywhere => table.place(source.first.memory.addr().get(), bytes)?,
        Place::Fixed(iova) => table.check_fixed(iova, bytes)?,
    };
    table.check_vacant(range)?;
    let misaligned = |piece: &Piece| !piece.memory.addr().get().is_multiple_of(alignment);
    if source.pieces().any(misaligned) { Err(MapError::Misaligned { alignment }) } else { Ok(range) }
}
