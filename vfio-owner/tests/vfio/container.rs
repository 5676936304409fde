//! Containers: tables Vt7 to Vt9, over type1 and over a backend of the test's own.

use std::sync::Arc;

use vfio_owner::backend::{Backend, ContainerIommu, Extension, MapRequest, Unmap};
use vfio_owner::error::{MapDmaError, SetIommuError};
use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::{Access, Attached, Iova, Ownership};
use vfio_owner::{GroupStatus, Vfio};

use crate::room::{CARD, NIC, PAGE, Room};

#[test]
fn v57_extensions_are_those_of_every_backend_until_one_is_set() {
    let room = Room::with(&[NIC]);
    let (file, container) = (room.group(NIC), room.container());
    for (extension, before, after) in [
        (Extension::TYPE1, 1, 1),
        (Extension::TYPE1_V2, 1, 1),
        (Extension::NESTING, 1, 1),
        (Extension::UNMAP_ALL, 1, 1),
        (Extension::UPDATE_VADDR, 0, 1),
        (Extension::DMA_CC, 0, 1),
        (Extension::SPAPR, 0, 0),
        (Extension::new(4711), 0, 0),
    ] {
        assert_eq!(container.check_extension(extension), before, "{extension} before");
        file.set_container(&container).unwrap();
        container.set_iommu(Extension::TYPE1).unwrap();
        assert_eq!(container.check_extension(extension), after, "{extension} after");
        file.unset_container().unwrap();
    }
}

#[test]
fn vt8_an_iommu_is_set_once_and_for_a_group() {
    let room = Room::with(&[NIC]);
    let (file, container) = (room.group(NIC), room.container());
    assert_eq!(container.set_iommu(Extension::TYPE1), Err(SetIommuError::NoGroup));
    file.set_container(&container).unwrap();
    let unknown = container.set_iommu(Extension::SPAPR).unwrap_err();
    assert_eq!((unknown.errno(), room.attached(NIC)), (Errno::ENODEV, Attached::Blocking));
    assert_eq!(container.set_iommu(Extension::UNMAP_ALL).unwrap_err().errno(), Errno::EINVAL);
    container.set_iommu(Extension::TYPE1_V2).unwrap();
    assert_eq!(room.attached(NIC), Attached::Own);
    assert_eq!(container.set_iommu(Extension::TYPE1_V2), Err(SetIommuError::AlreadySet));
    assert_eq!(container.set_iommu(Extension::TYPE1_V2).unwrap_err().errno(), Errno::EINVAL);
}

#[test]
fn vt9_5_the_iommu_goes_with_the_last_group() {
    let room = Room::with(&[NIC, CARD[0], CARD[1]]);
    let (nic, container) = room.ready(NIC);
    let card = room.group(CARD[0]);
    card.set_container(&container).unwrap();
    room.map(&container, 0x10_0000, PAGE);
    assert!(room.reaches(NIC, 0x10_0000) && room.reaches(CARD[2], 0x10_0000));
    nic.unset_container().unwrap();
    assert!(!room.reaches(NIC, 0x10_0000) && room.reaches(CARD[2], 0x10_0000));
    assert_eq!(room.ownership(NIC), Ownership::Idle);
    card.unset_container().unwrap();
    assert_eq!(room.process.pinned(), 0);
    let unset = container.unmap(Unmap::Range { iova: Iova::new(0x10_0000), bytes: PAGE }).unwrap_err();
    assert_eq!(unset.errno(), Errno::EINVAL);
    assert_eq!(container.info(), None);
    card.set_container(&container).unwrap();
    container.set_iommu(Extension::TYPE1).unwrap();
    assert!(!room.reaches(CARD[2], 0x10_0000));
}

#[test]
fn v25_each_group_is_claimed_for_itself() {
    let room = Room::with(&[NIC, CARD[0], CARD[1]]);
    let (nic, card, container) = (room.group(NIC), room.group(CARD[0]), room.container());
    nic.set_container(&container).unwrap();
    card.set_container(&container).unwrap();
    let (one, two) = (room.ownership(NIC), room.ownership(CARD[1]));
    assert!(one.owner().is_some() && two.owner().is_some() && one.owner() != two.owner());
    assert_eq!(card.status(), Ok(GroupStatus::InContainer));
}

#[test]
fn nothing_is_mapped_without_an_iommu() {
    let room = Room::with(&[NIC]);
    let container = room.container();
    let request = MapRequest {
        iova: Iova::new(0),
        bytes: PAGE,
        process: room.process.clone(),
        addr: room.ram,
        access: Access::Read,
    };
    assert_eq!(container.map(&request), Err(MapDmaError::NoIommu));
    assert_eq!(room.process.pinned(), 0);
}

/// Knows these types of IOMMU, and has none of them.
#[derive(Debug)]
struct Knowing(&'static [Extension]);

impl Backend for Knowing {
    fn check_extension(&self, extension: Extension) -> u32 {
        if self.0.contains(&extension) { 7 } else { 0 }
    }

    fn open(&self, kind: Extension) -> Result<Box<dyn ContainerIommu>, SetIommuError> {
        Err(SetIommuError::NotAKind { kind })
    }
}

#[test]
fn v57_a_backend_that_says_no_leaves_the_answer_to_the_next() {
    let first: Arc<dyn Backend> = Arc::new(Knowing(&[]));
    let second: Arc<dyn Backend> = Arc::new(Knowing(&[Extension::SPAPR]));
    let container = Vfio::new([first, second]).open_container();
    assert_eq!([Extension::SPAPR, Extension::TYPE1].map(|kind| container.check_extension(kind)), [7, 0]);
}
