//! Objects by id: two-phase creation, and use counts that keep an object from being destroyed. It knows no kind of object.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::Mutex;

use crate::object_id::{NoIdsError, Numbers, ObjectId};

/// Something that calls may use without being counted here.
pub(crate) trait Lent {
    /// Returns how many calls under way use it, if they are not counted as uses.
    fn lent(&self) -> u32;
}

/// What stands behind an id.
#[derive(Debug)]
enum Slot<T> {
    /// Nothing that a call finds: being made.
    Reserved,
    /// As that, but others of its making use it already.
    Hidden(T),
    /// An object.
    Public(T),
    /// Gone, but for calls under way that use it; the last of them gives the id back.
    Leaving,
}

#[derive(Debug)]
struct Entry<T> {
    slot: Slot<T>,
    /// References from other objects, from users in the kernel, and of calls under way, unless it is lent to those; none
    /// lets it be destroyed.
    // F5.
    uses: u32,
}

#[derive(Debug)]
struct Entries<T> {
    /// By id: ids are dense, as the lowest free one is given first.
    by_id: Vec<Option<Entry<T>>>,
    numbers: Numbers,
}

/// The entries' lock is a leaf, never held across a call.
// L29.
#[derive(Debug)]
struct Shared<T>(Mutex<Entries<T>>);

/// The objects of a context.
#[derive(Debug)]
pub(crate) struct ObjectTable<T>(Arc<Shared<T>>);

/// An id that no call finds yet. Dropping it gives it back.
// F6.
#[derive(Debug)]
pub(crate) struct ReservedId<T: Send + Sync + 'static> {
    table: Arc<Shared<T>>,
    id: ObjectId,
    published: bool,
}

/// A use of an object, which keeps it from being destroyed.
pub(crate) struct Use {
    table: Weak<dyn Uses>,
    id: ObjectId,
}

/// An object whose owner in the kernel goes last: user space cannot destroy it. Dropping it retires the object.
// F9.
#[derive(Debug)]
pub(crate) struct Owned<T: Send + Sync + 'static> {
    table: Arc<Shared<T>>,
    id: ObjectId,
}

/// Where uses are counted.
trait Uses: Send + Sync {
    fn release(&self, id: ObjectId);
}

impl<T> Entries<T> {
    fn get(&self, id: ObjectId) -> Option<&Entry<T>> {
        self.by_id.get(id.get() as usize)?.as_ref()
    }

    fn get_mut(&mut self, id: ObjectId) -> Option<&mut Entry<T>> {
        self.by_id.get_mut(id.get() as usize)?.as_mut()
    }

    fn forget(&mut self, id: ObjectId) -> Option<Entry<T>> {
        let entry = self.by_id.get_mut(id.get() as usize)?.take()?;
        self.numbers.give_back(id.get());
        Some(entry)
    }
}

impl<T: Send + Sync + 'static> Shared<T> {
    fn use_of(self: &Arc<Self>, id: ObjectId) -> Use {
        let table: Weak<Self> = Arc::downgrade(self);
        Use { table, id }
    }

    /// Takes out an object whose owner in the kernel goes. Calls under way may use it still; no other finds it.
    // F9.
    fn retire(&self, id: ObjectId) -> Option<T> {
        let mut entries = self.0.lock();
        let entry = entries.get_mut(id)?;
        let slot = core::mem::replace(&mut entry.slot, Slot::Leaving);
        if entry.uses == 0 {
            entries.forget(id);
        }
        match slot {
            Slot::Public(object) | Slot::Hidden(object) => Some(object),
            Slot::Reserved | Slot::Leaving => None,
        }
    }
}

impl<T: Lent + Clone + Send + Sync + 'static> ObjectTable<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared(Mutex::new(Entries { by_id: Vec::new(), numbers: Numbers::default() }))))
    }

    /// Reserves the lowest free id.
    pub(crate) fn reserve(&self) -> Result<ReservedId<T>, NoIdsError> {
        let mut entries = self.0.0.lock();
        let number = entries.numbers.take()?;
        let place = number as usize;
        if entries.by_id.len() <= place {
            entries.by_id.resize_with(place + 1, || None);
        }
        if let Some(entry) = entries.by_id.get_mut(place) {
            *entry = Some(Entry { slot: Slot::Reserved, uses: 0 });
        }
        drop(entries);
        Ok(ReservedId { table: self.0.clone(), id: ObjectId::new(number), published: false })
    }

    /// The object, which stays for as long as the use does.
    pub(crate) fn get(&self, id: ObjectId) -> Option<(T, Use)> {
        let mut entries = self.0.0.lock();
        let entry = entries.get_mut(id)?;
        let Slot::Public(object) = &entry.slot else { return None };
        let object = object.clone();
        entry.uses = entry.uses.checked_add(1)?;
        Some((object, self.0.use_of(id)))
    }

    /// One use more of the object that is meant, also if calls do not find it yet; none once it was destroyed.
    pub(crate) fn use_of(&self, id: ObjectId, is_meant: impl FnOnce(&T) -> bool) -> Option<Use> {
        let mut entries = self.0.0.lock();
        let entry = entries.get_mut(id)?;
        let (Slot::Hidden(object) | Slot::Public(object)) = &entry.slot else { return None };
        if !is_meant(object) {
            return None;
        }
        entry.uses = entry.uses.checked_add(1)?;
        Some(self.0.use_of(id))
    }

    /// What an object is asked, if a call would find it. The lock is held meanwhile.
    pub(crate) fn peek<R>(&self, id: ObjectId, ask: impl FnOnce(&T) -> R) -> Option<R> {
        match &self.0.0.lock().get(id)?.slot {
            Slot::Public(object) => Some(ask(object)),
            Slot::Reserved | Slot::Hidden(_) | Slot::Leaving => None,
        }
    }

    /// Takes an object out that nobody uses.
    // Table Ft1.
    pub(crate) fn remove(&self, id: ObjectId) -> Result<T, DestroyError> {
        let mut entries = self.0.0.lock();
        let uses = match entries.get(id) {
            Some(Entry { slot: Slot::Public(object), uses: 0 }) => object.lent(),
            Some(Entry { slot: Slot::Public(_), uses }) => *uses,
            _ => return Err(DestroyError::NoObject { id }),
        };
        if uses > 0 {
            return Err(DestroyError::InUse { id, uses });
        }
        match entries.forget(id) {
            Some(Entry { slot: Slot::Public(object), .. }) => Ok(object),
            _ => Err(DestroyError::NoObject { id }),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.0.lock().numbers.is_empty()
    }
}

impl<T: Send + Sync + 'static> ReservedId<T> {
    pub(crate) fn id(&self) -> ObjectId {
        self.id
    }

    fn set(&self, slot: Slot<T>, uses: u32) {
        if let Some(entry) = self.table.0.lock().get_mut(self.id) {
            entry.slot = slot;
            entry.uses += uses;
        }
    }

    /// Others of its making can use the object; calls do not find it.
    pub(crate) fn hide(&self, object: T) {
        self.set(Slot::Hidden(object), 0);
    }

    /// From now on calls find the object.
    pub(crate) fn publish(mut self, object: T) -> ObjectId {
        self.published = true;
        self.set(Slot::Public(object), 0);
        self.id
    }

    /// From now on calls find the object, which is used from the beginning.
    pub(crate) fn publish_used(mut self, object: T) -> (ObjectId, Use) {
        self.published = true;
        self.set(Slot::Public(object), 1);
        (self.id, self.table.use_of(self.id))
    }

    /// From now on calls find the object, and cannot destroy it.
    pub(crate) fn publish_owned(mut self, object: T) -> Owned<T> {
        self.published = true;
        self.set(Slot::Public(object), 1);
        Owned { table: self.table.clone(), id: self.id }
    }
}

impl<T: Send + Sync + 'static> Owned<T> {
    pub(crate) fn id(&self) -> ObjectId {
        self.id
    }
}

impl<T: Send + Sync + 'static> Drop for Owned<T> {
    fn drop(&mut self) {
        let retired = self.table.retire(self.id);
        self.table.release(self.id);
        // It ends without the lock.
        drop(retired);
    }
}

impl<T: Send + Sync + 'static> Drop for ReservedId<T> {
    fn drop(&mut self) {
        if !self.published {
            // What was hidden ends without the lock.
            drop(self.table.retire(self.id));
        }
    }
}

impl<T: Send + Sync> Uses for Shared<T> {
    fn release(&self, id: ObjectId) {
        let mut entries = self.0.lock();
        let Some(entry) = entries.get_mut(id) else { return };
        entry.uses -= 1;
        if entry.uses == 0 && matches!(entry.slot, Slot::Leaving) {
            entries.forget(id);
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            table.release(self.id);
        }
    }
}

impl fmt::Debug for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Use({})", self.id)
    }
}

/// Why an object was not destroyed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DestroyError {
    /// There is none.
    #[error("the context has no object with the id {id}")]
    NoObject {
        /// The id.
        id: ObjectId,
    },
    /// Others use it.
    #[error("object {id} is used {uses} times")]
    InUse {
        /// The id.
        id: ObjectId,
        /// How often.
        uses: u32,
    },
}

impl DestroyError {
    /// Returns the error number that Linux gives.
    pub const fn errno(self) -> Errno {
        match self {
            Self::NoObject { .. } => Errno::ENOENT,
            Self::InUse { .. } => Errno::EBUSY,
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests;
