//! In-kernel access to an address space without DMA.
// F59, F60.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::{LockClass, Mutex};
use iommu_core::user_memory::PinnedRun;
use iommu_core::{Access, Iova, IovaRange, UserAddr, UserMemory};

use crate::context::Context;
use crate::io_page_table::{Accesses, Area, IoPageTable, RangeError};
use crate::ioas::{Ioas, UnmapListener};
use crate::object::Object;
use crate::object_id::{NoIdsError, NoObjectError, ObjectId};
use crate::object_table::{Owned, Use};
use crate::pages::{PinError, PinnedSlice};

const ACCESS_LOCK: LockClass = LockClass::new("access", 605);

/// Called before a range that an access may have pinned is unmapped: it must unpin everything in the range.
pub type UnmapNotice = Box<dyn Fn(IovaRange) + Send + Sync>;

/// An access of a context. Dropping it detaches it.
pub struct IoasAccess {
    state: Arc<AccessState>,
    object: Owned<Object>,
    context: Context,
}

pub(crate) struct AccessState {
    /// `None` for an access that never pins.
    notice: Option<UnmapNotice>,
    /// The lock of an access: outside those of areas, not held during a notice.
    // L21, L31.
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
    pinned: PinnedSlice,
}

/// An access that is asked to let go of everything. Dropping it ends that, also when the notice unwinds.
struct Letting<'a> {
    access: &'a IoasAccess,
    /// What it leaves in the end.
    leave: (Arc<Ioas>, Arc<Use>),
    /// What it uses then.
    then: Target,
}

impl Drop for Letting<'_> {
    fn drop(&mut self) {
        self.leave.0.leave(self.access.id(), self.access.state.pins());
        *self.access.state.target.lock() = core::mem::replace(&mut self.then, Target::Nothing);
    }
}

impl UnmapListener for AccessState {
    fn unmapping(&self, range: IovaRange) {
        if let Some(notice) = &self.notice {
            notice(range);
        }
    }
}

impl AccessState {
    fn pins(&self) -> bool {
        self.notice.is_some()
    }
}

impl IoasAccess {
    pub(crate) fn create(context: &Context, notice: Option<UnmapNotice>) -> Result<Self, AccessError> {
        let state = Arc::new(AccessState { notice, target: Mutex::of(ACCESS_LOCK, Target::Nothing) });
        let object = context.objects().reserve()?.publish_owned(Object::Access);
        Ok(Self { state, object, context: context.clone() })
    }

    /// Returns its id in the context.
    pub fn id(&self) -> ObjectId {
        self.object.id()
    }

    fn join(&self, ioas: &Ioas) -> Result<(), AccessError> {
        let state: Weak<AccessState> = Arc::downgrade(&self.state);
        Ok(ioas.join(self.id(), state, self.state.pins())?)
    }

    /// Attaches it to an address space; if it pins, mappings there must be of whole pages from then on.
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
        let (ioas, used) = self.context.use_ioas(ioas)?;
        self.join(&ioas)?;
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
        let (ioas, used) = self.context.use_ioas(ioas)?;
        if Arc::ptr_eq(&ioas, &old) {
            return Ok(());
        }
        self.join(&ioas)?;
        *target = Target::Leaving;
        drop(target);
        let (old, new) = ((old, old_use), (ioas, Arc::new(used)));
        let mut letting =
            Letting { access: self, leave: new.clone(), then: Target::Ioas(old.0.clone(), old.1.clone()) };
        self.state.unmapping(IovaRange::ALL);
        letting.leave = old;
        letting.then = Target::Ioas(new.0, new.1);
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
        let _letting = Letting { access: self, leave: (ioas, used), then: Target::Nothing };
        self.state.unmapping(IovaRange::ALL);
        Ok(())
    }

    fn target(&self) -> Result<Arc<Ioas>, AccessError> {
        match &*self.state.target.lock() {
            Target::Ioas(ioas, _) => Ok(ioas.clone()),
            Target::Nothing | Target::Leaving => Err(AccessError::NotAttached),
        }
    }

    /// Pins a whole range.
    ///
    /// # Errors
    /// The range is empty, not of whole pages, not mapped, or not mapped for this; or user memory cannot be pinned. Nothing is
    /// pinned.
    pub fn pin(&self, iova: Iova, bytes: u64, access: Access) -> Result<AccessPins, AccessError> {
        if !self.state.pins() {
            return Err(AccessError::NeverPins);
        }
        let range = check_range(iova, bytes)?;
        let ioas = self.target()?;
        let mut pins = AccessPins { ioas: Arc::downgrade(&ioas), parts: Vec::new() };
        // Dropped before the pins, should one fail: those take its lock.
        let mut table = ioas.lock_table();
        let mut next = Some(range.first());
        while let Some(at) = next.filter(|at| range.contains(*at)) {
            let (part, behind) = pin_part(&mut table, at, range, access)?;
            pins.parts.push(part);
            next = behind;
        }
        Ok(pins)
    }

    /// Reads through the address space; what lies before an error has been read.
    ///
    /// # Errors
    /// As for [`pin`](Self::pin), but that nothing needs whole pages.
    pub fn read(&self, iova: Iova, into: &mut [u8]) -> Result<(), AccessError> {
        let total = into.len();
        self.each_part(iova, total, Access::Read, |process, addr, part| {
            let into = into.get_mut(part).unwrap_or_default();
            process.read(addr, into).map_err(|error| PinError::from(error).into())
        })
    }

    /// Writes through the address space; what lies before an error has been written.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn write(&self, iova: Iova, from: &[u8]) -> Result<(), AccessError> {
        self.each_part(iova, from.len(), Access::Write, |process, addr, part| {
            let from = from.get(part).unwrap_or_default();
            process.write(addr, from).map_err(|error| PinError::from(error).into())
        })
    }

    fn each_part(
        &self,
        iova: Iova,
        bytes: usize,
        access: Access,
        mut touch: impl FnMut(&Arc<dyn UserMemory>, UserAddr, core::ops::Range<usize>) -> Result<(), AccessError>,
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
            let addr = area.addr().get().wrapping_add(at.get() - area_range.first().get());
            touch(area.process(), UserAddr::new(addr), done..done + length)?;
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
        if self.accesses() == Accesses::Refused {
            return Err(AccessError::Unmapping { area: range });
        }
        if !self.permitted().is_some_and(|permitted| permitted.permits(access)) {
            return Err(AccessError::NotPermitted { area: range });
        }
        Ok(())
    }
}

/// Pins what of `range` lies in the area at `at`; where the rest begins.
fn pin_part(
    table: &mut IoPageTable,
    at: Iova,
    range: IovaRange,
    access: Access,
) -> Result<(Part, Option<Iova>), AccessError> {
    let (area_range, area) = table.areas.get_mut(at).ok_or(AccessError::NotMapped { range })?;
    area.admit(area_range, access)?;
    let part = area_range.intersection(range).ok_or(AccessError::NotMapped { range })?;
    let skip = part.first().get() - area_range.first().get();
    if !(area.addr().get().wrapping_add(skip) | part.bytes()).is_multiple_of(PAGE_SIZE) {
        return Err(AccessError::BadRange);
    }
    let shared = area.share();
    let pinned = shared.pin_part(skip, part.bytes())?;
    shared.access_pins += 1;
    Ok((Part { area: area_range.first(), pinned }, part.last().checked_add(1)))
}

impl AccessPins {
    /// Returns the physical memory, in order, in pieces as long as possible.
    pub fn runs(&self) -> Vec<PinnedRun> {
        self.parts.iter().flat_map(|part| part.pinned.runs()).collect()
    }
}

impl Drop for AccessPins {
    fn drop(&mut self) {
        let ioas = self.ioas.upgrade();
        for part in self.parts.drain(..) {
            drop(part.pinned);
            if let Some(ioas) = &ioas
                && let Some((_, area)) = ioas.lock_table().areas.get_mut(part.area)
            {
                let shared = area.share();
                shared.access_pins = shared.access_pins.saturating_sub(1);
            }
        }
    }
}

impl Drop for IoasAccess {
    fn drop(&mut self) {
        // Nobody else has it, so nobody else detaches it.
        let _ = self.detach();
    }
}

impl fmt::Debug for IoasAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoasAccess").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Why an access was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// No such address space, or the access has none.
    #[error("the access has no address space")]
    NotAttached,
    /// It has one.
    #[error("the access has an address space already")]
    Attached,
    /// No such address space.
    #[error(transparent)]
    NoObject(#[from] NoObjectError),
    /// The context has no id left.
    #[error(transparent)]
    NoIds(#[from] NoIdsError),
    /// A mapping is not of whole pages, so it cannot be pinned.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// Another thread detaches or moves it.
    #[error("the access is being detached or moved")]
    Leaving,
    /// It was made without a notice, so it may not pin.
    #[error("the access was made to read and write only")]
    NeverPins,
    /// The length is 0, or the range is not of whole pages of memory.
    #[error("the range is empty, or not of whole pages")]
    BadRange,
    /// The range does not fit in 64 bits.
    #[error("addresses do not fit in 64 bits")]
    Overflow,
    /// The range is being unmapped.
    #[error("{area} is being unmapped")]
    Unmapping {
        /// The mapping.
        area: IovaRange,
    },
    /// The mapping does not allow it.
    #[error("{area} does not allow this access")]
    NotPermitted {
        /// The mapping.
        area: IovaRange,
    },
    /// Some of it is not mapped.
    #[error("{range} is not wholly mapped")]
    NotMapped {
        /// The range.
        range: IovaRange,
    },
    /// The memory was not pinned.
    #[error(transparent)]
    Pin(#[from] PinError),
}

impl AccessError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotAttached | Self::NotMapped { .. } => Errno::ENOENT,
            Self::Attached | Self::NeverPins | Self::BadRange | Self::Unmapping { .. } => Errno::EINVAL,
            Self::Leaving => Errno::EBUSY,
            Self::Overflow => Errno::EOVERFLOW,
            Self::NoObject(error) => error.errno(),
            Self::NoIds(error) => error.errno(),
            Self::Range(error) => error.errno(),
            Self::NotPermitted { .. } => Errno::EPERM,
            Self::Pin(error) => error.errno(),
        }
    }
}
