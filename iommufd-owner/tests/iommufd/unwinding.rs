//! User memory, notices and the IOMMU driver unwind: no lock stays held, nothing is half made, and what a device reaches is
//! pinned.

use std::panic::{AssertUnwindSafe, catch_unwind};

use iommu_core::address::PAGE_SIZE;
use iommu_core::{Access, Iova};
use iommufd_owner::{BoundDevice, Context, CopyRequest, LargePages, ObjectId, Place};

use crate::rig::Rig;

#[test]
fn a_pin_that_unwinds_leaves_no_mapping_and_no_pin() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    let bound = context.bind(&rig.members[0]).unwrap();
    bound.attach(ioas).unwrap();
    let request = rig.request(Place::Fixed(Iova::new(0)), 4, 0);
    rig.user.panic_nth(2);
    assert!(catch_unwind(AssertUnwindSafe(|| context.ioas_map(ioas, request.clone()))).is_err());
    assert_eq!((rig.process.pinned(), rig.locked.pages(), rig.reaches(0, 0)), (0, 0, None));
    bound.detach();
    context.ioas_map(ioas, request).unwrap();
    rig.user.panic_nth(1);
    assert!(catch_unwind(AssertUnwindSafe(|| bound.attach(ioas))).is_err());
    assert_eq!((rig.process.pinned(), rig.locked.pages(), rig.reaches(0, 0)), (0, 0, None));
    drop(bound);
    context.destroy(ioas).unwrap();
    rig.assert_idle();
}

#[test]
fn an_access_is_detached_though_its_notice_unwinds() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let [a, b] = [(); 2].map(|()| context.ioas_alloc().unwrap());
    let access = context.access(|_| panic!("on command")).unwrap();
    access.attach(a).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| access.replace(b))).is_err());
    assert_eq!(context.ioas_iova_ranges(a).unwrap().alignment, PAGE_SIZE, "it stays where it was");
    context.destroy(b).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| access.detach())).is_err());
    assert_eq!(access.detach(), Ok(()), "nothing is left to detach");
    assert_eq!(context.ioas_iova_ranges(a).unwrap().alignment, 1);
    access.attach(a).unwrap();
    let id = access.id();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(access))).is_err());
    assert_eq!(context.object_type(id), None);
    context.destroy(a).unwrap();
}

#[test]
fn what_a_map_that_unwound_may_have_mapped_stays_pinned() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    context.set_large_pages(ioas, LargePages::Disabled).unwrap();
    let bound = context.bind(&rig.members[0]).unwrap();
    bound.attach(ioas).unwrap();
    // The third page of four.
    rig.hardware.panic_nth(2);
    assert!(catch_unwind(AssertUnwindSafe(|| rig.map(&context, ioas, 0, 4, 0))).is_err());
    rig.heal();
    assert_eq!((rig.reaches(0, 0), rig.process.pinned()), (None, 4));
    bound.detach();
    assert_eq!(rig.process.pinned(), 0);
}

struct Held {
    context: Context,
    spaces: [ObjectId; 2],
    bound: Vec<BoundDevice>,
}

fn held(rig: &Rig) -> Held {
    let context = rig.context("vmm");
    let spaces = [0, 4].map(|page| {
        let ioas = context.ioas_alloc().unwrap();
        rig.map(&context, ioas, 0, 1, page).unwrap();
        rig.map(&context, ioas, 4, 2, page + 1).unwrap();
        ioas
    });
    let bound: Vec<_> = rig.members.iter().map(|member| context.bind(member).unwrap()).collect();
    Held { context, spaces, bound }
}

fn attached(rig: &Rig) -> Held {
    let held = held(rig);
    for bound in &held.bound {
        bound.attach(held.spaces[0]).unwrap();
    }
    // Two domains show the first address space.
    held.context.hwpt_alloc(held.bound[0].id(), held.spaces[0]).unwrap();
    held
}

/// The n-th call of hardware unwinds, for all n.
fn sweep(what: &str, setup: impl Fn(&Rig) -> Held, operation: impl Fn(&Rig, &mut Held)) {
    for n in 0.. {
        let rig = Rig::new(&["a1", "a2"]);
        let mut held = setup(&rig);
        rig.hardware.panic_nth(n);
        let unwound = catch_unwind(AssertUnwindSafe(|| operation(&rig, &mut held))).is_err();
        rig.heal();
        let what = format!("{what}, call {n} unwound: {unwound}");
        rig.assert_pinned(&what);
        // No lock is held, and everything can still be taken down.
        let Held { context, spaces, bound } = held;
        context.ioas_iova_ranges(spaces[0]).unwrap();
        drop(bound);
        rig.assert_pinned(&what);
        for ioas in spaces {
            let _ = context.ioas_unmap(ioas, Iova::new(0), u64::MAX);
        }
        drop(context);
        rig.assert_idle();
        if !unwound {
            return;
        }
    }
}

#[test]
fn the_iommu_driver_unwinds() {
    sweep("attach", held, |_, held| drop(held.bound[0].attach(held.spaces[0])));
    sweep("replace", attached, |_, held| drop(held.bound[1].replace(held.spaces[1])));
    sweep("detach", attached, |_, held| held.bound.iter().for_each(BoundDevice::detach));
    sweep("unbind", attached, |_, held| held.bound.clear());
    sweep("hwpt-alloc", attached, |_, held| drop(held.context.hwpt_alloc(held.bound[0].id(), held.spaces[0])));
    sweep("map", attached, |rig, held| {
        let request = rig.request(Place::Fixed(Iova::new(8 * PAGE_SIZE)), 4, 9);
        drop(held.context.ioas_map(held.spaces[0], request));
    });
    sweep("copy", attached, |_, held| {
        let (from, place) = (Iova::new(4 * PAGE_SIZE), Place::Fixed(Iova::new(16 * PAGE_SIZE)));
        let request = CopyRequest { from, bytes: 2 * PAGE_SIZE, place, access: Access::ReadWrite };
        drop(held.context.ioas_copy(held.spaces[0], held.spaces[1], request));
    });
    sweep("unmap", attached, |_, held| drop(held.context.ioas_unmap(held.spaces[0], Iova::new(0), u64::MAX)));
}
