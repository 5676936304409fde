//! What whoever serves a context adds to it: objects of other kinds, and ranges that nothing may be mapped to.

use alloc::sync::Arc;
use core::any::Any;

use iommu_core::{Domain, IovaRange};

use crate::context::Context;
use crate::io_page_table::ReservedFor;
use crate::ioas::IoasError;
use crate::object::Object;
use crate::object_id::{NoIdsError, NoObjectError, ObjectId};
use crate::object_table::ReservedId;

/// An id for an object of another kind, which no call finds yet. Dropping it gives the id back.
#[derive(Debug)]
#[must_use = "dropping it gives the id back"]
pub struct NewObject(ReservedId<Object>);

impl NewObject {
    /// Returns the id.
    pub fn id(&self) -> ObjectId {
        self.0.id()
    }

    /// Lets calls find the object. [`Context::destroy`] drops it, as does the end of the context; an object that holds its
    /// context keeps that from ending.
    pub fn publish(self, object: Arc<dyn Any + Send + Sync>) -> ObjectId {
        self.0.publish(Object::Foreign(object))
    }
}

impl Context {
    /// Reserves an id for an object of a kind that this crate does not know.
    ///
    /// # Errors
    /// Fails if there is no id left.
    pub fn new_object(&self) -> Result<NewObject, NoIdsError> {
        Ok(NewObject(self.objects().reserve()?))
    }

    /// Returns the object of this id, if it is of a kind that this crate does not know.
    pub fn foreign_object(&self, id: ObjectId) -> Option<Arc<dyn Any + Send + Sync>> {
        match self.objects().get(id)? {
            (Object::Foreign(object), _used) => Some(object),
            _ => None,
        }
    }

    /// Returns the domain behind a page table.
    ///
    /// # Errors
    /// Fails if there is no such page table.
    pub fn hwpt_domain(&self, hwpt: ObjectId) -> Result<Arc<Domain>, NoObjectError> {
        match self.objects().get(hwpt) {
            Some((Object::Hwpt(hwpt), _used)) => Ok(hwpt.domain.clone()),
            _ => Err(NoObjectError { id: hwpt, what: "page table" }),
        }
    }

    /// Keeps a range of an address space from being mapped, for as long as the address space exists.
    ///
    /// # Errors
    /// Fails if there is no such address space, or something is mapped or allowed in the range.
    pub fn ioas_reserve(&self, ioas: ObjectId, range: IovaRange) -> Result<(), IoasError> {
        let ioas = self.ioas(ioas)?;
        Ok(ioas.lock_table().reserve([range], ReservedFor::Embedder)?)
    }
}
