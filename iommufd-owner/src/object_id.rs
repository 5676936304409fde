//! Ids of a context's objects, and their allocation.

use alloc::collections::BTreeSet;
use core::fmt;

use iommu_core::device_model::Errno;

/// The id of an object in its context.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(u32);

/// The highest id.
const LAST: u32 = i32::MAX as u32;

impl ObjectId {
    /// Makes an id of a number; calls refuse one that no object has with `ENOENT`.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns the number, from 1 to 2^31 - 1 for an object.
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

/// A context has all the objects that it can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the context has no id left")]
pub struct NoIdsError;

impl NoIdsError {
    /// Returns `ENOSPC`.
    pub const fn errno(self) -> Errno {
        Errno::ENOSPC
    }
}

/// There is no such object, or it is of another kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the context has no {what} with the id {id}")]
pub struct NoObjectError {
    /// The id.
    pub id: ObjectId,
    /// What it was to be.
    pub what: &'static str,
}

impl NoObjectError {
    /// Returns `ENOENT`.
    pub const fn errno(self) -> Errno {
        Errno::ENOENT
    }
}

/// Numbers from 1 on, of which the lowest free one is given first.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// Those that were given back, below `fresh`.
    free: BTreeSet<u32>,
    /// How many were ever given.
    fresh: u32,
}

impl Numbers {
    pub(crate) fn take(&mut self) -> Result<u32, NoIdsError> {
        match self.free.pop_first() {
            Some(number) => Ok(number),
            None if self.fresh < LAST => {
                self.fresh += 1;
                Ok(self.fresh)
            }
            None => Err(NoIdsError),
        }
    }

    pub(crate) fn give_back(&mut self, number: u32) {
        self.free.insert(number);
    }

    /// Whether none is given.
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.fresh as usize
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests;
