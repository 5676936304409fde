//! I/O address spaces.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::sync::{LockClass, Mutex, MutexGuard};
use iommu_core::user_memory::Account;
use iommu_core::{Access, Iova, IovaRange, PhysicalMemory, UserAddr, UserMemory};

use crate::access::AccessState;
use crate::error::{InTheWay, IoasError, MapErr, UnmapErr};
use crate::hwpt::Hwpt;
use crate::io_page_table::{Accesses, IoPageTable, LargePages};
use crate::pages::Pages;

const HWPTS_LOCK: LockClass = LockClass::new("IOAS", 610);
const AREAS_LOCK: LockClass = LockClass::new("I/O page table", 630);

/// How often accesses are asked to let go of what is to be unmapped (Ft6.9).
const ASKS: usize = 100;

/// Where a mapping is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Here.
    Fixed(Iova),
    /// At the lowest place that fits (F16).
    Anywhere,
}

/// What `IOMMU_IOAS_MAP` is asked for.
#[derive(Clone, Debug)]
pub struct MapRequest {
    /// Where devices see it.
    pub place: Place,
    /// How much, in bytes.
    pub bytes: u64,
    /// Whose memory: that of the process that asks.
    pub process: Arc<dyn UserMemory>,
    /// Where the process sees it.
    pub addr: UserAddr,
    /// What devices may do.
    pub access: Access,
}

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

/// An I/O address space: an object of a context.
#[derive(Debug)]
pub(crate) struct Ioas {
    /// The IOAS lock: the page tables that show it, oldest first. Taken outside those of groups and of areas.
    hwpts: Mutex<Vec<Weak<Hwpt>>>,
    /// The lock of the areas: inside that of a group.
    table: Mutex<IoPageTable>,
    /// Leaf lock: users in the kernel.
    accesses: Mutex<Vec<Weak<AccessState>>>,
}

impl Ioas {
    pub(crate) fn new(memory: PhysicalMemory) -> Arc<Self> {
        Arc::new(Self {
            hwpts: Mutex::of(HWPTS_LOCK, Vec::new()),
            table: Mutex::of(AREAS_LOCK, IoPageTable::new(memory)),
            accesses: Mutex::default(),
        })
    }

    pub(crate) fn lock_hwpts(&self) -> MutexGuard<'_, Vec<Weak<Hwpt>>> {
        self.hwpts.lock()
    }

    pub(crate) fn lock_table(&self) -> MutexGuard<'_, IoPageTable> {
        self.table.lock()
    }

    /// One user in the kernel more; one that pins demands whole pages (F13, F59).
    pub(crate) fn join(&self, access: &Arc<AccessState>) -> Result<(), InTheWay> {
        if access.pins() {
            let mut table = self.lock_table();
            if let Some(range) = table.violates(PAGE_SIZE) {
                return Err(InTheWay::Mapped { range });
            }
            table.pinning_accesses += 1;
        }
        self.accesses.lock().push(Arc::downgrade(access));
        Ok(())
    }

    pub(crate) fn leave(&self, access: &AccessState) {
        self.accesses.lock().retain(|known| !core::ptr::eq(known.as_ptr(), access));
        if access.pins() {
            self.lock_table().pinning_accesses -= 1;
        }
    }

    /// Table Ft4.
    pub(crate) fn map(&self, request: MapRequest, account: Account) -> Result<Iova, MapErr> {
        let MapRequest { place, bytes, process, addr, access } = request;
        if bytes == 0 || bytes > u64::MAX - PAGE_SIZE {
            return Err(MapErr::BadLength);
        }
        addr.checked_add(bytes).ok_or(MapErr::Overflow)?;
        let pages = Pages::new(process, addr, bytes, access, account);
        self.add(place, bytes, pages, addr.get() % PAGE_SIZE, access)
    }

    /// From Ft4.8 on: a part of a window, at a place.
    fn add(&self, place: Place, bytes: u64, pages: Arc<Pages>, offset: u64, access: Access) -> Result<Iova, MapErr> {
        let mut table = self.lock_table();
        let alignment = table.alignment();
        if !bytes.is_multiple_of(alignment) {
            return Err(MapErr::Misaligned { alignment });
        }
        let addr = pages.addr(offset).get();
        let range = match place {
            Place::Anywhere => table.place(addr, bytes)?,
            Place::Fixed(iova) => table.check_fixed(iova, bytes)?,
        };
        if !(addr % PAGE_SIZE).is_multiple_of(alignment) {
            table.check_vacant(range)?;
            return Err(MapErr::Misaligned { alignment });
        }
        table.add_area(range, pages, offset, access)?;
        Ok(range.first())
    }

    /// The parts of areas that make up the source of a copy (Ft5.5, Ft5.6).
    pub(crate) fn pieces(&self, request: &CopyRequest) -> Result<Vec<CopyPiece>, MapErr> {
        if request.bytes == 0 {
            return Err(MapErr::BadLength);
        }
        let range = IovaRange::sized(request.from, request.bytes).ok_or(MapErr::Overflow)?;
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
        if covered == range.bytes() { Ok(pieces) } else { Err(MapErr::SourceNotMapped { range }) }
    }

    /// From Ft5.8 on: one area for each piece of the source (F20).
    pub(crate) fn copy(&self, pieces: Vec<CopyPiece>, request: &CopyRequest) -> Result<Iova, MapErr> {
        let CopyRequest { bytes, place, access, .. } = *request;
        let mut table = self.lock_table();
        let range = check_copy(&table, &pieces, place, bytes)?;
        if pieces.iter().any(|piece| access.permits(Access::Write) && !piece.pages.access.permits(Access::Write)) {
            return Err(MapErr::SourceReadOnly);
        }
        let mut at = range.first();
        for piece in pieces {
            let Some(part) = IovaRange::sized(at, piece.bytes) else { return Err(MapErr::Overflow) };
            if let Err(error) = table.add_area(part, piece.pages, piece.offset, access) {
                if let Some(made) = IovaRange::sized(range.first(), at.get() - range.first().get()) {
                    // Only what was just made is there.
                    let _ = table.remove_areas(made, &mut 0);
                }
                return Err(error);
            }
            at = Iova::new(at.get().wrapping_add(piece.bytes));
        }
        Ok(range.first())
    }

    /// Table Ft6; how many bytes were unmapped.
    pub(crate) fn unmap(&self, iova: Iova, bytes: u64) -> Result<u64, UnmapErr> {
        if iova.get() == 0 && bytes == u64::MAX {
            return match self.remove(IovaRange::ALL) {
                Err(UnmapErr::NotMapped { .. }) => Ok(0),
                other => other,
            };
        }
        if iova.get() == u64::MAX || bytes == u64::MAX {
            return Err(UnmapErr::Overflow);
        }
        if bytes == 0 {
            return Err(UnmapErr::BadLength);
        }
        self.remove(IovaRange::sized(iova, bytes).ok_or(UnmapErr::Overflow)?)
    }

    /// Unmaps a range; accesses that have pinned some of it are asked to let go, with no lock held (F23, L31).
    pub(crate) fn remove(&self, range: IovaRange) -> Result<u64, UnmapErr> {
        let mut bytes = 0;
        for _ in 0..ASKS {
            let area = {
                let mut table = self.lock_table();
                match table.remove_areas(range, &mut bytes) {
                    Err(UnmapErr::Pinned { area }) => {
                        if let Some((_, pinned)) = table.areas.get_mut(area.first()) {
                            pinned.accesses = Accesses::Refused;
                        }
                        area
                    }
                    other => return other.map(|()| bytes),
                }
            };
            let accesses: Vec<_> = self.accesses.lock().iter().filter_map(Weak::upgrade).collect();
            for access in accesses {
                access.notify(area);
            }
        }
        let mut table = self.lock_table();
        table.remove_areas(range, &mut bytes).map(|()| bytes)
    }

    /// `IOMMU_IOAS_ALLOW_IOVAS` (table Ft3).
    pub(crate) fn allow(&self, ranges: &[(Iova, Iova)]) -> Result<(), IoasError> {
        let mut checked: Vec<IovaRange> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            let range = IovaRange::new(*first, *last).filter(|_| first != last).ok_or(IoasError::BadRange)?;
            if let Some(other) = checked.iter().find(|other| other.overlaps(range)) {
                return Err(IoasError::Overlap { one: *other, other: range });
            }
            checked.push(range);
        }
        Ok(self.lock_table().allow(checked)?)
    }

    /// `IOMMU_OPTION_HUGE_PAGES` (Ft7.6 to Ft7.11).
    pub(crate) fn set_large_pages(&self, large_pages: LargePages) -> Result<(), IoasError> {
        let mut table = self.lock_table();
        if large_pages == LargePages::Disabled && table.large_pages == LargePages::Enabled {
            if table.has_domains() && !table.areas.is_empty() {
                return Err(IoasError::DomainsMapped);
            }
            if let Some(range) = table.violates(PAGE_SIZE) {
                return Err(IoasError::InTheWay(InTheWay::Mapped { range }));
            }
        }
        table.large_pages = large_pages;
        Ok(())
    }
}

/// A part of the source of a copy.
pub(crate) struct CopyPiece {
    pages: Arc<Pages>,
    offset: u64,
    bytes: u64,
}

/// Ft4.8 to Ft4.14 for a copy: where it goes.
fn check_copy(table: &IoPageTable, pieces: &[CopyPiece], place: Place, bytes: u64) -> Result<IovaRange, MapErr> {
    let alignment = table.alignment();
    if !bytes.is_multiple_of(alignment) {
        return Err(MapErr::Misaligned { alignment });
    }
    let first = pieces.first().map_or(0, |piece| piece.pages.addr(piece.offset).get());
    let range = match place {
        Place::Anywhere => table.place(first, bytes)?,
        Place::Fixed(iova) => table.check_fixed(iova, bytes)?,
    };
    table.check_vacant(range)?;
    let misaligned = |piece: &CopyPiece| !(piece.pages.addr(piece.offset).get() % PAGE_SIZE).is_multiple_of(alignment);
    if pieces.iter().any(misaligned) { Err(MapErr::Misaligned { alignment }) } else { Ok(range) }
}

impl MapRequest {
    /// Ft4.2: what is wrong whatever the address space.
    pub(crate) fn check(&self) -> Result<(), MapErr> {
        check_numbers(self.place, self.bytes)
    }
}

impl CopyRequest {
    /// Ft5.2: as that.
    pub(crate) fn check(&self) -> Result<(), MapErr> {
        if self.from.get() == u64::MAX {
            return Err(MapErr::Overflow);
        }
        check_numbers(self.place, self.bytes)
    }
}

fn check_numbers(place: Place, bytes: u64) -> Result<(), MapErr> {
    match place {
        _ if bytes == u64::MAX => Err(MapErr::Overflow),
        Place::Fixed(iova) if iova.get() == u64::MAX => Err(MapErr::Overflow),
        _ => Ok(()),
    }
}
