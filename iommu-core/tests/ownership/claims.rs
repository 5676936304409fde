//! Tables It4 to It7: user space takes a group and gives it back.

use std::sync::Arc;

use iommu_core::device_model::Errno;
use iommu_core::error::ClaimError;
use iommu_core::hardware::{DomainKind, HardwareError};
use iommu_core::software::SoftIommuConfig;
use iommu_core::{Attached, DefaultDomainType, Owner, Ownership};
use proptest::prelude::*;

use crate::common::{Seen, World};
use crate::{GROUP, attached, claim, in_the_way, names, own_domain, refusal, refused_by, removed, use_by, user};

const HOME: Attached = Attached::Default(DefaultDomainType::Dma);

/// The refusals of a group claim and of a device claim, which must be the same.
fn refused_both_ways(world: &World, device: &str, owner: &Owner) -> ClaimError {
    let by_group = refusal(world, || world.group(device).claim(owner));
    let by_device = refusal(world, || world.member(device).claim(owner));
    assert_eq!(by_group, by_device);
    if !matches!(by_group, ClaimError::Switch(_) | ClaimError::NoBlockingDomain { .. }) {
        assert_eq!(world.group(device).check_claim(), Err(by_group.clone()), "it can be told beforehand");
    }
    by_group
}

/// It4.1.
#[test]
fn a_driver_with_a_domain_of_its_own_keeps_claims_out() {
    let world = World::with_devices(&["a1"]);
    let domain = own_domain(&world, "a1");
    drop(world.plug("a0"));
    let error = refused_both_ways(&world, "a0", &Owner::new("vm"));
    assert_eq!(error, ClaimError::DomainInUse { group: GROUP, devices: names(&["a0", "a1"]) });
    assert_eq!(error.errno(), Errno::EBUSY);
    assert_eq!(error.to_string(), "group 0 is attached to a domain of a driver: a0, a1");
    drop(domain);
    assert!(world.group("a0").claim(&Owner::new("vm")).is_ok());
}

/// It4.1 against It5.2, It6.3: who is counted is looked at first.
#[test]
fn a_kernel_user_with_a_domain_of_its_own_refuses_as_kernel_user() {
    let world = World::with_devices(&["a0"]);
    let _held = (use_by(&world, "a0", "gpu"), own_domain(&world, "a0"));
    let error = refused_both_ways(&world, "a0", &Owner::new("vm"));
    assert_eq!(error, ClaimError::KernelUse { group: GROUP, devices: in_the_way(&[("a0", "gpu")]) });
}

/// It4.2, I24: one blocking domain for all claims of a group, even after a claim that failed.
#[test]
fn the_blocking_domain_is_made_once() {
    let world = World::with_devices(&["a0", "a1"]);
    world.hardware.refuse_attach("a1", Some(DomainKind::Blocking));
    drop(refusal(&world, || world.group("a0").claim(&Owner::new("vm"))));
    world.hardware.heal();
    let calls = world.hardware.calls();
    drop(claim(&world, "a0"));
    assert_eq!(world.hardware.calls() - calls, 4, "two devices go there and back");
}

/// It4.2: hardware without blocking domains gets an empty one.
#[test]
fn an_empty_domain_blocks_as_well() {
    let config = SoftIommuConfig { absent: vec![DomainKind::Blocking], ..SoftIommuConfig::default() };
    let world = World::new(config);
    let dev = world.plug("a0");
    let claim = claim(&world, "a0");
    assert_eq!((claim.group().attached(), world.sees(&dev)), (Attached::Blocking, [Seen::Nothing; 2]));
    drop(claim);
    assert_eq!(world.group("a0").attached(), HOME);
}

/// It4.2: the allocator's number.
#[test]
fn hardware_that_can_block_by_no_means_refuses_claims() {
    let absent = vec![DomainKind::Blocking, DomainKind::Paging];
    let world = World::new(SoftIommuConfig { absent, ..SoftIommuConfig::default() });
    drop([world.plug("a0"), world.plug("a1")]);
    let error = refused_both_ways(&world, "a1", &Owner::new("vm"));
    let cause = HardwareError::new(Errno::EOPNOTSUPP, "iommu0 has no unmanaged domains");
    assert_eq!(
        error,
        ClaimError::NoBlockingDomain { group: GROUP, device: "a0".into(), cause },
        "I7: the first device"
    );
    assert_eq!(error.errno(), Errno::EOPNOTSUPP);
    assert_eq!(error.to_string(), "no blocking domain for a0 of group 0");
}

/// It4.3, I30.
#[test]
fn the_device_that_cannot_be_blocked_is_named() {
    let world = World::with_devices(&["a0", "a1", "a2"]);
    world.map_kernel_page(&world.group("a0"));
    world.hardware.refuse_attach("a1", Some(DomainKind::Blocking));
    let error = refused_both_ways(&world, "a2", &Owner::new("vm"));
    assert_eq!(error, ClaimError::Switch(refused_by("a1")));
    assert_eq!((error.errno(), error.to_string().as_str()), (Errno::EIO, "group 0 could not be blocked"));
}

/// It4.4, It5.3, It6.5, I25: whatever drivers of its own kind are bound.
#[test]
fn the_first_claim_blocks_every_device() {
    for by_group in [true, false] {
        let world = World::with_devices(&["a0", "a1", "a2"]);
        world.map_kernel_page(&world.group("a0"));
        world.bind("a1", "managed").unwrap();
        let owner = Owner::new("vm");
        let claim = if by_group { world.group("a0").claim(&owner) } else { world.member("a0").claim(&owner) }.unwrap();
        assert_eq!(claim.device().map(AsRef::as_ref), (!by_group).then_some("a0"));
        let group = claim.group();
        assert_eq!((group.ownership(), group.attached()), (user(&owner, 1), Attached::Blocking));
        assert!(world.bus.devices().iter().all(|dev| world.sees(dev) == [Seen::Nothing; 2]));
    }
}

/// It5.2, It6.3 for kernel use: every device in the way, and no other.
#[test]
fn kernel_users_keep_claims_out_and_are_named() {
    let world = World::with_devices(&["a2", "a1", "a0"]);
    let disk = use_by(&world, "a2", "disk");
    let nic = use_by(&world, "a0", "nic");
    let error = refused_both_ways(&world, "a1", &Owner::new("vm"));
    assert_eq!(error, ClaimError::KernelUse { group: GROUP, devices: in_the_way(&[("a0", "nic"), ("a2", "disk")]) });
    assert_eq!(error.errno(), Errno::EPERM);
    assert_eq!(error.to_string(), "group 0 is used by kernel drivers: a0 (nic), a2 (disk)");
    drop(nic);
    let error = refused_both_ways(&world, "a1", &Owner::new("vm"));
    assert_eq!(error, ClaimError::KernelUse { group: GROUP, devices: in_the_way(&[("a2", "disk")]) });
    drop(disk);
    drop(claim(&world, "a1"));
}

/// It5.2, It6.3 for owners: their name is not who they are.
#[test]
fn another_owner_of_the_same_name_is_another_owner() {
    let world = World::with_devices(&["a0", "a1"]);
    let name: Arc<str> = "vm".into();
    let (first, second) = (Owner::new(name.clone()), Owner::new(name));
    assert_ne!(first, second, "even of the very same text");
    assert_eq!(first, first.clone());
    let claim = world.member("a0").claim(&first).unwrap();
    let error = refused_both_ways(&world, "a1", &second);
    assert_eq!(error, ClaimError::Owned { group: GROUP, holder: first.clone() });
    assert_ne!(error, ClaimError::Owned { group: GROUP, holder: second.clone() });
    assert_eq!((error.errno(), error.to_string().as_str()), (Errno::EPERM, "group 0 belongs to vm"));
    drop(claim);
    let claim = world.member("a0").claim(&second).unwrap();
    assert_eq!(claim.group().ownership(), user(&second, 1), "and not the one before");
}

/// It5.2 against It6.4, I25: a device claim nests in either kind, a group claim in none.
#[test]
fn only_device_claims_nest() {
    let world = World::with_devices(&["a0", "a1"]);
    let owner = Owner::new("vm");
    let group = world.group("a0");
    for by_group in [true, false] {
        let first = if by_group { group.claim(&owner) } else { world.member("a0").claim(&owner) }.unwrap();
        let error = refusal(&world, || group.claim(&owner));
        assert_eq!(error, ClaimError::Owned { group: GROUP, holder: owner.clone() });
        assert_eq!(error.errno(), Errno::EPERM);
        let second = world.member("a1").claim(&owner).unwrap();
        assert_eq!(group.ownership(), user(&owner, 2));
        drop(first);
        assert_eq!((group.ownership(), group.attached()), (user(&owner, 1), Attached::Blocking), "It7.3");
        drop(second);
        assert_eq!((group.ownership(), group.attached()), (Ownership::Idle, HOME), "It7.4");
    }
}

/// It6.4: the domain is untouched, and so is the hardware.
#[test]
fn a_nested_claim_leaves_the_attached_domain() {
    let world = World::with_devices(&["a0", "a1"]);
    let first = attached(&world, "a0");
    let owner = first.group().ownership().owner().cloned().unwrap();
    let calls = world.hardware.calls();
    let second = world.member("a1").claim(&owner).unwrap();
    assert_eq!(first.group().attached(), Attached::Own);
    drop(first);
    assert_eq!((second.group().attached(), world.hardware.calls()), (Attached::Own, calls), "It7.3");
}

/// It6.2, It5 without devices (where we differ from Linux).
#[test]
fn nothing_claims_what_has_left() {
    let world = World::with_devices(&["a0", "a1"]);
    let owner = Owner::new("vm");
    let (_, gone) = removed(&world, "a1");
    let error = refusal(&world, || gone.claim(&owner));
    assert_eq!(error, ClaimError::NoGroup { device: "a1".into() });
    assert_eq!((error.errno(), error.to_string().as_str()), (Errno::ENODEV, "a1 is in no IOMMU group"));
    // Not even for the owner of the group.
    let claim = world.member("a0").claim(&owner).unwrap();
    assert_eq!(refusal(&world, || gone.claim(&owner)), error);
    drop(claim);
    let group = world.group("a0");
    drop(removed(&world, "a0"));
    let error = refusal(&world, || group.claim(&owner));
    assert_eq!(error, ClaimError::Empty { group: GROUP });
    assert_eq!((error.errno(), error.to_string().as_str()), (Errno::ENODEV, "group 0 is empty"));
    assert_eq!(group.ownership(), Ownership::Idle);
}

/// It7.2, I28: straight from the owner's domain to the default one; the owner's can be freed then.
#[test]
fn a_release_goes_straight_home() {
    let world = World::with_devices(&["a0", "a1"]);
    let group = world.group("a0");
    world.map_kernel_page(&group);
    let domain = world.user_domain(&group).unwrap();
    let claim = claim(&world, "a0");
    claim.attach(&domain).unwrap();
    let calls = world.hardware.calls();
    drop(claim);
    assert_eq!(world.hardware.calls() - calls, 2, "one attach for each device");
    assert_eq!((group.ownership(), group.attached(), Arc::strong_count(&domain)), (Ownership::Idle, HOME, 1));
    assert!(world.bus.devices().iter().all(|dev| world.sees(dev) == [Seen::Kernel, Seen::Nothing]));
}

proptest! {
    /// It6, It7: claims of one owner can end in any order; only the last end moves the group, and each gives back one.
    #[test]
    fn claims_nest_and_end_in_any_order(order in Just((0..6_usize).collect::<Vec<_>>()).prop_shuffle()) {
        let world = World::with_devices(&["a0", "a1", "a2"]);
        let group = world.group("a0");
        let owner = Owner::new("vm");
        let mut claims: Vec<_> =
            (0..6).map(|n| Some(world.member(["a0", "a1", "a2"][n % 3]).claim(&owner).unwrap())).collect();
        let calls = world.hardware.calls();
        for (ended, n) in order.into_iter().enumerate() {
            prop_assert_eq!(group.ownership(), user(&owner, u32::try_from(6 - ended).unwrap()));
            prop_assert_eq!((group.attached(), world.hardware.calls()), (Attached::Blocking, calls));
            claims[n] = None;
        }
        prop_assert_eq!((group.ownership(), group.attached()), (Ownership::Idle, HOME));
    }
}
