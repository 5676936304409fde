//! V51, Vt16.6: written pages.

use vfio_owner::backend::{DirtyBitmap, DirtyRequest, DirtyTracking, Extension, Unmap, UserBitmap};
use vfio_owner::error::{DirtyError, UnmapDmaError};
use vfio_owner::iommu_core::Iova;
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::software::{LockedPages, Memory, Process};
use vfio_owner::iommu_core::{Access, UserMemory};

use crate::rig::Rig;

const V2: Extension = Extension::TYPE1_V2;

fn pages(rig: &Rig, at: u64, pages: u64) -> Result<DirtyBitmap, DirtyError> {
    get(rig, at * PAGE_SIZE, pages * PAGE_SIZE, PAGE_SIZE)
}

fn get(rig: &Rig, iova: u64, bytes: u64, page_size: u64) -> Result<DirtyBitmap, DirtyError> {
    let mut bitmap = DirtyBitmap::default();
    let request = DirtyRequest { iova: Iova::new(iova), bytes, page_size };
    rig.container.dirty_pages(request, &mut bitmap).map(|()| bitmap)
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
    for (iova, bytes, page) in [
        (0, 0, PAGE_SIZE),
        (1, PAGE_SIZE, PAGE_SIZE),
        (0, PAGE_SIZE, 2 * PAGE_SIZE),
        (0, PAGE_SIZE, 0),
        (2 * PAGE_SIZE, 3 * PAGE_SIZE, PAGE_SIZE),
        (3 * PAGE_SIZE, 3 * PAGE_SIZE, PAGE_SIZE),
        (u64::MAX - PAGE_SIZE + 1, 2 * PAGE_SIZE, PAGE_SIZE),
    ] {
        let error = get(&rig, iova, bytes, page).unwrap_err();
        assert_eq!(error.errno(), Errno::EINVAL, "{iova:#x} {bytes:#x} {page:#x}");
    }
}

#[test]
fn vt16_6_an_unmap_tells_what_was_written_or_does_nothing() {
    let (rig, _a) = Rig::ready(V2);
    rig.map(2, 4, 0).unwrap();
    let unmap = |at: u64, pages: u64, page_size| {
        let mut bitmap = DirtyBitmap::default();
        let request = DirtyRequest { iova: Iova::new(at * PAGE_SIZE), bytes: pages * PAGE_SIZE, page_size };
        rig.container.unmap_dirty(request, &mut bitmap).map(|bytes| (bytes, bitmap))
    };
    assert_eq!(unmap(2, 4, PAGE_SIZE), Err(UnmapDmaError::Dirty(DirtyError::Off)));
    rig.container.track_dirty(DirtyTracking::On).unwrap();
    assert!(matches!(unmap(2, 4, 2 * PAGE_SIZE), Err(UnmapDmaError::Dirty(DirtyError::Range { .. }))));
    assert!(unmap(2, 3, PAGE_SIZE).is_err());
    assert_eq!(rig.pinned(), 4);
    assert_eq!(unmap(2, 4, PAGE_SIZE), Ok((4 * PAGE_SIZE, DirtyBitmap(vec![0b1111]))));
    assert_eq!(rig.container.unmap(Unmap::All), Ok(0));
}

/// Vt16.1: the size of a bitmap in user memory, in words of 64 bits.
#[test]
fn vt16_1_a_bitmap_is_as_large_as_its_range_needs() {
    let process = Process::new(&Memory::new(), LockedPages::unlimited());
    let at = process.allocate(PAGE_SIZE, Access::ReadWrite).unwrap();
    let fits = |bytes, pages: u64| UserBitmap::new(process.clone(), at, bytes, PAGE_SIZE, pages * PAGE_SIZE).is_ok();
    assert!(fits(8, 1) && fits(8, 64) && fits(16, 65) && fits(4096, 1));
    assert!(!fits(7, 1) && !fits(8, 65) && !fits(0, 0) && !fits(8, 0));
    let most = 1 << 31;
    assert!(fits(0x1000_0000, most) && !fits(0x1000_0008, 1) && !fits(0x1000_0000, most + 1));
}

#[test]
fn vt16_6_what_cannot_be_reported_stays_mapped() {
    let (rig, _a) = Rig::ready(V2);
    rig.map(0, 1, 0).unwrap();
    // Its bit lies behind the end of the memory.
    let bits = PAGE_SIZE * 8;
    rig.map(bits, 1, 1).unwrap();
    rig.container.track_dirty(DirtyTracking::On).unwrap();
    let process = Process::new(&Memory::new(), LockedPages::unlimited());
    let at = process.allocate(PAGE_SIZE, Access::ReadWrite).unwrap();
    let bytes = (bits + 1) * PAGE_SIZE;
    let mut bitmap = UserBitmap::new(process.clone(), at, PAGE_SIZE + 8, PAGE_SIZE, bytes).unwrap();
    let request = DirtyRequest { iova: Iova::new(0), bytes, page_size: PAGE_SIZE };
    assert_eq!(rig.container.unmap_dirty(request, &mut bitmap).unwrap_err().errno(), Errno::EFAULT);
    assert_eq!(rig.pinned(), 1, "the first one was reported, and unmapped");
    let mut first = [0];
    process.read(at, &mut first).unwrap();
    assert_eq!(first, [1]);
    assert_eq!(rig.container.dirty_pages(request, &mut bitmap).unwrap_err().errno(), Errno::EFAULT);
}
