//! For every operation, the n-th call of hardware or the n-th pin fails, for all n: everything is as before, objects can
//! still be destroyed, and claims balance.

use iommu_core::address::PAGE_SIZE;
use iommu_core::{Access, Iova};
use iommufd_owner::{BoundDevice, Context, CopyRequest, LargePages, ObjectId, Place};

use crate::rig::{Fails, Rig};

struct Held {
    context: Context,
    spaces: [ObjectId; 2],
    bound: Vec<BoundDevice>,
}

/// Two address spaces with mappings, and so many bound devices of one group.
fn held(rig: &Rig, devices: usize) -> Held {
    let context = rig.context("vmm");
    let spaces = [0, 4].map(|page| {
        let ioas = context.ioas_alloc().unwrap();
        rig.map(&context, ioas, 0, 1, page).unwrap();
        rig.map(&context, ioas, 4, 3, page + 1).unwrap();
        ioas
    });
    let bound = (0..devices).map(|device| context.bind(&rig.members[device]).unwrap()).collect();
    Held { context, spaces, bound }
}

fn sweep(
    what: &str,
    fails: Fails,
    setup: impl Fn(&Rig) -> Held,
    operation: impl Fn(&Rig, &mut Held) -> Result<(), String>,
) {
    for n in 0.. {
        let rig = Rig::new(&["a1", "a2"]);
        let mut held = setup(&rig);
        let ranges = |held: &Held| held.spaces.map(|ioas| held.context.ioas_iova_ranges(ioas).unwrap());
        let (before, reserved, calls) = (rig.picture(), ranges(&held), rig.hardware.calls());
        rig.fail(fails, n);
        let result = operation(&rig, &mut held);
        let failed = rig.has_failed(fails, calls, n);
        rig.heal();
        if let Err(error) = &result {
            assert!(failed, "{what} failed for nothing: {error}");
            assert_eq!(rig.picture(), before, "{what}, {fails:?} {n}: {error}");
            assert_eq!(ranges(&held), reserved, "{what}, {fails:?} {n}: {error}");
            assert_eq!(operation(&rig, &mut held), Ok(()), "{what} works once nothing fails");
        }
        held.bound.clear();
        for ioas in held.spaces {
            assert_eq!(held.context.destroy(ioas), Ok(()), "{what}, {fails:?} {n}");
        }
        drop(held);
        rig.assert_idle();
        if !failed {
            return;
        }
    }
}

/// The n-th call of hardware fails, and the m-th, which may be one that undoes: what a device reaches stays pinned, and
/// everything can be taken down.
fn pairs(what: &str, setup: impl Fn(&Rig) -> Held, operation: impl Fn(&Rig, &mut Held) -> Result<(), String>) {
    for n in 0.. {
        for m in n + 1.. {
            let rig = Rig::new(&["a1", "a2"]);
            let mut held = setup(&rig);
            let calls = rig.hardware.calls();
            rig.fail(Fails::Hardware, n);
            rig.fail(Fails::Hardware, m);
            let _ = operation(&rig, &mut held);
            let [first, second] = [n, m].map(|n| rig.has_failed(Fails::Hardware, calls, n));
            rig.heal();
            rig.assert_pinned(&format!("{what}, {n} and {m}"));
            held.bound.clear();
            for ioas in held.spaces {
                assert_eq!(held.context.destroy(ioas), Ok(()), "{what}, {n} and {m}");
            }
            drop(held);
            rig.assert_idle();
            if !first {
                return;
            }
            if !second {
                break;
            }
        }
    }
}

/// Both devices attached to the first address space, which is shown page by page.
fn page_by_page(rig: &Rig) -> Held {
    let held = held(rig, 2);
    for ioas in held.spaces {
        held.context.set_large_pages(ioas, LargePages::Disabled).unwrap();
    }
    for bound in &held.bound {
        bound.attach(held.spaces[0]).unwrap();
    }
    held
}

fn copy_of_two_areas(_: &Rig, held: &mut Held) -> Result<(), String> {
    let (from, bytes) = (Iova::new(4 * PAGE_SIZE), 3 * PAGE_SIZE);
    let both = |to: u64| CopyRequest { from, bytes, place: Place::Fixed(Iova::new(to)), access: Access::ReadWrite };
    let (context, [a, b]) = (&held.context, held.spaces);
    // The source spans two areas; they are there already when it is tried again.
    let _ = context.ioas_copy(b, b, CopyRequest { bytes: PAGE_SIZE, ..both(7 * PAGE_SIZE) });
    let two = CopyRequest { bytes: 4 * PAGE_SIZE, ..both(16 * PAGE_SIZE) };
    told(context.ioas_copy(a, b, two))
}

#[test]
fn pairs_of_failing_calls() {
    let map = |rig: &Rig, held: &mut Held| {
        let request = rig.request(Place::Fixed(Iova::new(8 * PAGE_SIZE)), 4, 9);
        told(held.context.ioas_map(held.spaces[0], request))
    };
    pairs("map", page_by_page, map);
    pairs("copy", page_by_page, copy_of_two_areas);
    pairs("unmap", page_by_page, |_, held| told(held.context.ioas_unmap(held.spaces[0], Iova::new(0), u64::MAX)));
    pairs("replace", page_by_page, |_, held| told(held.bound[1].replace(held.spaces[1])));
    pairs("attach", |rig| held(rig, 2), |_, held| told(held.bound[0].attach(held.spaces[0])));
}

#[test]
fn map_and_copy_page_by_page() {
    for fails in [Fails::Hardware, Fails::Pin] {
        sweep("map", fails, page_by_page, |rig, held| {
            let request = rig.request(Place::Fixed(Iova::new(8 * PAGE_SIZE)), 4, 9);
            told(held.context.ioas_map(held.spaces[0], request))
        });
        sweep("copy", fails, page_by_page, copy_of_two_areas);
        sweep("replace", fails, page_by_page, |_, held| told(held.bound[1].replace(held.spaces[1])));
    }
}

fn told<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<(), String> {
    result.map(drop).map_err(|error| error.to_string())
}

#[test]
fn bind() {
    sweep(
        "bind",
        Fails::Hardware,
        |rig| held(rig, 0),
        |rig, held| {
            let bound = held.context.bind(&rig.members[0]).map_err(|error| error.to_string())?;
            held.bound.push(bound);
            Ok(())
        },
    );
}

#[test]
fn attach_and_replace() {
    for fails in [Fails::Hardware, Fails::Pin] {
        sweep("attach", fails, |rig| held(rig, 2), |_, held| told(held.bound[0].attach(held.spaces[0])));
        let attached = |rig: &Rig| {
            let held = held(rig, 2);
            for bound in &held.bound {
                bound.attach(held.spaces[0]).unwrap();
            }
            held
        };
        sweep("replace", fails, attached, |_, held| told(held.bound[1].replace(held.spaces[1])));
        sweep("hwpt-alloc", fails, attached, |_, held| {
            let id = held.context.hwpt_alloc(held.bound[0].id(), held.spaces[1]).map_err(|error| error.to_string())?;
            told(held.context.destroy(id))
        });
        sweep("map", fails, attached, |rig, held| {
            let request = rig.request(Place::Fixed(Iova::new(8 * PAGE_SIZE)), 4, 9);
            told(held.context.ioas_map(held.spaces[0], request))
        });
        sweep("copy", fails, attached, |_, held| {
            let place = Place::Fixed(Iova::new(16 * PAGE_SIZE));
            let (from, bytes) = (Iova::new(4 * PAGE_SIZE), 3 * PAGE_SIZE);
            let request = CopyRequest { from, bytes, place, access: Access::ReadWrite };
            told(held.context.ioas_copy(held.spaces[0], held.spaces[1], request))
        });
    }
}
