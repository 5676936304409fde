//! Objects of a context: their ids, and who uses them.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::{Arc, Weak};
use core::fmt;

use iommu_core::Member;
use iommu_core::device_model::sync::Mutex;

use crate::error::{DestroyError, NoIds};
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

/// Something that has an id.
#[derive(Debug, Clone)]
pub(crate) enum Object {
    Device(Arc<Member>),
    Ioas(Arc<Ioas>),
    Hwpt(Arc<Hwpt>),
    Access,
}

#[derive(Debug)]
struct Entry {
    object: Object,
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
        drop(entries);
        Ok(ReservedId { table: self.clone(), id: ObjectId(number), published: false })
    }

    /// The object, which stays for as long as the use does.
    pub(crate) fn get(&self, id: ObjectId) -> Option<(Object, Use)> {
        let mut entries = self.0.lock();
        let entry = entries.by_id.get_mut(&id.0)?;
        entry.uses = entry.uses.checked_add(1)?;
        Some((entry.object.clone(), Use { table: Arc::downgrade(&self.0), id }))
    }

    /// Takes an object out that nobody uses (table Ft1).
    pub(crate) fn remove(&self, id: ObjectId) -> Result<Object, DestroyError> {
        let mut entries = self.0.lock();
        match entries.by_id.get(&id.0) {
            None => Err(DestroyError::NoObject { id }),
            Some(entry) if entry.uses > 0 => Err(DestroyError::InUse { id, uses: entry.uses }),
            Some(_) => {
                entries.free.insert(id.0);
                entries.by_id.remove(&id.0).map(|entry| entry.object).ok_or(DestroyError::NoObject { id })
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().by_id.is_empty()
    }

    /// Every object, to look at.
    pub(crate) fn any(&self, mut matches: impl FnMut(&Object) -> bool) -> bool {
        self.0.lock().by_id.values().any(|entry| matches(&entry.object))
    }
}

impl ReservedId {
    pub(crate) fn id(&self) -> ObjectId {
        self.id
    }

    /// From now on calls find the object.
    pub(crate) fn publish(mut self, object: Object) -> ObjectId {
        self.published = true;
        self.table.0.lock().by_id.insert(self.id.0, Entry { object, uses: 0 });
        self.id
    }
}

impl Drop for ReservedId {
    fn drop(&mut self) {
        if !self.published {
            self.table.0.lock().free.insert(self.id.0);
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade()
            && let Some(entry) = table.lock().by_id.get_mut(&self.id.0)
        {
            entry.uses -= 1;
        }
    }
}
