//! Binding, attaching, moving: tables Ft8 to Ft11.

use iommu_core::device_model::Errno;
use iommu_core::{Attached, KernelUse, Ownership};
use iommufd_owner::AttachError;
use iommufd_owner::{BoundDevice, Context, ObjectId};

use crate::rig::Rig;

fn errno<T>(result: Result<T, AttachError>) -> Option<Errno> {
    result.err().map(|error| error.errno())
}

/// Two devices of one group, bound to one context with two address spaces, each with a page of its own at 0.
fn two() -> (Rig, Context, [BoundDevice; 2], [ObjectId; 2]) {
    let rig = Rig::new(&["a1", "a2"]);
    let context = rig.context("vmm");
    let bound = [0, 1].map(|device: usize| context.bind(&rig.members[device]).unwrap());
    let spaces = [0, 1].map(|page| {
        let ioas = context.ioas_alloc().unwrap();
        rig.map(&context, ioas, 0, 1, page).unwrap();
        ioas
    });
    (rig, context, bound, spaces)
}

#[test]
fn ft8_a_bind_claims_for_its_device() {
    let rig = Rig::new(&["a1", "a2"]);
    let [mine, theirs] = ["vmm", "another"].map(|name| rig.context(name));
    let kernel = KernelUse::begin(rig.members[1].clone(), &"nic".into()).unwrap();
    let refused = mine.bind(&rig.members[0]).unwrap_err();
    assert_eq!(refused.errno(), Errno::EPERM);
    assert_eq!(refused.to_string(), "group 0 is used by kernel drivers: a2 (nic)");
    drop(kernel);
    let first = mine.bind(&rig.members[0]).unwrap();
    assert_eq!(rig.members[1].group().attached(), Attached::Blocking, "F40");
    assert_eq!(theirs.bind(&rig.members[1]).unwrap_err().errno(), Errno::EPERM, "V38");
    let second = mine.bind(&rig.members[1]).unwrap();
    assert!(mine.owns(rig.members[0].group()) && !theirs.owns(rig.members[0].group()));
    assert_eq!(mine.destroy(first.id()).unwrap_err().errno(), Errno::EBUSY, "Ft2.1");
    drop(first);
    assert!(rig.members[0].group().ownership().is_held());
    drop(second);
    assert_eq!(rig.members[0].group().ownership(), Ownership::Idle);
}

#[test]
fn f45_the_first_device_moves_the_group_and_the_others_join() {
    let (rig, _context, [one, two], [a, b]) = two();
    let hwpt = one.attach(a).unwrap();
    assert_eq!([rig.reaches(0, 0), rig.reaches(1, 0)], [Some(1), Some(1)]);
    assert_eq!(errno(two.attach(b)), Some(Errno::EINVAL), "Ft9.1");
    assert_eq!(two.attach(a).unwrap(), hwpt);
    assert_eq!(errno(two.attach(a)), Some(Errno::EINVAL), "F49");
    one.detach();
    assert_eq!(rig.reaches(0, 0), Some(1), "F68");
    two.detach();
    assert_eq!([rig.reaches(0, 0), rig.reaches(1, 0)], [None, None]);
    assert_eq!(rig.members[0].group().attached(), Attached::Blocking, "F67");
}

#[test]
fn f51_replace_moves_all() {
    let (rig, context, [one, two], [a, b]) = two();
    assert_eq!(errno(one.replace(a)), Some(Errno::EINVAL), "Ft10.1");
    let first = one.attach(a).unwrap();
    assert_eq!(errno(two.replace(b)), Some(Errno::EINVAL), "Ft10.2");
    two.attach(a).unwrap();
    let second = two.replace(b).unwrap();
    assert_ne!(first, second);
    assert_eq!([rig.reaches(0, 0), rig.reaches(1, 0)], [Some(2), Some(2)]);
    assert_eq!(context.destroy(first).unwrap_err().errno(), Errno::ENOENT, "F47");
    context.destroy(a).unwrap();
    assert_eq!(one.replace(b).unwrap(), second, "Ft10.3");
    assert_eq!(context.destroy(b).unwrap_err().errno(), Errno::EBUSY);
}

#[test]
fn f46_page_tables_by_hand_are_never_picked() {
    let (rig, context, [one, two], [a, _]) = two();
    let by_hand = context.hwpt_alloc(one.id(), a).unwrap();
    assert_eq!(one.attach(by_hand).unwrap(), by_hand);
    assert_eq!(errno(two.attach(a)), Some(Errno::EINVAL), "F48");
    assert_eq!(context.destroy(by_hand).unwrap_err().errno(), Errno::EBUSY, "Ft2.3");
    let automatic = one.replace(a).unwrap();
    assert_ne!(automatic, by_hand);
    assert_eq!(rig.process.pinned(), 1, "both show one page, pinned once");
    context.destroy(by_hand).unwrap();
}

#[test]
fn f43_what_cannot_be_attached_to() {
    let (_rig, context, [one, two], [a, _]) = two();
    assert_eq!(errno(one.attach(ObjectId::new(99))), Some(Errno::ENOENT));
    assert_eq!(errno(one.attach(two.id())), Some(Errno::EINVAL));
    assert_eq!(context.hwpt_alloc(a, a).unwrap_err().errno(), Errno::ENOENT, "Ft11.3");
    assert_eq!(context.hwpt_alloc(one.id(), ObjectId::new(99)).unwrap_err().errno(), Errno::EINVAL, "Ft11.4");
    assert_eq!(context.hwpt_alloc(one.id(), two.id()).unwrap_err().errno(), Errno::EINVAL, "Ft11.5");
    let by_hand = context.hwpt_alloc(one.id(), a).unwrap();
    assert_eq!(context.hwpt_alloc(one.id(), by_hand).unwrap_err().errno(), Errno::EOPNOTSUPP, "Ft11.12");
}

#[test]
fn f10_everything_ends_with_the_context() {
    let (rig, context, [one, two], [a, b]) = two();
    one.attach(a).unwrap();
    context.hwpt_alloc(two.id(), b).unwrap();
    drop(context);
    assert_eq!(rig.reaches(0, 0), Some(1), "bound devices keep it");
    drop(one);
    assert_eq!(rig.members[0].group().attached(), Attached::Blocking);
    drop(two);
    rig.assert_idle();
}
