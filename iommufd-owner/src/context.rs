//! The iommufd context: an open `/dev/iommu`.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::fmt;

use iommu_core::device_model::sync::{LockClass, Mutex, MutexGuard};
use iommu_core::user_memory::Account;
use iommu_core::{Group, Iova, IovaRange, MapRequest, Member, Owner, PhysicalMemory};

use crate::access::{AccessError, IoasAccess};
use crate::attachment::ContextGroup;
use crate::compat::Compat;
use crate::device::{BindError, BoundDevice};
use crate::io_page_table::{LargePages, MapError, UnmapError};
use crate::ioas::{AllowedRanges, CopyRequest, Ioas, IoasError, IovaRanges, NewIoas, Place, Source, check_numbers};
use crate::object::{Object, ObjectTable, ObjectType};
use crate::object_id::{NoIdsError, NoObjectError, ObjectId};
use crate::object_table::{DestroyError, Use};

const COMPAT_LOCK: LockClass = LockClass::new("iommufd compat", 650);

/// An iommufd: one open `/dev/iommu`, and so one owner of DMA, however many devices it binds.
///
/// A clone is the same open file. It ends when its last clone and its last bound device are gone, and everything in it with
/// it.
#[derive(Clone)]
pub struct Context(Arc<Shared>);

struct Shared {
    owner: Owner,
    memory: PhysicalMemory,
    objects: ObjectTable,
    /// Leaf lock: groups with a bound device, by where the group lies in memory; several machines may have one of
    /// the same number.
    // F32.
    groups: Mutex<BTreeMap<usize, Weak<ContextGroup>>>,
    /// Who answers for locked pages. Leaf lock.
    // F26.
    account: Mutex<Account>,
    /// What VFIO's calls are about. Its lock is outside that of the object table.
    compat: Mutex<Compat>,
}

impl Context {
    /// Returns a context without objects, whose mappings `memory` permits. The name is for messages (`"iommufd of qemu"`).
    pub fn new(name: impl Into<Arc<str>>, memory: &PhysicalMemory) -> Self {
        Self::with_account(name, memory, Account::User)
    }

    /// As [`new`](Self::new), with whose limit locked pages count against: the process where the context stands in for
    /// `/dev/vfio/vfio`.
    pub fn with_account(name: impl Into<Arc<str>>, memory: &PhysicalMemory, account: Account) -> Self {
        Self(Arc::new(Shared {
            owner: Owner::new(name),
            memory: memory.clone(),
            objects: ObjectTable::new(),
            groups: Mutex::default(),
            account: Mutex::new(account),
            compat: Mutex::of(COMPAT_LOCK, Compat::default()),
        }))
    }

    /// Returns the owner that it is.
    pub fn owner(&self) -> &Owner {
        &self.0.owner
    }

    pub(crate) fn objects(&self) -> &ObjectTable {
        &self.0.objects
    }

    /// What VFIO's calls are about.
    pub(crate) fn compat(&self) -> MutexGuard<'_, Compat> {
        self.0.compat.lock()
    }

    /// An address space, lent for a call: it is not destroyed meanwhile.
    pub(crate) fn ioas(&self, id: ObjectId) -> Result<Arc<Ioas>, NoObjectError> {
        let lend = |object: &Object| match object {
            Object::Ioas(ioas) => Some(ioas.clone()),
            _ => None,
        };
        self.objects().peek(id, lend).flatten().ok_or(NoObjectError { id, what: "address space" })
    }

    /// An address space, used beyond a call.
    pub(crate) fn use_ioas(&self, id: ObjectId) -> Result<(Arc<Ioas>, Use), NoObjectError> {
        match self.objects().get(id) {
            Some((Object::Ioas(ioas), used)) => Ok((ioas, used)),
            _ => Err(NoObjectError { id, what: "address space" }),
        }
    }

    /// What the context has of this group, made if it has nothing yet.
    pub(crate) fn group(&self, group: &Arc<Group>) -> Arc<ContextGroup> {
        let mut groups = self.0.groups.lock();
        // Where a group lies no other can as long as this one is kept.
        let at = Arc::as_ptr(group).addr();
        groups.get(&at).and_then(Weak::upgrade).unwrap_or_else(|| {
            let new = Arc::new(ContextGroup::new(group.clone()));
            groups.insert(at, Arc::downgrade(&new));
            new
        })
    }

    /// Forgets a group whose last bound device goes with this reference.
    // F33.
    pub(crate) fn leave_group(&self, group: &Arc<ContextGroup>) {
        let mut groups = self.0.groups.lock();
        // Others get theirs under this lock only.
        if Arc::strong_count(group) == 1 {
            groups.remove(&Arc::as_ptr(group.group()).addr());
        }
    }

    /// Returns whether it has bound a device of this group.
    pub fn owns(&self, group: &Group) -> bool {
        let groups = self.0.groups.lock();
        groups.get(&core::ptr::from_ref(group).addr()).is_some_and(|known| known.strong_count() > 0)
    }

    /// Binds a device: one claim for this device. Further devices of its group can be bound by this context, not
    /// by another. The group's devices are blocked from DMA from then on.
    ///
    /// # Errors
    /// Fails if the group has another owner or is used by kernel drivers (the error names them), or the IOMMU does not
    /// isolate the device. Nothing has changed.
    pub fn bind(&self, device: &Arc<Member>) -> Result<BoundDevice, BindError> {
        BoundDevice::bind(self, device)
    }

    /// Destroys an object (`IOMMU_DESTROY`).
    ///
    /// # Errors
    /// Fails if there is no such object, or it is in use. Mappings do not count: they are destroyed with their address space.
    pub fn destroy(&self, id: ObjectId) -> Result<(), DestroyError> {
        let object = self.objects().remove(id)?;
        // With no lock held: the end of an object takes those of others.
        drop(object);
        Ok(())
    }

    /// Returns what the object of this id is, if there is one.
    pub fn object_type(&self, id: ObjectId) -> Option<ObjectType> {
        self.objects().peek(id, Object::kind)
    }

    /// Makes an empty address space (`IOMMU_IOAS_ALLOC`).
    ///
    /// # Errors
    /// There is no id left.
    pub fn ioas_alloc(&self) -> Result<ObjectId, IoasError> {
        Ok(self.new_ioas()?.publish().0)
    }

    pub(crate) fn new_ioas(&self) -> Result<NewIoas, NoIdsError> {
        let ioas = Ioas::new(self.0.memory.clone(), self.account());
        Ok(NewIoas { ioas, reserved: self.objects().reserve()? })
    }

    /// Maps memory (`IOMMU_IOAS_MAP`), and returns where. It is pinned at once if a device is attached, else when one
    /// is.
    ///
    /// # Errors
    /// Nothing was mapped.
    pub fn ioas_map(&self, ioas: ObjectId, request: MapRequest<Place>) -> Result<Iova, MapError> {
        check_numbers(request.iova, request.bytes)?;
        let ioas = self.ioas(ioas)?;
        let permitted = Some(request.access);
        ioas.map(request, permitted)
    }

    /// Maps what `source` has mapped (`IOMMU_IOAS_COPY`); the memory is pinned and accounted once.
    ///
    /// # Errors
    /// Nothing was mapped.
    pub fn ioas_copy(&self, to: ObjectId, source: ObjectId, request: CopyRequest) -> Result<Iova, MapError> {
        request.check()?;
        let from = self.ioas(source)?;
        let mut table = from.lock_table();
        let copied = Source::of(&mut table, &request)?;
        if to == source {
            return copied.put(&mut table, &request);
        }
        drop(table);
        let to = self.ioas(to)?;
        copied.put(&mut to.lock_table(), &request)
    }

    /// Unmaps a range (`IOMMU_IOAS_UNMAP`), and returns how many bytes were unmapped. From 0, `u64::MAX` bytes are everything.
    ///
    /// # Errors
    /// Fails if nothing is mapped there, or a mapping exceeds the range; what was unmapped before it stays unmapped.
    pub fn ioas_unmap(&self, ioas: ObjectId, iova: Iova, bytes: u64) -> Result<u64, UnmapError> {
        let ioas = self.ioas(ioas)?;
        ioas.unmap(iova, bytes)
    }

    /// Returns the IOVA ranges that can be mapped (`IOMMU_IOAS_IOVA_RANGES`).
    ///
    /// # Errors
    /// There is no such address space.
    pub fn ioas_iova_ranges(&self, ioas: ObjectId) -> Result<IovaRanges, NoObjectError> {
        let ioas = self.ioas(ioas)?;
        Ok(ioas.iova_ranges())
    }

    /// Sets the ranges, by first and last address, that must stay usable (`IOMMU_IOAS_ALLOW_IOVAS`) whatever is
    /// attached, and into which automatic placement goes. Replaces those before; none is no restriction.
    ///
    /// # Errors
    /// A range is none, two overlap, or something reserved lies there. Nothing has changed.
    pub fn ioas_allow_iovas(&self, ioas: ObjectId, ranges: &[(Iova, Iova)]) -> Result<(), IoasError> {
        let ioas = self.ioas(ioas)?;
        let mut allowed = AllowedRanges::default();
        for (first, last) in ranges {
            allowed.insert(*first, *last)?;
        }
        Ok(ioas.allow(allowed)?)
    }

    /// Sets whether domains may use large pages (`IOMMU_OPTION_HUGE_PAGES`).
    ///
    /// # Errors
    /// Domains have mapped with large pages already, or a mapping is not of whole pages.
    pub fn set_large_pages(&self, ioas: ObjectId, large_pages: LargePages) -> Result<(), IoasError> {
        let ioas = self.ioas(ioas)?;
        ioas.set_large_pages(large_pages)
    }

    /// Returns whether domains may use large pages (`IOMMU_OPTION_HUGE_PAGES`, `GET`).
    ///
    /// # Errors
    /// There is no such address space.
    pub fn large_pages(&self, ioas: ObjectId) -> Result<LargePages, NoObjectError> {
        let ioas = self.ioas(ioas)?;
        let large_pages = ioas.lock_table().large_pages;
        Ok(large_pages)
    }

    /// Returns whose limit locked pages count against (`IOMMU_OPTION_RLIMIT_MODE`, `GET`).
    pub fn account(&self) -> Account {
        *self.0.account.lock()
    }

    /// Sets whose limit locked pages count against (`IOMMU_OPTION_RLIMIT_MODE`). The caller checks `CAP_SYS_RESOURCE`.
    ///
    /// # Errors
    /// The context has objects.
    pub fn set_account(&self, account: Account) -> Result<(), IoasError> {
        if !self.objects().is_empty() {
            return Err(IoasError::HasObjects);
        }
        *self.0.account.lock() = account;
        Ok(())
    }

    /// Creates an in-kernel access that pins, reads and writes without DMA. `notice` is called, with no lock held, when
    /// something that it may have pinned is being unmapped.
    ///
    /// # Errors
    /// There is no id left.
    pub fn access(&self, notice: impl Fn(IovaRange) + Send + Sync + 'static) -> Result<IoasAccess, AccessError> {
        IoasAccess::create(self, Some(Box::new(notice)))
    }

    /// Creates an access that only reads and writes; mappings need not consist of whole pages.
    ///
    /// # Errors
    /// There is no id left.
    pub fn access_without_pins(&self) -> Result<IoasAccess, AccessError> {
        IoasAccess::create(self, None)
    }

    /// Returns whether both are the same open file.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({})", self.owner())
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests;
