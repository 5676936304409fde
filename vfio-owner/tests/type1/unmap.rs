//! Vt16: unmapping, by the rules of both versions.

use vfio_owner::backend::{Extension, Unmap};
use vfio_owner::error::UnmapDmaError;
use vfio_owner::iommu_core::Iova;
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::device_model::Errno;

use crate::rig::{A0, B0, Rig, plain};

const VERSIONS: [Extension; 2] = [Extension::TYPE1, Extension::TYPE1_V2];

fn refused(rig: &Rig, what: Unmap) -> UnmapDmaError {
    let before = (rig.pinned(), rig.view(A0));
    let error = rig.container.unmap(what).unwrap_err();
    assert_eq!(error.errno(), Errno::EINVAL);
    assert_eq!((rig.pinned(), rig.view(A0)), before);
    error
}

#[test]
fn vt16_3_5_whole_pages_that_do_not_wrap() {
    for version in VERSIONS {
        let (rig, _a) = Rig::ready(version);
        rig.map(1, 2, 0).unwrap();
        let odd = PAGE_SIZE + 1;
        for (iova, bytes) in [(odd, PAGE_SIZE), (PAGE_SIZE, 0), (PAGE_SIZE, odd), (odd, odd)] {
            let error = refused(&rig, Unmap::Range { iova: Iova::new(iova), bytes });
            assert!(matches!(error, UnmapDmaError::Misaligned { .. }), "{error}");
        }
        let last = Iova::new(u64::MAX - PAGE_SIZE + 1);
        assert_eq!(refused(&rig, Unmap::Range { iova: last, bytes: 2 * PAGE_SIZE }), UnmapDmaError::Wraps);
        assert_eq!(rig.container.unmap(Unmap::Range { iova: last, bytes: PAGE_SIZE }), Ok(0));
    }
}

#[test]
fn vt16_4_all_is_all_of_it_and_leaves_no_pin() {
    for version in VERSIONS {
        let (rig, _a) = Rig::ready(version);
        rig.map(0, 5, 0).unwrap();
        rig.map(7, 3, 5).unwrap();
        assert_eq!(rig.container.unmap(Unmap::All), Ok(8 * PAGE_SIZE));
        assert_eq!((rig.pinned(), rig.container.unmap(Unmap::All)), (0, Ok(0)));
        assert!(rig.view(A0).iter().all(Option::is_none));
    }
}

#[test]
fn vt16_7_version_2_cuts_nothing() {
    let (rig, _a) = Rig::ready(Extension::TYPE1_V2);
    rig.map(2, 3, 0).unwrap();
    rig.map(5, 3, 3).unwrap();
    for (at, pages) in [(2, 2), (3, 2), (3, 5), (2, 4), (4, 1), (0, 4), (7, 4)] {
        let error = refused(&rig, crate::rig::range(at, pages));
        assert!(matches!(error, UnmapDmaError::WouldCut { .. }), "{at} {pages}: {error}");
    }
}

#[test]
fn vt16_8_version_2_takes_every_mapping_in_the_range() {
    let (rig, _a) = Rig::ready(Extension::TYPE1_V2);
    rig.map(2, 2, 0).unwrap();
    rig.map(6, 2, 2).unwrap();
    assert_eq!(rig.unmap(4, 2), Ok(0), "a hole is no error");
    assert_eq!(rig.unmap(0, 12), Ok(4));
    assert_eq!(rig.pinned(), 0);
}

#[test]
fn vt16_9_version_1_does_nothing_from_inside_a_mapping() {
    let (rig, _a) = Rig::ready(Extension::TYPE1);
    rig.map(2, 4, 0).unwrap();
    rig.map(6, 1, 4).unwrap();
    let before = rig.view(A0);
    for (at, pages) in [(3, 1), (3, 3), (5, 2), (4, 8)] {
        assert_eq!(rig.unmap(at, pages), Ok(0), "{at} {pages}");
        assert_eq!((rig.view(A0), rig.pinned()), (before.clone(), 5));
    }
}

#[test]
fn vt16_10_version_1_takes_the_whole_mapping_by_its_first_address() {
    let (rig, _a) = Rig::ready(Extension::TYPE1);
    rig.map(2, 4, 0).unwrap();
    assert_eq!(rig.unmap(2, 1), Ok(4));
    rig.map(2, 4, 0).unwrap();
    rig.map(6, 4, 4).unwrap();
    assert_eq!(rig.unmap(0, 7), Ok(8), "more than was asked for");
    assert_eq!(rig.pinned(), 0);
}

#[test]
fn what_is_unmapped_leaves_every_domain_and_the_rest_stays() {
    for version in VERSIONS {
        let rig = Rig::new(&[(A0, plain()), (B0, plain())]);
        let _a = rig.first(A0, version);
        let _b = rig.join(B0).unwrap();
        rig.map(0, 3, 0).unwrap();
        rig.map(3, 3, 3).unwrap();
        assert_eq!(rig.unmap(0, 3), Ok(3));
        for device in [A0, B0] {
            assert_eq!((rig.reaches(device, 2), rig.reaches(device, 3)), (None, Some(4)), "{device}");
        }
        assert_eq!(rig.pinned(), 3);
    }
}

#[test]
fn an_unmap_ends_where_its_mapping_does() {
    let (rig, _a) = Rig::ready(Extension::TYPE1_V2);
    // They touch on both sides of the translation.
    for at in [2, 4, 6] {
        rig.map(at, 2, at).unwrap();
    }
    assert_eq!(rig.unmap(4, 2), Ok(2));
    let reached = [3, 4, 5, 6].map(|at| rig.reaches(A0, at));
    assert_eq!((reached, rig.pinned()), ([Some(4), None, None, Some(7)], 4));
}

#[test]
fn what_lies_in_one_piece_is_unmapped_at_once() {
    let (rig, _a) = Rig::ready(Extension::TYPE1_V2);
    let calls = |pages| {
        rig.map(1, pages, 0).unwrap();
        let before = rig.hardware(A0).calls();
        rig.unmap(1, pages).unwrap();
        rig.hardware(A0).calls() - before
    };
    assert_eq!(calls(8), calls(1));
}
