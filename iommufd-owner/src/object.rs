//! Objects of a context: their ids, and who uses them.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::{Arc, Weak};
use core::fmt;

use iommu_core::Member;
use iommu_core::device_model::sync::Mutex;

use crate::compat::Compat;
use crate::error::{DestroyError, NoIds};
use crate::fault_queue::Queue;
use crate::hwpt::Hwpt;
use crate::ioas::Ioas;

/// The id of an object in its context (F4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(u32);

/// The highest id.
const LAST: u32 = i32::MAX as u32;

impl ObjectId {
    /// The id of this number; what no object has is found by no call.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number, from 1 to 2^31 - 1 for an object.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What an object is (F4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ObjectType {
    /// A bound device.
    Device,
    /// An address space.
    Ioas,
    /// A page table that shows an address space.
    PagingHwpt,
    /// A page table of user space, nested on one of those.
    NestedHwpt,
    /// A user in the kernel.
    Access,
    /// A queue of page faults.
    FaultQueue,
}

/// Something that has an id.
#[derive(Debug, Clone)]
pub(crate) enum Object {
    Device(Arc<Member>),
    Ioas(Arc<Ioas>),
    Hwpt(Arc<Hwpt>),
    Access,
    FaultQueue(Arc<Queue>),
}

impl Object {
    fn kind(&self) -> ObjectType {
        match self {
            Self::Device(_) => ObjectType::Device,
            Self::Ioas(_) => ObjectType::Ioas,
            Self::Hwpt(hwpt) if hwpt.is_nested() => ObjectType::NestedHwpt,
            Self::Hwpt(_) => ObjectType::PagingHwpt,
            Self::Access => ObjectType::Access,
            Self::FaultQueue(_) => ObjectType::FaultQueue,
        }
    }
}

/// What stands behind an id.
#[derive(Debug)]
enum Slot {
    /// Nothing that a call finds: being made (F6).
    Reserved,
    /// As that, but others of its making use it already.
    Hidden(Object),
    /// An object.
    Public(Object),
    /// Gone, but for calls under way that use it; the last of them gives the id back (F9).
    Leaving,
}

#[derive(Debug)]
struct Entry {
    slot: Slot,
    /// References from other objects, from users in the kernel, and of calls under way (F5); none lets it be destroyed.
    uses: u32,
}

#[derive(Debug, Default)]
struct Entries {
    by_id: BTreeMap<u32, Entry>,
    /// Ids that were given back, below `fresh`.
    free: BTreeSet<u32>,
    /// How many ids were ever given.
    fresh: u32,
    compat: Compat,
}

impl Entries {
    fn forget(&mut self, id: ObjectId) -> Option<Entry> {
        self.free.insert(id.0);
        self.by_id.remove(&id.0)
    }
}

/// The objects of a context. Its lock is a leaf, never held across a call (L29).
#[derive(Debug, Clone, Default)]
pub(crate) struct ObjectTable(Arc<Mutex<Entries>>);

/// An id that no call finds yet (F6). Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct ReservedId {
    table: ObjectTable,
    id: ObjectId,
    published: bool,
}

/// A use of an object, which keeps it from being destroyed.
#[derive(Debug)]
pub(crate) struct Use {
    table: Weak<Mutex<Entries>>,
    id: ObjectId,
}

impl ObjectTable {
    /// The lowest free id.
    pub(crate) fn reserve(&self) -> Result<ReservedId, NoIds> {
        let mut entries = self.0.lock();
        let number = match entries.free.pop_first() {
            Some(number) => number,
            None if entries.fresh < LAST => {
                entries.fresh += 1;
                entries.fresh
            }
            None => return Err(NoIds),
        };
        entries.by_id.insert(number, Entry { slot: Slot::Reserved, uses: 0 });
        drop(entries);
        Ok(ReservedId { table: self.clone(), id: ObjectId(number), published: false })
    }

    /// The object, which stays for as long as the use does.
    pub(crate) fn get(&self, id: ObjectId) -> Option<(Object, Use)> {
        let mut entries = self.0.lock();
        let entry = entries.by_id.get_mut(&id.0)?;
        let Slot::Public(object) = &entry.slot else { return None };
        let object = object.clone();
        entry.uses = entry.uses.checked_add(1)?;
        Some((object, Use { table: Arc::downgrade(&self.0), id }))
    }

    /// One use more of a page table, also of one that calls do not find yet; none once it was destroyed.
    pub(crate) fn use_hwpt(&self, hwpt: &Arc<Hwpt>) -> Option<Use> {
        let mut entries = self.0.lock();
        let entry = entries.by_id.get_mut(&hwpt.id.0)?;
        match &entry.slot {
            Slot::Hidden(Object::Hwpt(known)) | Slot::Public(Object::Hwpt(known)) if Arc::ptr_eq(known, hwpt) => {
                entry.uses = entry.uses.checked_add(1)?;
                Some(Use { table: Arc::downgrade(&self.0), id: hwpt.id })
            }
            _ => None,
        }
    }

    /// Takes an object out that nobody uses (table Ft1). VFIO's calls find it no more (F8).
    pub(crate) fn remove(&self, id: ObjectId) -> Result<Object, DestroyError> {
        let mut entries = self.0.lock();
        match entries.by_id.get(&id.0) {
            Some(Entry { slot: Slot::Public(_), uses: 0 }) => {}
            Some(Entry { slot: Slot::Public(_), uses }) => return Err(DestroyError::InUse { id, uses: *uses }),
            _ => return Err(DestroyError::NoObject { id }),
        }
        entries.compat.forget(id);
        match entries.forget(id) {
            Some(Entry { slot: Slot::Public(object), .. }) => Ok(object),
            _ => Err(DestroyError::NoObject { id }),
        }
    }

    /// Takes out an object whose owner in the kernel goes. Calls under way may use it still; no other finds it (F9).
    pub(crate) fn retire(&self, id: ObjectId) -> Option<Object> {
        let mut entries = self.0.lock();
        let entry = entries.by_id.get_mut(&id.0)?;
        let slot = core::mem::replace(&mut entry.slot, Slot::Leaving);
        if entry.uses == 0 {
            entries.forget(id);
        }
        match slot {
            Slot::Public(object) | Slot::Hidden(object) => Some(object),
            Slot::Reserved | Slot::Leaving => None,
        }
    }

    /// What the object of this id is.
    pub(crate) fn kind(&self, id: ObjectId) -> Option<ObjectType> {
        match &self.0.lock().by_id.get(&id.0)?.slot {
            Slot::Public(object) => Some(object.kind()),
            Slot::Reserved | Slot::Hidden(_) | Slot::Leaving => None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().by_id.is_empty()
    }

    /// Whether a call would find such an object.
    pub(crate) fn any(&self, mut matches: impl FnMut(&Object) -> bool) -> bool {
        self.0.lock().by_id.values().any(|entry| matches!(&entry.slot, Slot::Public(object) if matches(object)))
    }

    /// Reads or changes what VFIO's calls are about.
    pub(crate) fn compat<R>(&self, change: impl FnOnce(&mut Compat) -> R) -> R {
        change(&mut self.0.lock().compat)
    }
}

impl ReservedId {
    pub(crate) fn id(&self) -> ObjectId {
        self.id
    }

    fn set(&self, slot: Slot, uses: u32) {
        if let Some(entry) = self.table.0.lock().by_id.get_mut(&self.id.0) {
            entry.slot = slot;
            entry.uses += uses;
        }
    }

    /// Others of its making can use the object; calls do not find it.
    pub(crate) fn hide(&self, object: Object) {
        self.set(Slot::Hidden(object), 0);
    }

    /// From now on calls find the object.
    pub(crate) fn publish(mut self, object: Object) -> ObjectId {
        self.published = true;
        self.set(Slot::Public(object), 0);
        self.id
    }

    /// From now on calls find the object, which is used from the beginning.
    pub(crate) fn publish_used(mut self, object: Object) -> (ObjectId, Use) {
        self.published = true;
        self.set(Slot::Public(object), 1);
        (self.id, Use { table: Arc::downgrade(&self.table.0), id: self.id })
    }
}

impl Drop for ReservedId {
    fn drop(&mut self) {
        if !self.published {
            // What was hidden ends without the lock.
            drop(self.table.retire(self.id));
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let Some(table) = self.table.upgrade() else { return };
        let mut entries = table.lock();
        let Some(entry) = entries.by_id.get_mut(&self.id.0) else { return };
        entry.uses -= 1;
        if entry.uses == 0 && matches!(entry.slot, Slot::Leaving) {
            entries.forget(self.id);
        }
    }
}
