//! Binding, attaching, moving: tables Ft8 to Ft11.

use iommu_core::device_model::Errno;
use iommu_core::hardware::Capabilities;
use iommu_core::reserved::{RegionKind, ReservedRegion};
use iommu_core::{Attached, Iova, KernelUse, Ownership};
use iommufd_owner::{AttachError, BindError, BoundDevice, Context, ObjectId};

use crate::rig::{Fails, Rig};

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

#[test]
fn ft8_4_interrupts_of_every_device_of_the_group_are_isolated() {
    let rig = Rig::with(&["a1", "a2"], |config| {
        config.lacking.insert("a2".into(), Capabilities::MSI_ISOLATION);
    });
    let context = rig.context("vmm");
    let refused = context.bind(&rig.members[0]).unwrap_err();
    assert!(matches!(refused, BindError::UnsafeInterrupts { .. }) && refused.errno() == Errno::EPERM);
    rig.iommu.remove(&rig.members[1]);
    let bound = context.bind(&rig.members[0]).unwrap();
    assert!(context.owns(rig.members[0].group()));
    drop(bound);
    assert!(!context.owns(rig.members[0].group()));
}

#[test]
fn ft8_1_a_device_whose_dma_is_not_coherent_is_not_bound() {
    let rig = Rig::with(&["a1", "a2"], |config| {
        config.lacking.insert("a1".into(), Capabilities::CACHE_COHERENCY);
    });
    let context = rig.context("vmm");
    assert!(matches!(context.bind(&rig.members[0]), Err(BindError::NotCoherent { .. })));
    let other = context.bind(&rig.members[1]).unwrap();
    assert_eq!(other.id().get(), 1, "the refused bind has taken no id");
}

/// Where a device has a direct-mapped region at page 2 and an interrupt window of its own.
fn with_region(device: &str) -> Rig {
    Rig::with(&["a1", "a2", "b1"], |config| {
        let region = ReservedRegion { first: Iova::new(0x2000), last: Iova::new(0x2fff), kind: RegionKind::Reserved };
        config.reserved.insert(device.into(), vec![region]);
    })
}

fn usable(context: &Context, ioas: ObjectId) -> Vec<String> {
    context.ioas_iova_ranges(ioas).unwrap().ranges.iter().map(ToString::to_string).collect()
}

#[test]
fn f51_reserved_regions_move_with_the_devices() {
    let rig = with_region("a2");
    let context = rig.context("vmm");
    let [a, b] = [(); 2].map(|()| context.ioas_alloc().unwrap());
    let bound: Vec<_> = rig.members.iter().map(|member| context.bind(member).unwrap()).collect();
    let fresh = usable(&context, a);
    bound[0].attach(a).unwrap();
    let window = usable(&context, a);
    assert_eq!(window.len(), 2);
    bound[1].attach(a).unwrap();
    let all = usable(&context, a);
    assert_eq!(all, ["0x0-0x1fff", "0x3000-0xfedfffff", "0xfef00000-0x7fffffffff"]);
    // Within one address space reservations stay, whether the replace succeeds or fails.
    let by_hand = context.hwpt_alloc(bound[0].id(), a).unwrap();
    rig.fail(Fails::Hardware, 1);
    assert!(bound[0].replace(by_hand).is_err());
    rig.heal();
    assert_eq!(usable(&context, a), all);
    bound[0].replace(by_hand).unwrap();
    assert_eq!(usable(&context, a), all);
    // To another one they move, or stay.
    rig.map(&context, b, 2, 1, 0).unwrap();
    let refused = bound[0].replace(b).unwrap_err();
    assert_eq!(refused.errno(), Errno::EADDRINUSE);
    assert_eq!((usable(&context, a), usable(&context, b)), (all.clone(), fresh.clone()));
    context.ioas_unmap(b, Iova::new(0x2000), 0x1000).unwrap();
    bound[0].replace(b).unwrap();
    context.destroy(by_hand).unwrap();
    assert_eq!((usable(&context, a), usable(&context, b)), (fresh.clone(), all));
    bound[1].detach();
    assert_eq!(usable(&context, b), window);
    bound[0].detach();
    assert_eq!(usable(&context, b), fresh);
}

#[test]
fn ft9_2_a_refused_region_reserves_nothing() {
    let rig = with_region("a2");
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    let bound: Vec<_> = rig.members.iter().map(|member| context.bind(member).unwrap()).collect();
    bound[2].attach(ioas).unwrap();
    let before = usable(&context, ioas);
    rig.map(&context, ioas, 2, 1, 0).unwrap();
    let refused = bound[1].attach(ioas).unwrap_err();
    assert_eq!(refused.errno(), Errno::EADDRINUSE);
    assert!(!bound[1].is_attached());
    assert_eq!((usable(&context, ioas), rig.reaches(1, 2)), (before, None));
    // The other group goes, and with it its page table; nothing of the refused one is left.
    bound[2].detach();
    assert_eq!(usable(&context, ioas).len(), 1);
    context.destroy(ioas).unwrap();
}

#[test]
fn one_address_space_is_shown_by_several_domains() {
    let rig = Rig::new(&["a1", "b1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    let bound: Vec<_> = rig.members.iter().map(|member| context.bind(member).unwrap()).collect();
    let by_hand = context.hwpt_alloc(bound[1].id(), ioas).unwrap();
    bound[0].attach(ioas).unwrap();
    bound[1].attach(by_hand).unwrap();
    rig.map(&context, ioas, 0, 3, 4).unwrap();
    let reach = |at| [rig.reaches(0, at), rig.reaches(1, at)];
    assert_eq!((reach(0), reach(2), rig.process.pinned()), ([Some(5); 2], [Some(7); 2], 3));
    // Whichever hardware call of a map fails, neither domain shows anything of it.
    for n in 0..64 {
        rig.fail(Fails::Hardware, n);
        let mapped = rig.map(&context, ioas, 8, 3, 9);
        rig.heal();
        if mapped.is_ok() {
            assert!(n > 1, "both domains are mapped into");
            assert_eq!(reach(8), [Some(10); 2]);
            break;
        }
        assert_eq!((reach(8), reach(10), rig.process.pinned()), ([None; 2], [None; 2], 3), "call {n}");
    }
    bound[0].detach();
    assert_eq!((reach(0), rig.process.pinned()), ([None, Some(5)], 6), "the other domain still shows it");
    context.ioas_unmap(ioas, Iova::new(0), 0x3000).unwrap();
    assert_eq!((reach(0), rig.process.pinned()), ([None; 2], 3));
    bound[1].detach();
    assert_eq!(rig.process.pinned(), 3, "a page table shows it, attached or not");
    context.destroy(by_hand).unwrap();
    assert_eq!(rig.process.pinned(), 0);
}

#[test]
fn ft9_2_one_window_for_interrupts_is_chosen_by_software_at_most() {
    let region = |first: u64, kind| ReservedRegion { first: Iova::new(first), last: Iova::new(first + 0xfff), kind };
    let (software, hardware, plain) = (RegionKind::SoftwareMsi, RegionKind::Msi, RegionKind::Reserved);
    for (kinds, fits) in [
        (vec![hardware, hardware], true),
        (vec![software], true),
        (vec![plain, software, plain], true),
        (vec![software, hardware], false),
        (vec![plain, hardware, software], false),
        (vec![software, plain, software], false),
        (vec![software, hardware, software], false),
    ] {
        let rig = Rig::with(&["a1"], |config| {
            config.interrupt_window = None;
            let regions = kinds.iter().zip(1..).map(|(kind, number)| region(number << 16, *kind));
            config.reserved.insert("a1".into(), regions.collect());
        });
        let context = rig.context("vmm");
        let ioas = context.ioas_alloc().unwrap();
        let bound = context.bind(&rig.members[0]).unwrap();
        match bound.attach(ioas) {
            Ok(_) => assert!(fits, "{kinds:?}"),
            Err(error) => {
                assert!(!fits && matches!(error, AttachError::TwoInterruptWindows { .. }), "{kinds:?}: {error}");
                assert_eq!(error.errno(), Errno::EINVAL);
                assert_eq!(usable(&context, ioas).len(), 1, "nothing is reserved");
            }
        }
    }
}

#[test]
fn f46_hardware_that_fails_is_no_reason_for_another_page_table() {
    let rig = Rig::new(&["a1", "b1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    let [one, two] = [0, 1].map(|device: usize| context.bind(&rig.members[device]).unwrap());
    let shared = one.attach(ioas).unwrap();
    rig.fail(Fails::Hardware, 0);
    assert_eq!(errno(two.attach(ioas)), Some(Errno::EIO));
    assert_eq!(two.attach(ioas).unwrap(), shared);
}

#[test]
fn a_clone_is_the_same_context_and_everything_says_what_it_is() {
    let rig = Rig::new(&["a1"]);
    let [context, other] = ["vmm", "another"].map(|name| rig.context(name));
    assert!(context.is(&context.clone()) && !context.is(&other));
    let bound = context.bind(&rig.members[0]).unwrap();
    let access = context.access(|_| {}).unwrap();
    let queue = context.fault_queue_alloc().unwrap();
    assert_eq!(format!("{context:?}"), format!("Context({})", context.owner()));
    assert_eq!(format!("{bound:?}"), "BoundDevice { id: 1, device: \"a1\", .. }");
    assert_eq!(format!("{access:?}"), "IoasAccess { id: 2, .. }");
    assert!(format!("{queue:?}").contains("id: 3"), "{queue:?}");
    assert_eq!(queue.id().to_string(), "3");
}
