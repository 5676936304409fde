//! Users in the kernel that reach an address space without DMA (F59, F60).

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::sync::Mutex;
use iommu_core::user_memory::PinnedRun;
use iommu_core::{Access, Iova, IovaRange};

use crate::context::Context;
use crate::error::{AccessError, PinError};
use crate::io_page_table::Accesses;
use crate::ioas::Ioas;
use crate::object::{Object, ObjectId, Use};
use crate::pages::{Pages, Slice};

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
    notice: UnmapNotice,
    /// Leaf lock.
    target: Mutex<Option<Target>>,
}

#[derive(Debug, Clone)]
struct Target {
    ioas: Arc<Ioas>,
    _use: Arc<Use>,
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
        (self.notice)(range);
    }
}

impl IoasAccess {
    pub(crate) fn create(context: &Context, notice: UnmapNotice) -> Result<Self, AccessError> {
        let reserved = context.objects().reserve()?;
        let state = Arc::new(AccessState { notice, target: Mutex::new(None) });
        let id = reserved.publish(Object::Access);
        let object = context.objects().get(id).map(|(_, used)| used);
        Ok(Self { id, state, object, context: context.clone() })
    }

    /// Its id in the context.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Attaches it to an address space, whose mappings must be of whole pages from then on (F13).
    ///
    /// # Errors
    /// It is attached, there is no such address space, or a mapping is not of whole pages.
    pub fn attach(&self, ioas: ObjectId) -> Result<(), AccessError> {
        let (ioas, used) = self.context.ioas(ioas)?;
        if self.state.target.lock().is_some() {
            return Err(AccessError::Attached);
        }
        {
            let mut table = ioas.lock_table();
            if let Some(range) = table.violates(PAGE_SIZE) {
                return Err(crate::error::InTheWay::Mapped { range }.into());
            }
            table.pinning_accesses += 1;
        }
        ioas.add_access(&self.state);
        *self.state.target.lock() = Some(Target { ioas, _use: Arc::new(used) });
        Ok(())
    }

    /// Detaches it, after it was asked to let go of everything. Nothing happens if it is not attached.
    pub fn detach(&self) {
        let target = self.state.target.lock().take();
        if let Some(Target { ioas, .. }) = target {
            self.state.notify(IovaRange::ALL);
            ioas.remove_access(&self.state);
            ioas.lock_table().pinning_accesses -= 1;
        }
    }

    fn target(&self) -> Result<Target, AccessError> {
        self.state.target.lock().clone().ok_or(AccessError::NotAttached)
    }

    /// Pins a range; all or nothing (F60).
    ///
    /// # Errors
    /// Each says what speaks against it; nothing is pinned.
    pub fn pin(&self, iova: Iova, bytes: u64, access: Access) -> Result<AccessPins, AccessError> {
        let Target { ioas, .. } = self.target()?;
        let range = IovaRange::sized(iova, bytes).ok_or(AccessError::BadRange)?;
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
        let Target { ioas, .. } = self.target()?;
        let range = IovaRange::sized(iova, bytes as u64).ok_or(AccessError::BadRange)?;
        let table = ioas.lock_table();
        let mut done = 0;
        while done < bytes {
            let at = Iova::new(iova.get() + done as u64);
            let (area_range, area) = table.areas.get(at).ok_or(AccessError::NotMapped { range })?;
            if !area.access.permits(access) {
                return Err(AccessError::NotPermitted { area: area_range });
            }
            let left = (area_range.last().get() - at.get()).saturating_add(1);
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(bytes - done);
            touch(&area.pages, area.offset + (at.get() - area_range.first().get()), done..done + length)?;
            done += length;
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
    if area.accesses == Accesses::Refused {
        return Err(AccessError::Unmapping { area: area_range });
    }
    if !area.access.permits(access) {
        return Err(AccessError::NotPermitted { area: area_range });
    }
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
        self.detach();
        self.object = None;
        let _ = self.context.objects().remove(self.id);
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
