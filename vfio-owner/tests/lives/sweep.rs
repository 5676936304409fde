//! For every operation of VFIO, the n-th call of hardware or the n-th pin fails, for all n: what can fail leaves
//! everything as it was (V46, V48); what cannot fail leaves nothing of the user behind (I31).

use vfio_owner::backend::{Extension, Unmap};
use vfio_owner::iommu_core::Iova;
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::{Container, GroupFile, OpenDevice};

use crate::common::VFIO;
use crate::rig::{Fails, Rig};

/// Two devices in group a, one in group b, all on VFIO; what is open.
struct Held {
    a: Option<GroupFile>,
    b: Option<GroupFile>,
    container: Container,
    device: Option<OpenDevice>,
}

fn rig() -> (Rig, Held) {
    let rig = Rig::new(&["a1", "a2", "b1"]);
    for device in ["a1", "a2", "b1"] {
        assert!(rig.world.bind(device, VFIO));
    }
    let open = |device| rig.world.vfio.open_group(rig.world.group(device).id()).unwrap();
    let held =
        Held { a: Some(open("a1")), b: Some(open("b1")), container: rig.world.vfio.open_container(), device: None };
    (rig, held)
}

fn a(held: &Held) -> &GroupFile {
    held.a.as_ref().unwrap()
}

/// Group a in the container, with type1 and mappings in one piece and in several.
fn mapped() -> (Rig, Held) {
    let (rig, held) = rig();
    a(&held).set_container(&held.container).unwrap();
    held.container.set_iommu(Extension::TYPE1_V2).unwrap();
    held.container.map(rig.request(0, 1, 0)).unwrap();
    held.container.map(rig.request(4, 3, 2)).unwrap();
    (rig, held)
}

fn sweep(
    what: &str,
    setup: fn() -> (Rig, Held),
    fails: Fails,
    operation: impl Fn(&Rig, &mut Held) -> Result<(), String>,
) {
    for n in 0.. {
        let (rig, mut held) = setup();
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
        drop(held);
        rig.assert_idle();
        if !failed {
            assert!(n > 0 || result.is_ok());
            return;
        }
    }
}

fn told<E: std::fmt::Display>(result: Result<(), E>) -> Result<(), String> {
    result.map_err(|error| error.to_string())
}

#[test]
fn set_container() {
    sweep("set-container", rig, Fails::Hardware, |_, held| told(a(held).set_container(&held.container)));
}

#[test]
fn set_iommu() {
    let setup = || {
        let (rig, held) = rig();
        a(&held).set_container(&held.container).unwrap();
        held.b.as_ref().unwrap().set_container(&held.container).unwrap();
        (rig, held)
    };
    sweep("set-iommu", setup, Fails::Hardware, |_, held| told(held.container.set_iommu(Extension::TYPE1)));
}

#[test]
fn map() {
    for fails in [Fails::Hardware, Fails::Pin] {
        sweep("map", mapped, fails, |rig, held| told(held.container.map(rig.request(8, 4, 1))));
    }
}

#[test]
fn a_second_group_comes_with_mappings_there() {
    sweep("attach of a second group", mapped, Fails::Hardware, |_, held| {
        told(held.b.as_ref().unwrap().set_container(&held.container))
    });
}

#[test]
fn open_device() {
    sweep("get-device", mapped, Fails::Hardware, |_, held| {
        let opened = a(held).device("a1").map_err(|error| error.to_string())?;
        held.device = Some(opened);
        Ok(())
    });
}

#[test]
fn what_cannot_fail_leaves_nothing_behind() {
    type Undo = fn(&mut Held);
    let undo: [(&str, Undo); 4] = [
        ("unmap", |held| {
            let unmapped = held.container.unmap(Unmap::Range { iova: Iova::new(0), bytes: 16 * PAGE_SIZE }).unwrap();
            assert_eq!(unmapped, 4 * PAGE_SIZE);
        }),
        ("unset-container", |held| a(held).unset_container().unwrap()),
        ("close of the group", |held| held.a = None),
        ("close of the device, after the group", |held| {
            held.device = Some(a(held).device("a2").unwrap());
            held.a = None;
            held.device = None;
        }),
    ];
    for (what, undo) in undo {
        sweep(what, mapped, Fails::Hardware, |rig, held| {
            // The second try of a sweep is of no use here: what is undone is undone.
            undo(held);
            let reached = (0..16).filter(|at| rig.reaches("a1", *at).is_some()).count() as u64;
            if what == "unmap" && rig.hardware.last_failed().is_some() {
                // What hardware may still let the device reach is pinned for as long as the domain exists.
                assert!(rig.process.pinned() >= reached, "{what}: {reached} pages are reached");
            } else {
                assert_eq!((rig.process.pinned(), reached), (0, 0), "{what}");
            }
            Ok(())
        });
    }
}

#[test]
fn vt14_14_groups_of_one_iommu_share_a_domain() {
    let (rig, held) = mapped();
    let calls = |at| {
        let before = rig.hardware.calls();
        held.container.map(rig.request(at, 1, 0)).unwrap();
        rig.hardware.calls() - before
    };
    let alone = calls(8);
    held.b.as_ref().unwrap().set_container(&held.container).unwrap();
    assert_eq!((calls(9), rig.reaches("b1", 9), rig.reaches("b1", 8)), (alone, Some(1), Some(1)));
    // Whoever leaves, the other keeps the domain and what is in it.
    a(&held).unset_container().unwrap();
    assert_eq!((calls(10), rig.reaches("a1", 10), rig.reaches("b1", 9)), (alone, None, Some(1)));
}
