//! For every operation, the n-th call of hardware or the n-th pin fails, for all n: everything is as before, objects can
//! still be destroyed, and claims balance.

use iommu_core::address::PAGE_SIZE;
use iommu_core::{Access, Iova};
use iommufd_owner::{BoundDevice, Context, CopyRequest, ObjectId, Place};

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
        let (before, calls) = (rig.picture(), rig.hardware.calls());
        rig.fail(fails, n);
        let result = operation(&rig, &mut held);
        let failed = rig.has_failed(fails, calls, n);
        rig.heal();
        if let Err(error) = &result {
            assert!(failed, "{what} failed for nothing: {error}");
            assert_eq!(rig.picture(), before, "{what}, {fails:?} {n}: {error}");
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
