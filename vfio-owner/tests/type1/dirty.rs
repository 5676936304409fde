//! V51, Vt16.6: written pages.

use vfio_owner::backend::{DirtyBitmap, DirtyTracking, Extension, Unmap};
use vfio_owner::error::{DirtyError, UnmapDmaError};
use vfio_owner::iommu_core::Iova;
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::device_model::Errno;

use crate::rig::Rig;

const V2: Extension = Extension::TYPE1_V2;

fn pages(rig: &Rig, at: u64, pages: u64) -> Result<DirtyBitmap, DirtyError> {
    rig.container.dirty_pages(Iova::new(at * PAGE_SIZE), pages * PAGE_SIZE, PAGE_SIZE)
}

#[test]
fn v51_version_1_does_not_track() {
    let (rig, _a) = Rig::ready(Extension::TYPE1);
    for tracking in [DirtyTracking::On, DirtyTracking::Off] {
        assert_eq!(rig.container.track_dirty(tracking).unwrap_err().errno(), Errno::EACCES);
    }
    assert_eq!(pages(&rig, 0, 1).unwrap_err().errno(), Errno::EACCES);
}

#[test]
fn v51_starting_and_stopping_twice_is_the_same_as_once() {
    let (rig, _a) = Rig::ready(V2);
    rig.map(0, 1, 0).unwrap();
    for tracking in [DirtyTracking::Off, DirtyTracking::On, DirtyTracking::On] {
        rig.container.track_dirty(tracking).unwrap();
    }
    assert!(pages(&rig, 0, 1).is_ok());
    rig.container.track_dirty(DirtyTracking::Off).unwrap();
    let off = pages(&rig, 0, 1).unwrap_err();
    assert_eq!((&off, off.errno()), (&DirtyError::Off, Errno::EINVAL));
}

#[test]
fn v51_every_mapped_page_counts_as_written_each_time() {
    let (rig, _a) = Rig::ready(V2);
    rig.map(1, 2, 0).unwrap();
    rig.map(66, 1, 2).unwrap();
    rig.container.track_dirty(DirtyTracking::On).unwrap();
    for _ in 0..2 {
        assert_eq!(pages(&rig, 0, 67), Ok(DirtyBitmap(vec![0b110, 0b100])));
    }
    assert_eq!(pages(&rig, 1, 2), Ok(DirtyBitmap(vec![0b11])));
}

#[test]
fn v51_the_range_is_of_smallest_pages_and_cuts_nothing() {
    let (rig, _a) = Rig::ready(V2);
    rig.map(2, 4, 0).unwrap();
    rig.container.track_dirty(DirtyTracking::On).unwrap();
    let get = |iova, bytes, page| rig.container.dirty_pages(Iova::new(iova), bytes, page);
    for (iova, bytes, page) in [
        (0, 0, PAGE_SIZE),
        (1, PAGE_SIZE, PAGE_SIZE),
        (0, PAGE_SIZE, 2 * PAGE_SIZE),
        (0, PAGE_SIZE, 0),
        (2 * PAGE_SIZE, 3 * PAGE_SIZE, PAGE_SIZE),
        (3 * PAGE_SIZE, 3 * PAGE_SIZE, PAGE_SIZE),
        (u64::MAX - PAGE_SIZE + 1, 2 * PAGE_SIZE, PAGE_SIZE),
        // More pages than a bitmap may have.
        (0, 1 << 43, PAGE_SIZE),
    ] {
        let error = get(iova, bytes, page).unwrap_err();
        assert_eq!(error.errno(), Errno::EINVAL, "{iova:#x} {bytes:#x} {page:#x}");
    }
}

#[test]
fn vt16_6_an_unmap_tells_what_was_written_or_does_nothing() {
    let (rig, _a) = Rig::ready(V2);
    rig.map(2, 4, 0).unwrap();
    let unmap =
        |at: u64, pages: u64, page| rig.container.unmap_dirty(Iova::new(at * PAGE_SIZE), pages * PAGE_SIZE, page);
    assert_eq!(unmap(2, 4, PAGE_SIZE), Err(UnmapDmaError::Dirty(DirtyError::Off)));
    rig.container.track_dirty(DirtyTracking::On).unwrap();
    assert!(matches!(unmap(2, 4, 2 * PAGE_SIZE), Err(UnmapDmaError::Dirty(DirtyError::Range { .. }))));
    assert!(unmap(2, 3, PAGE_SIZE).is_err());
    assert_eq!(rig.pinned(), 4);
    assert_eq!(unmap(2, 4, PAGE_SIZE), Ok((4 * PAGE_SIZE, DirtyBitmap(vec![0b1111]))));
    assert_eq!(rig.container.unmap(Unmap::All), Ok(0));
}
