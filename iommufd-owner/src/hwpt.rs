//! Page tables: domains that show an address space to devices.

use alloc::sync::{Arc, Weak};

use iommu_core::{Domain, Group};

use crate::error::HwptError;
use crate::ioas::Ioas;
use crate::object::{Object, ObjectId, ObjectTable, Use};

/// A page table (HWPT): an object of a context. Dropping it takes everything out of its domain.
#[derive(Debug)]
pub(crate) struct Hwpt {
    pub(crate) id: ObjectId,
    pub(crate) domain: Arc<Domain>,
    pub(crate) ioas: Arc<Ioas>,
    pub(crate) made: Made,
    /// The address space cannot be destroyed before (Ft2.2).
    _ioas_use: Use,
}

/// By whom a page table was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// By an attach to an address space; it goes with its last device (F47).
    Automatically,
    /// By user space; it goes when destroyed, and no attach picks it (F46).
    ByHand,
}

/// A page table that nobody sees yet.
pub(crate) struct NewHwpt {
    hwpt: Arc<Hwpt>,
    reserved: crate::object::ReservedId,
}

impl NewHwpt {
    /// A page table for an address space, empty (F52).
    pub(crate) fn allocate(
        objects: &ObjectTable,
        group: &Group,
        ioas: &Arc<Ioas>,
        ioas_use: Use,
        made: Made,
    ) -> Result<Self, HwptError> {
        let reserved = objects.reserve()?;
        let domain = group.allocate_paging().map_err(HwptError::Hardware)?;
        let hwpt = Hwpt { id: reserved.id(), domain, ioas: ioas.clone(), made, _ioas_use: ioas_use };
        Ok(Self { hwpt: Arc::new(hwpt), reserved })
    }

    pub(crate) fn hwpt(&self) -> &Arc<Hwpt> {
        &self.hwpt
    }

    /// Shows the address space in it (Ft11.11).
    pub(crate) fn fill(&self) -> Result<(), HwptError> {
        let Hwpt { id, domain, ioas, .. } = &*self.hwpt;
        Ok(ioas.lock_table().add_domain(*id, domain)?)
    }

    /// From now on calls find it; `list` is that of its address space.
    pub(crate) fn publish(self, list: &mut alloc::vec::Vec<Weak<Hwpt>>) -> ObjectId {
        list.retain(|known| known.strong_count() > 0);
        list.push(Arc::downgrade(&self.hwpt));
        self.reserved.publish(Object::Hwpt(self.hwpt))
    }
}

impl Drop for Hwpt {
    fn drop(&mut self) {
        self.ioas.lock_table().remove_domain(self.id);
    }
}
