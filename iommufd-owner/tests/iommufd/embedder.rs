//! What whoever serves a context adds to it.

use std::sync::Arc;

use iommu_core::device_model::Errno;
use iommu_core::{Iova, IovaRange};
use iommufd_owner::{ObjectId, ObjectType};

use crate::rig::Rig;

/// F102: an object of another kind has an id as all have, and ends when it is destroyed.
#[test]
fn f102_objects_of_other_kinds_have_ids_as_all_have() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let new = context.new_object().unwrap();
    let (id, ioas) = (new.id(), context.ioas_alloc().unwrap());
    assert_eq!((id.get(), ioas.get()), (1, 2));
    assert!(context.foreign_object(id).is_none(), "nobody finds it yet");
    drop(new);
    let new = context.new_object().unwrap();
    assert_eq!(new.id(), id, "the id was given back");
    let object = Arc::new("mine");
    new.publish(object.clone());
    assert_eq!(context.object_type(id), Some(ObjectType::Foreign));
    assert_eq!(*context.foreign_object(id).unwrap().downcast::<&str>().unwrap(), "mine");
    assert!(context.foreign_object(ioas).is_none());
    assert_eq!(context.ioas_unmap(id, Iova::new(0), 1).unwrap_err().errno(), Errno::ENOENT);
    context.destroy(id).unwrap();
    assert_eq!(Arc::strong_count(&object), 1);
}

/// Ft22.1.
#[test]
fn ft22_1_a_range_that_is_reserved_cannot_be_mapped() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    let range = |first, bytes| IovaRange::sized(Iova::new(first), bytes).unwrap();
    rig.map(&context, ioas, 1, 1, 0).unwrap();
    let reserve = |first, bytes| context.ioas_reserve(ioas, range(first, bytes)).map_err(|error| error.errno());
    assert_eq!(reserve(0x1000, 1), Err(Errno::EADDRINUSE));
    assert_eq!((reserve(0x3000, 1), reserve(0x3000, 0x1000)), (Ok(()), Ok(())), "twice is no matter");
    assert_eq!(rig.map(&context, ioas, 3, 1, 0).unwrap_err(), Errno::EINVAL);
    rig.map(&context, ioas, 4, 1, 0).unwrap();
    let none = context.ioas_reserve(ObjectId::new(9), range(0, 1)).unwrap_err();
    assert_eq!(none.errno(), Errno::ENOENT);
}

#[test]
fn only_page_tables_have_domains() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    assert_eq!(context.hwpt_domain(ioas).unwrap_err().errno(), Errno::ENOENT);
}
