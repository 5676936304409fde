//! Users in the kernel that reach an address space without DMA (F59, F60).

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::sync::{LockClass, Mutex};
use iommu_core::user_memory::PinnedRun;
use iommu_core::{Access, Iova, IovaRange};

use crate::context::Context;
use crate::error::{AccessError, PinError};
use crate::io_page_table::{Accesses, Area};
use crate::ioas::Ioas;
use crate::object::{Object, ObjectId, Use};
use crate::pages::{Pages, Slice};

const ACCESS_LOCK: LockClass = LockClass::new("access", 605);

/// What an access does when something that it may have pinned is unmapped: it lets go of what lies there.
pub type UnmapNotice = Box<dyn Fn(IovaRange) + Send + Sync>;

/// An access of a context. Dropping it detaches it.
pub struct IoasAccess {
    id: ObjectId,
    state: Arc<AccessState>,
    object: Option<Use>,
    context: Context,
}

pub(crate) struct AccessState {
    /// `None` for an access that never pins.
    notice: Option<UnmapNotice>,
    /// The lock of an access: outside those of areas, not held during a notice (L21, L31).
    target: Mutex<Target>,
}

/// Which address space an access uses.
#[derive(Debug, Clone)]
enum Target {
    Nothing,
    Ioas(Arc<Ioas>, Arc<Use>),
    /// It is being asked to let go of one.
    Leaving,
}

/// Memory that an access has pinned; dropping it unpins.
#[derive(Debug)]
#[must_use = "dropping it unpins the memory"]
pub struct AccessPins {
    ioas: Weak<Ioas>,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    area: Iova,
    pages: Arc<Pages>,
    slice: Slice,
}

impl AccessState {
    /// Something is unmapped. Called without locks.
    pub(crate) fn notify(&self, range: IovaRange) {
        if let Some(notice) = &self.notice {
            notice(range);
        }
    }

    pub(crate) fn pins(&self) -> bool {
        self.notice.is_some()
    }
}

impl IoasAccess {
    pub(crate) fn create(context: &Context, notice: Option<UnmapNotice>) -> Result<Self, AccessError> {
        let state = Arc::new(AccessState { notice, target: Mutex::of(ACCESS_LOCK, Target::Nothing) });
        let (id, object) = context.objects().reserve()?.publish_used(Object::Access);
        Ok(Self { id, state, object: Some(object), context: context.clone() })
    }

    /// Its id in the context.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Attaches it to an address space; if it pins, mappings there must be of whole pages from then on (F13).
    ///
    /// # Errors
    /// It is attached, there is no such address space, or a mapping is not of whole pages.
    pub fn attach(&self, ioas: ObjectId) -> Result<(), AccessError> {
        let mut target = self.state.target.lock();
        match &*target {
            Target::Nothing => {}
            Target::Ioas(..) => return Err(AccessError::Attached),
            Target::Leaving => return Err(AccessError::Leaving),
        }
        let (ioas, used) = self.context.ioas(ioas)?;
        ioas.join(&self.state)?;
        *target = Target::Ioas(ioas, Arc::new(used));
        Ok(())
    }

    /// Moves it to another address space, after it was asked to let go of everything in the old one. Until it has, it uses
    /// none.
    ///
    /// # Errors
    /// It is not attached, or about to leave; or as for [`attach`](Self::attach). It stays where it was.
    pub fn replace(&self, ioas: ObjectId) -> Result<(), AccessError> {
        let mut target = self.state.target.lock();
        let (old, old_use) = match &*target {
            Target::Nothing => return Err(AccessError::NotAttached),
            Target::Leaving => return Err(AccessError::Leaving),
            Target::Ioas(ioas, used) => (ioas.clone(), used.clone()),
        };
        let (ioas, used) = self.context.ioas(ioas)?;
        if Arc::ptr_eq(&ioas, &old) {
            return Ok(());
        }
        ioas.join(&self.state)?;
        *target = Target::Leaving;
        drop(target);
        self.state.notify(IovaRange::ALL);
        old.leave(&self.state);
        *self.state.target.lock() = Target::Ioas(ioas, Arc::new(used));
        drop(old_use);
        Ok(())
    }

    /// Detaches it, after it was asked to let go of everything. Nothing happens if it is not attached.
    ///
    /// # Errors
    /// Another thread detaches or moves it (`EBUSY`).
    pub fn detach(&self) -> Result<(), AccessError> {
        let mut target = self.state.target.lock();
        let (ioas, used) = match core::mem::replace(&mut *target, Target::Leaving) {
            Target::Nothing => {
                *target = Target::Nothing;
                return Ok(());
            }
            Target::Leaving => return Err(AccessError::Leaving),
            Target::Ioas(ioas, used) => (ioas, used),
        };
        drop(target);
        self.state.notify(IovaRange::ALL);
        ioas.leave(&self.state);
        *self.state.target.lock() = Target::Nothing;
        drop((ioas, used));
        Ok(())
    }

    fn target(&self) -> Result<Arc<Ioas>, AccessError> {
        match &*self.state.target.lock() {
            Target::Ioas(ioas, _) => Ok(ioas.clone()),
            Target::Nothing | Target::Leaving => Err(AccessError::NotAttached),
        }
    }

    /// Pins a range; all or nothing (F60).
    ///
    /// # Errors
    /// Each says what speaks against it; nothing is pinned.
    pub fn pin(&self, iova: Iova, bytes: u64, access: Access) -> Result<AccessPins, AccessError> {
        if !self.state.pins() {
            return Err(AccessError::NeverPins);
        }
        let range = check_range(iova, bytes)?;
        let ioas = self.target()?;
        let mut pins = AccessPins { ioas: Arc::downgrade(&ioas), parts: Vec::new() };
        let mut table = ioas.lock_table();
        let mut next = Some(range.first());
        while let Some(at) = next.filter(|at| range.contains(*at)) {
            let result = pin_part(&mut table, at, range, access);
            match result {
                Ok((part, behind)) => {
                    pins.parts.push(part);
                    next = behind;
                }
                Err(error) => {
                    drop(table);
                    return Err(error);
                }
            }
        }
        drop(table);
        Ok(pins)
    }

    /// Reads through the address space; what lies before a mistake has been read.
    ///
    /// # Errors
    /// As for [`pin`](Self::pin), but that nothing needs whole pages.
    pub fn read(&self, iova: Iova, into: &mut [u8]) -> Result<(), AccessError> {
        let total = into.len();
        self.each_part(iova, total, Access::Read, |pages, offset, part| {
            let into = into.get_mut(part).unwrap_or_default();
            pages.process().read(pages.addr(offset), into).map_err(|error| PinError::from(error).into())
        })
    }

    /// Writes through the address space; what lies before a mistake has been written.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn write(&self, iova: Iova, from: &[u8]) -> Result<(), AccessError> {
        self.each_part(iova, from.len(), Access::Write, |pages, offset, part| {
            let from = from.get(part).unwrap_or_default();
            pages.process().write(pages.addr(offset), from).map_err(|error| PinError::from(error).into())
        })
    }

    fn each_part(
        &self,
        iova: Iova,
        bytes: usize,
        access: Access,
        mut touch: impl FnMut(&Pages, u64, core::ops::Range<usize>) -> Result<(), AccessError>,
    ) -> Result<(), AccessError> {
        let range = check_range(iova, bytes as u64)?;
        let ioas = self.target()?;
        let table = ioas.lock_table();
        let mut done = 0;
        while done < bytes {
            let at = Iova::new(iova.get() + done as u64);
            let (area_range, area) = table.areas.get(at).ok_or(AccessError::NotMapped { range })?;
            area.admit(area_range, access)?;
            let left = (area_range.last().get() - at.get()).saturating_add(1);
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(bytes - done);
            touch(&area.pages, area.offset + (at.get() - area_range.first().get()), done..done + length)?;
            done += length;
        }
        Ok(())
    }
}

fn check_range(iova: Iova, bytes: u64) -> Result<IovaRange, AccessError> {
    if bytes == 0 {
        return Err(AccessError::BadRange);
    }
    IovaRange::sized(iova, bytes).ok_or(AccessError::Overflow)
}

impl Area {
    /// Whether an access may use it so.
    fn admit(&self, range: IovaRange, access: Access) -> Result<(), AccessError> {
        if self.accesses == Accesses::Refused {
            return Err(AccessError::Unmapping { area: range });
        }
        if !self.access.permits(access) {
            return Err(AccessError::NotPermitted { area: range });
        }
        Ok(())
    }
}

/// Pins what of `range` lies in the area at `at`; where the rest begins.
fn pin_part(
    table: &mut crate::io_page_table::IoPageTable,
    at: Iova,
    range: IovaRange,
    access: Access,
) -> Result<(Part, Option<Iova>), AccessError> {
    let (area_range, area) = table.areas.get_mut(at).ok_or(AccessError::NotMapped { range })?;
    area.admit(area_range, access)?;
    let part = area_range.intersection(range).ok_or(AccessError::NotMapped { range })?;
    let offset = area.offset + (part.first().get() - area_range.first().get());
    if !(offset | part.bytes()).is_multiple_of(PAGE_SIZE) {
        return Err(AccessError::BadRange);
    }
    let slice = Slice::of(offset, part.bytes());
    area.pages.pin(slice)?;
    area.access_pins += 1;
    Ok((Part { area: area_range.first(), pages: area.pages.clone(), slice }, part.last().checked_add(1)))
}

impl AccessPins {
    /// The physical memory, in order, in pieces as long as possible.
    pub fn runs(&self) -> Vec<PinnedRun> {
        self.parts.iter().flat_map(|part| part.pages.runs(part.slice)).collect()
    }
}

impl Drop for AccessPins {
    fn drop(&mut self) {
        let ioas = self.ioas.upgrade();
        for part in self.parts.drain(..) {
            part.pages.unpin(part.slice);
            if let Some(ioas) = &ioas
                && let Some((_, area)) = ioas.lock_table().areas.get_mut(part.area)
            {
                area.access_pins = area.access_pins.saturating_sub(1);
            }
        }
    }
}

impl Drop for IoasAccess {
    fn drop(&mut self) {
        // Nobody else has it, so nobody else detaches it.
        let _ = self.detach();
        self.object = None;
        drop(self.context.objects().retire(self.id));
    }
}

impl fmt::Debug for AccessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessState").field("target", &self.target).finish_non_exhaustive()
    }
}

impl fmt::Debug for IoasAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoasAccess").field("id", &self.id).finish_non_exhaustive()
    }
}
