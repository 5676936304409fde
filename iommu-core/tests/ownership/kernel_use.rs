//! Tables It2 and It3: kernel drivers begin and end to use the DMA API.

use std::sync::Arc;

use iommu_core::device_model::Errno;
use iommu_core::software::SoftIommuConfig;
use iommu_core::{Attached, ClaimError, DefaultDomainType, KernelUse, Member, Owner, Ownership, Reach, UseError};
use proptest::prelude::*;

use crate::common::{Seen, World};
use crate::{GROUP, State, claim, get_stuck, in_the_way, kernel, own_domain, refusal, refused_by, removed, use_by};

fn begin(member: Arc<Member>) -> Result<KernelUse, UseError> {
    KernelUse::begin(member, &"disk".into())
}

/// It2.1, It3.1, D62.
#[test]
fn a_device_that_no_iommu_serves_is_used_uncounted() {
    let world = World::with_devices(&["a0"]);
    // No IOMMU serves what is not named after a group.
    let stranger = world.plug("é");
    assert!(world.iommu.member(stranger.id()).is_none());
    let _claim = claim(&world, "a0");
    world.bind("é", "kernel").unwrap();
    world.unbind("é");
    assert_eq!(world.iommu.groups().len(), 1);
}

/// It2.3, It2.4, It3.3, I21, I3.
#[test]
fn uses_are_counted_and_leave_the_domain_alone() {
    let world = World::with_devices(&["a0", "a1"]);
    let group = world.group("a0");
    world.map_kernel_page(&group);
    let calls = world.hardware.calls();
    let mut uses = Vec::new();
    for (count, device) in [(1, "a0"), (2, "a1"), (3, "a0")] {
        uses.push(use_by(&world, device, "nic"));
        assert_eq!((group.ownership(), group.ownership().is_held()), (kernel(count), true), "It2.3, It2.4, I64");
        assert_eq!(uses.last().unwrap().member().name().as_ref(), device);
    }
    for left in (0..3).rev() {
        drop(uses.remove(0));
        assert_eq!(group.ownership(), kernel(left), "It3.3");
        assert_eq!(group.attached(), Attached::Default(DefaultDomainType::Dma));
    }
    assert!(!group.ownership().is_held());
    assert_eq!(world.hardware.calls(), calls, "I21");
}

/// It2.5 for an owner, I14.
#[test]
fn a_use_in_an_owned_group_is_refused_with_its_holder() {
    let world = World::with_devices(&["a0", "a1"]);
    let claim = claim(&world, "a0");
    let holder = claim.group().ownership().owner().cloned().unwrap();
    for attach in [false, true] {
        if attach {
            claim.attach(&world.user_domain(claim.group()).unwrap()).unwrap();
        }
        for device in ["a0", "a1"] {
            let error = refusal(&world, || begin(world.member(device)));
            assert_eq!(error, UseError::Owned { group: GROUP, holder: holder.clone() });
            assert_eq!((error.errno(), error.to_string().as_str()), (Errno::EBUSY, "group 0 belongs to vm"));
            assert_eq!(refusal(&world, || world.bind(device, "kernel")), Errno::EBUSY);
        }
    }
    assert_eq!(world.bind("a1", "managed"), Ok(()), "D65: it counts nothing");
}

/// It2.3 against It2.5, I20, I22: with nobody counted the domain is not looked at.
#[test]
fn a_sibling_of_a_driver_with_its_own_domain_is_refused() {
    let world = World::with_devices(&["a0"]);
    let domain = own_domain(&world, "a0");
    let nic = use_by(&world, "a0", "nic");
    assert_eq!(world.group("a0").ownership(), kernel(1), "It2.3");
    drop(world.plug("a1"));
    for device in ["a0", "a1"] {
        let error = refusal(&world, || begin(world.member(device)));
        assert_eq!(error, UseError::DomainInUse { group: GROUP, devices: in_the_way(&[("a0", "nic")]) });
        assert_eq!(error.errno(), Errno::EBUSY);
        assert_eq!(error.to_string(), "group 0 is attached to a domain of its driver: a0 (nic)");
    }
    drop(domain);
    let _both = (nic, begin(world.member("a1")).unwrap());
    assert_eq!(world.group("a0").ownership(), kernel(2));
}

/// I31 as we have it: the group stays blocked, and each use tries to bring it home.
#[test]
fn a_use_of_a_stuck_group_says_which_device_does_not_come_home() {
    let world = World::with_devices(&["a0", "a1"]);
    get_stuck(&world, "a0");
    world.hardware.refuse_attach("a1", None);
    let error = refusal_of_stuck(&world);
    world.hardware.heal();
    assert_eq!(error, UseError::Blocked(refused_by("a1")));
    assert_eq!(error.errno(), Errno::EIO);
    let _use = begin(world.member("a1")).unwrap();
    assert_eq!(world.group("a0").attached(), Attached::Default(DefaultDomainType::Dma));
    assert!(world.group("a0").members().iter().all(|member| member.reach == Reach::Attached));
}

/// Blocked by force, which shows as `stopped`; all else stays.
fn refusal_of_stuck(world: &World) -> UseError {
    let group = world.group("a0");
    let Err(error) = begin(world.member("a0")) else { panic!("hardware refuses") };
    assert_eq!((group.ownership(), group.attached()), (Ownership::Idle, Attached::Blocking));
    assert!(world.bus.devices().iter().all(|dev| world.sees(dev) == [Seen::Nothing; 2]));
    error
}

/// It2.1 comes first (I20): whoever holds the group, and even if it could be brought home.
#[test]
fn a_removed_device_is_refused_whatever_its_group_is_doing() {
    for state in State::ALL {
        let (world, held) = state.world();
        let (_, gone) = removed(&world, "a1");
        assert!(!gone.is_present());
        let error = refusal(&world, || begin(gone.clone()));
        assert_eq!(error, UseError::NoGroup { device: "a1".into() }, "{state:?}");
        assert_eq!(error.errno(), Errno::ENODEV);
        assert_eq!(error.to_string(), "a1 is in no IOMMU group any more");
        drop(held);
    }
}

/// What no test can bring about: the default domain is there before the group can be seen (I17), and counts are long.
#[test]
fn errors_that_are_hard_to_meet() {
    let early = UseError::NoDefaultDomain { group: GROUP };
    assert_eq!((early.errno(), early.to_string().as_str()), (Errno::EPROBE_DEFER, "group 0 has no default domain yet"));
    assert_eq!(UseError::TooManyUsers { group: GROUP }.errno(), Errno::EOVERFLOW);
    assert_eq!(ClaimError::TooManyClaims { group: GROUP }.errno(), Errno::EOVERFLOW);
}

proptest! {
    /// It2, It3: the group's count is the sum over its devices, and a refused claim names exactly those in use, each
    /// with the driver that came last.
    #[test]
    fn the_count_is_the_sum_and_the_refusal_its_parts(
        steps in proptest::collection::vec((0..3_usize, 0..2_usize, any::<proptest::sample::Index>(), any::<bool>()), 1..30),
    ) {
        const DEVICES: [&str; 3] = ["a0", "a1", "a2"];
        const DRIVERS: [&str; 2] = ["disk", "nic"];
        let world = World::new(SoftIommuConfig::default());
        drop(DEVICES.map(|name| world.plug(name)));
        let group = world.group("a0");
        let mut uses: Vec<(usize, KernelUse)> = Vec::new();
        let mut last = [0; 3];
        for (device, driver, which, begins) in steps {
            if begins || uses.is_empty() {
                uses.push((device, use_by(&world, DEVICES[device], DRIVERS[driver])));
                last[device] = driver;
            } else {
                drop(uses.swap_remove(which.index(uses.len())));
            }
            prop_assert_eq!(group.ownership(), kernel(u32::try_from(uses.len()).unwrap()));
            let used: Vec<_> = (0..3).filter(|device| uses.iter().any(|(used, _)| used == device)).collect();
            let named: Vec<_> = used.iter().map(|&device| (DEVICES[device], DRIVERS[last[device]])).collect();
            let refused = group.claim(&Owner::new("vm")).err();
            let expected = ClaimError::KernelUse { group: group.id(), devices: in_the_way(&named) };
            prop_assert_eq!(refused, (!named.is_empty()).then_some(expected));
        }
    }
}
