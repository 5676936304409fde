//! I/O address spaces.

mod copy;

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::{LockClass, Mutex, MutexGuard};
use iommu_core::user_memory::Account;
use iommu_core::{Access, Iova, IovaMap, IovaRange, MapRequest, PhysicalMemory};

pub use self::copy::CopyRequest;
pub(crate) use self::copy::Source;
use crate::hwpt::Hwpt;
use crate::io_page_table::{Accesses, Area, IoPageTable, LargePages, MapError, RangeError, Removal, UnmapError};
use crate::object::Object;
use crate::object_id::{NoIdsError, NoObjectError, ObjectId};
use crate::object_table::ReservedId;

const HWPTS_LOCK: LockClass = LockClass::new("IOAS", 610);
const AREAS_LOCK: LockClass = LockClass::new("I/O page table", 630);

/// How often accesses are asked to let go of what is to be unmapped.
// Ft6.9.
const ASKS: usize = 100;

/// Where a mapping is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Here.
    Fixed(Iova),
    /// At the lowest place that fits.
    Anywhere,
}

/// What `IOMMU_IOAS_IOVA_RANGES` tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IovaRanges {
    /// Where a mapping can be, whether or not something is there, ascending.
    pub ranges: Vec<IovaRange>,
    /// What addresses and lengths must be multiples of.
    pub alignment: u64,
}

/// A user of an address space that is told of unmaps.
pub(crate) trait UnmapListener: Send + Sync {
    /// A range is being unmapped: whatever is pinned there is to be unpinned. Called without locks.
    fn unmapping(&self, range: IovaRange);
}

/// An I/O address space: an object of a context.
#[derive(Debug)]
pub(crate) struct Ioas {
    /// The IOAS lock: the page tables that attaches made, oldest first. Taken outside those of groups and of areas.
    hwpts: Mutex<Vec<Weak<Hwpt>>>,
    /// The lock of the areas: inside that of a group.
    table: Mutex<IoPageTable>,
    /// Who answers for locked pages: it is not changed while a context has objects.
    // F26.
    account: Account,
    /// Leaf lock: users in the kernel.
    listeners: Mutex<BTreeMap<ObjectId, Weak<dyn UnmapListener>>>,
}

impl Ioas {
    pub(crate) fn new(memory: PhysicalMemory, account: Account) -> Arc<Self> {
        Arc::new(Self {
            hwpts: Mutex::of(HWPTS_LOCK, Vec::new()),
            table: Mutex::of(AREAS_LOCK, IoPageTable::new(memory)),
            account,
            listeners: Mutex::default(),
        })
    }

    pub(crate) fn lock_hwpts(&self) -> MutexGuard<'_, Vec<Weak<Hwpt>>> {
        self.hwpts.lock()
    }

    pub(crate) fn lock_table(&self) -> MutexGuard<'_, IoPageTable> {
        self.table.lock()
    }

    /// One user in the kernel more; one that pins demands whole pages.
    // F13, F59.
    pub(crate) fn join(&self, id: ObjectId, listener: Weak<dyn UnmapListener>, pins: bool) -> Result<(), RangeError> {
        if pins {
            let mut table = self.lock_table();
            if let Some(range) = table.violates(PAGE_SIZE) {
                return Err(RangeError::Mapped { range });
            }
            table.pinning_accesses += 1;
        }
        self.listeners.lock().insert(id, listener);
        Ok(())
    }

    pub(crate) fn leave(&self, id: ObjectId, pins: bool) {
        self.listeners.lock().remove(&id);
        if pins {
            self.lock_table().pinning_accesses -= 1;
        }
    }

    // F70.
    pub(crate) fn iova_ranges(&self) -> IovaRanges {
        let table = self.lock_table();
        IovaRanges { ranges: table.usable(), alignment: table.alignment() }
    }

    /// Maps memory, for devices to do what is permitted: of the request's access at most.
    // Table Ft4, from Ft4.5 on.
    pub(crate) fn map(&self, request: MapRequest<Place>, permitted: Option<Access>) -> Result<Iova, MapError> {
        let MapRequest { iova: place, bytes, process, addr, access } = request;
        if bytes == 0 || bytes > u64::MAX - PAGE_SIZE {
            return Err(MapError::BadLength);
        }
        addr.checked_add(bytes).ok_or(MapError::Overflow)?;
        // Before the lock is taken, so that its parts are written when it goes where it stays.
        let area = Area::new(process, addr, bytes, access, permitted, self.account);
        let mut table = self.lock_table();
        let alignment = table.alignment();
        let range = table.choose(place, addr, bytes, alignment)?;
        if !addr.is_aligned(alignment) {
            table.check_vacant(range)?;
            return Err(MapError::Misaligned { alignment });
        }
        table.add_area(range, area)?;
        Ok(range.first())
    }

    /// Unmaps a range; returns how many bytes were unmapped.
    // Table Ft6.
    pub(crate) fn unmap(&self, iova: Iova, bytes: u64) -> Result<u64, UnmapError> {
        if iova.get() == 0 && bytes == u64::MAX {
            return match self.remove(IovaRange::ALL) {
                (_, Err(UnmapError::NotMapped { .. })) => Ok(0),
                (unmapped, removed) => removed.map(|()| unmapped),
            };
        }
        if iova.get() == u64::MAX || bytes == u64::MAX {
            return Err(UnmapError::Overflow);
        }
        let (unmapped, removed) = self.unmap_counted(iova, bytes);
        removed.map(|()| unmapped)
    }

    /// As that, without the checks of extremes and with the bytes that were unmapped before an error.
    // From Ft6.4 on.
    pub(crate) fn unmap_counted(&self, iova: Iova, bytes: u64) -> (u64, Result<(), UnmapError>) {
        match IovaRange::sized(iova, bytes) {
            Some(range) => self.remove(range),
            None if bytes == 0 => (0, Err(UnmapError::BadLength)),
            None => (0, Err(UnmapError::Overflow)),
        }
    }

    /// Cuts the mappings that exceed a range at either end, if mappings can be cut: the last end first.
    // Ft12.8.
    pub(crate) fn cut_ends(&self, iova: Iova, bytes: u64) -> Result<(), UnmapError> {
        let mut table = self.lock_table();
        if table.large_pages == LargePages::Enabled {
            return Ok(());
        }
        table.cut(Iova::new(iova.get().wrapping_add(bytes).wrapping_sub(1)))?;
        match iova.get().checked_sub(1) {
            Some(before) => table.cut(Iova::new(before)),
            None => Ok(()),
        }
    }

    /// Unmaps a range, and returns how many bytes were unmapped, also before an error; accesses that have pinned some of it
    /// are asked to let go.
    #[inline]
    pub(crate) fn remove(&self, range: IovaRange) -> (u64, Result<(), UnmapError>) {
        if self.lock_table().remove_whole(range) { (range.bytes(), Ok(())) } else { self.remove_each(range) }
    }

    /// As [`remove`](Self::remove), area by area. Accesses are asked with no lock held, and so often for each area.
    // F23, L31, Ft6.9.
    fn remove_each(&self, range: IovaRange) -> (u64, Result<(), UnmapError>) {
        let mut removal = Removal::of(range);
        let mut asked = None;
        let mut asks = 0;
        loop {
            let area = {
                let mut table = self.lock_table();
                match table.remove_areas(&mut removal) {
                    Err(UnmapError::Pinned { area }) => {
                        if let Some((_, pinned)) = table.areas.get_mut(area.first()) {
                            pinned.share().accesses = Accesses::Refused;
                        }
                        area
                    }
                    other => return (removal.bytes(), other),
                }
            };
            if asked.replace(area) != Some(area) {
                asks = 0;
            }
            if asks == ASKS {
                return (removal.bytes(), Err(UnmapError::Pinned { area }));
            }
            asks += 1;
            let listeners: Vec<_> = self.listeners.lock().values().filter_map(Weak::upgrade).collect();
            for listener in listeners {
                listener.unmapping(area);
            }
        }
    }

    /// `IOMMU_IOAS_ALLOW_IOVAS`.
    // Table Ft3.
    pub(crate) fn allow(&self, allowed: AllowedRanges) -> Result<(), RangeError> {
        self.lock_table().allow(allowed.0)
    }

    /// `IOMMU_OPTION_HUGE_PAGES`.
    // Ft7.6 to Ft7.11.
    pub(crate) fn set_large_pages(&self, large_pages: LargePages) -> Result<(), IoasError> {
        let mut table = self.lock_table();
        if large_pages == LargePages::Disabled && table.large_pages == LargePages::Enabled {
            if table.has_domains() && !table.areas.is_empty() {
                return Err(IoasError::DomainsMapped);
            }
            if let Some(range) = table.violates(PAGE_SIZE) {
                return Err(IoasError::Range(RangeError::Mapped { range }));
            }
        }
        table.large_pages = large_pages;
        Ok(())
    }
}

/// Ranges that are to stay usable, in the order in which user space names them.
#[derive(Default)]
pub(crate) struct AllowedRanges(IovaMap<()>);

impl AllowedRanges {
    /// Adds a range, of two addresses at least.
    // Ft3.4, Ft3.5.
    pub(crate) fn insert(&mut self, first: Iova, last: Iova) -> Result<(), IoasError> {
        let range = IovaRange::new(first, last).filter(|_| first != last).ok_or(IoasError::BadRange)?;
        let inserted = self.0.insert(range, ());
        inserted.map_err(|overlap| IoasError::Overlap { one: overlap.existing, other: range })
    }
}

/// An address space that no call finds yet. Dropping it ends it.
// F6.
pub(crate) struct NewIoas {
    pub(crate) ioas: Arc<Ioas>,
    pub(crate) reserved: ReservedId<Object>,
}

impl NewIoas {
    /// From now on calls find it.
    pub(crate) fn publish(self) -> (ObjectId, Arc<Ioas>) {
        (self.reserved.publish(Object::Ioas(self.ioas.clone())), self.ioas)
    }
}

/// What is wrong with a request whatever the address space.
// Ft4.2.
pub(crate) fn check_numbers(place: Place, bytes: u64) -> Result<(), MapError> {
    match place {
        _ if bytes == u64::MAX => Err(MapError::Overflow),
        Place::Fixed(iova) if iova.get() == u64::MAX => Err(MapError::Overflow),
        _ => Ok(()),
    }
}

/// Why an address space refused a range, or an option.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoasError {
    /// No such address space.
    #[error(transparent)]
    NoObject(#[from] NoObjectError),
    /// The context has no id left.
    #[error(transparent)]
    NoIds(#[from] NoIdsError),
    /// A range is of one byte or none.
    #[error("a range must have two addresses at least")]
    BadRange,
    /// Two ranges overlap.
    #[error("{one} and {other} overlap")]
    Overlap {
        /// One.
        one: IovaRange,
        /// The other.
        other: IovaRange,
    },
    /// Something is there.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// Domains have mapped with large pages.
    #[error("domains have mappings")]
    DomainsMapped,
    /// Objects exist.
    #[error("the context has objects")]
    HasObjects,
    /// The context is for devices without an IOMMU.
    #[error("the context is in no-IOMMU mode")]
    NoIommuMode,
}

impl IoasError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoObject(error) => error.errno(),
            Self::NoIds(error) => error.errno(),
            Self::BadRange | Self::Overlap { .. } | Self::DomainsMapped | Self::NoIommuMode => Errno::EINVAL,
            Self::Range(error) => error.errno(),
            Self::HasObjects => Errno::EBUSY,
        }
    }
}
