//! Copies: what one address space maps, mapped in another as well.
// Table Ft5, F20.

use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::{Access, Iova, IovaRange};

use super::{Ioas, Place, check_numbers};
use crate::io_page_table::{IoPageTable, MapError};
use crate::pages::Pages;

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
    pub(crate) fn pieces(&self, request: &CopyRequest) -> Result<Vec<CopyPiece>, MapError> {
        if request.bytes == 0 {
            return Err(MapError::BadLength);
        }
        let range = IovaRange::sized(request.from, request.bytes).ok_or(MapError::Overflow)?;
        let table = self.lock_table();
        let mut pieces = Vec::new();
        let mut next = Some(range.first());
        for (area_range, area) in table.areas.overlapping(range) {
            let Some(part) = area_range.intersection(range).filter(|part| Some(part.first()) == next) else { break };
            let offset = area.offset + (part.first().get() - area_range.first().get());
            pieces.push(CopyPiece { pages: area.pages.clone(), offset, bytes: part.bytes() });
            next = part.last().checked_add(1);
        }
        let covered: u64 = pieces.iter().map(|piece| piece.bytes).sum();
        if covered == range.bytes() { Ok(pieces) } else { Err(MapError::SourceNotMapped { range }) }
    }

    /// One area for each piece of the source.
    // From Ft5.8 on.
    // F20.
    pub(crate) fn copy(&self, pieces: Vec<CopyPiece>, request: &CopyRequest) -> Result<Iova, MapError> {
        let CopyRequest { bytes, place, access, .. } = *request;
        let mut table = self.lock_table();
        let range = check_copy(&mut table, &pieces, place, bytes)?;
        if pieces.iter().any(|piece| access.permits(Access::Write) && !piece.pages.access.permits(Access::Write)) {
            return Err(MapError::SourceReadOnly);
        }
        let mut copying = Copying { table: &mut table, made: Vec::new() };
        let mut at = range.first();
        for piece in pieces {
            let part = IovaRange::sized(at, piece.bytes).ok_or(MapError::Overflow)?;
            copying.table.add_area(part, piece.pages, piece.offset, access.into())?;
            copying.made.push(part);
            at = Iova::new(at.get().wrapping_add(piece.bytes));
        }
        copying.made.clear();
        Ok(range.first())
    }
}

/// A copy that is being made. Dropping it takes out what was made.
struct Copying<'a> {
    table: &'a mut IoPageTable,
    made: Vec<IovaRange>,
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        for area in &self.made {
            self.table.remove_area(area.first());
        }
    }
}

/// A part of the source of a copy.
pub(crate) struct CopyPiece {
    pages: Arc<Pages>,
    offset: u64,
    bytes: u64,
}

/// Where a copy goes.
// Ft4.8 to Ft4.14, for a copy.
fn check_copy(table: &mut IoPageTable, pieces: &[CopyPiece], place: Place, bytes: u64) -> Result<IovaRange, MapError> {
    let alignment = table.alignment();
    if !bytes.is_multiple_of(alignment) {
        return Err(MapError::Misaligned { alignment });
    }
    let first = pieces.first().map_or(0, |piece| piece.pages.addr(piece.offset).get());
    let range = match place {
        Place::Anywhere => table.place(first, bytes)?,
        Place::Fixed(iova) => table.check_fixed(iova, bytes)?,
    };
    table.check_vacant(range)?;
    let misaligned = |piece: &CopyPiece| !piece.pages.addr(piece.offset).get().is_multiple_of(alignment);
    if pieces.iter().any(misaligned) { Err(MapError::Misaligned { alignment }) } else { Ok(range) }
}
