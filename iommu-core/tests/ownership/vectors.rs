//! The vectors of DMA ownership, T1, T2, T14, T15, T26 to T33: (count, owner, what is attached) after each step.

use iommu_core::address::Iova;
use iommu_core::device_model::Errno;
use iommu_core::hardware::DomainKind;
use iommu_core::reserved::{RegionKind, ReservedRegion};
use iommu_core::software::SoftIommuConfig;
use iommu_core::{Attached, DefaultDomainType, Owner, Ownership, TypeRequest};

use crate::common::{Seen, World};
use crate::refusal;

/// As the vectors write it: D for the default domain, B for the blocking one, U for that of an owner.
fn state(world: &World) -> (u32, Option<String>, char) {
    let group = world.group("a0");
    let attached = match group.attached() {
        Attached::Default(_) => 'D',
        Attached::Blocking => 'B',
        Attached::Own => 'U',
        Attached::Nothing => '-',
    };
    match group.ownership() {
        Ownership::Idle => (0, None, attached),
        Ownership::Kernel { users } => (users.get(), None, attached),
        Ownership::User { owner, claims } => (claims.get(), Some(owner.name().into()), attached),
    }
}

fn owned(claims: u32, owner: &str, attached: char) -> (u32, Option<String>, char) {
    (claims, Some(owner.into()), attached)
}

const IDLE: (u32, Option<String>, char) = (0, None, 'D');

#[test]
fn t1_t2_kernel_drivers_come_and_go() {
    let world = World::with_devices(&["a0", "a1"]);
    world.bind("a0", "kernel").unwrap();
    world.bind("a1", "kernel").unwrap();
    assert_eq!(state(&world), (2, None, 'D'));
    world.unbind("a0");
    assert_eq!(state(&world), (1, None, 'D'));
    world.unbind("a1");
    assert_eq!(state(&world), IDLE);
}

#[test]
fn t13_t14_t15_device_claims_nest_for_one_owner() {
    let world = World::with_devices(&["a0", "a1"]);
    world.bind("a0", "managed").unwrap();
    world.bind("a1", "managed").unwrap();
    assert_eq!(state(&world), IDLE, "T4");
    let (x, y) = (Owner::new("X"), Owner::new("Y"));
    let first = world.member("a0").claim(&x).unwrap();
    assert_eq!(state(&world), owned(1, "X", 'B'), "T13");
    assert_eq!(refusal(&world, || world.member("a1").claim(&y)).errno(), Errno::EPERM, "T15");
    let second = world.member("a1").claim(&x).unwrap();
    assert_eq!(state(&world), owned(2, "X", 'B'), "T14");
    drop(first);
    assert_eq!(state(&world), owned(1, "X", 'B'), "T23");
    drop(second);
    assert_eq!(state(&world), IDLE, "T23");
}

#[test]
fn t26_a_direct_region_keeps_claims_out() {
    let direct = ReservedRegion { first: Iova::new(0x1000), kind: RegionKind::Direct, last: Iova::new(0x1fff) };
    let reserved = [("a1".into(), vec![direct])].into();
    let world = World::new(SoftIommuConfig { reserved, ..SoftIommuConfig::default() });
    drop([world.plug("a0"), world.plug("a1")]);
    assert_eq!(refusal(&world, || world.group("a0").claim(&Owner::new("g"))).errno(), Errno::EINVAL);
    assert_eq!(refusal(&world, || world.member("a0").claim(&Owner::new("X"))).errno(), Errno::EINVAL);
    assert_eq!(state(&world), IDLE);
}

#[test]
fn t27_the_second_device_refuses_to_be_blocked() {
    let world = World::with_devices(&["a0", "a1"]);
    world.map_kernel_page(&world.group("a0"));
    world.hardware.refuse_attach("a1", Some(DomainKind::Blocking));
    assert_eq!(refusal(&world, || world.group("a0").claim(&Owner::new("g"))).errno(), Errno::EIO);
    assert_eq!(state(&world), IDLE);
    assert_eq!(world.sees(&world.bus.device("a0").unwrap()), [Seen::Kernel, Seen::Nothing]);
}

/// Where we differ from Linux: the whole group is blocked.
#[test]
fn t28_the_second_device_refuses_to_come_home() {
    let world = World::with_devices(&["a0", "a1"]);
    world.map_kernel_page(&world.group("a0"));
    let claim = world.group("a0").claim(&Owner::new("g")).unwrap();
    world.hardware.refuse_attach("a1", Some(DomainKind::Dma));
    drop(claim);
    assert_eq!(state(&world), (0, None, 'B'));
    assert!(world.bus.devices().iter().all(|dev| world.sees(dev) == [Seen::Nothing; 2]));
    world.hardware.heal();
    world.bind("a0", "kernel").unwrap();
    assert_eq!(state(&world), (1, None, 'D'));
}

#[test]
fn t29_a_device_comes_into_an_owned_group() {
    let world = World::with_devices(&["a0"]);
    let claim = world.member("a0").claim(&Owner::new("X")).unwrap();
    let late = world.plug("a2");
    assert_eq!((state(&world), world.sees(&late)), (owned(1, "X", 'B'), [Seen::Nothing; 2]));
    assert_eq!(refusal(&world, || world.bind("a2", "kernel")), Errno::EBUSY);
    drop(claim);
    world.bind("a2", "kernel").unwrap();
    assert_eq!(state(&world), (1, None, 'D'));
}

#[test]
fn t30_a_pasid_keeps_the_second_driver_out() {
    let world = World::new(SoftIommuConfig { max_pasids: 16, ..SoftIommuConfig::default() });
    drop([world.plug("a0"), world.plug("a1")]);
    world.bind("a0", "kernel").unwrap();
    let domain = world.group("a0").allocate_paging().unwrap();
    let pasid = world.member("a0").attach_pasid(&domain, 1).unwrap();
    assert_eq!(refusal(&world, || world.bind("a1", "kernel")), Errno::EBUSY);
    assert_eq!(state(&world), (1, None, 'D'));
    drop(pasid);
    world.bind("a1", "kernel").unwrap();
    assert_eq!(state(&world), (2, None, 'D'));
}

#[test]
fn t31_the_type_changes_under_managed_drivers_only() {
    use DefaultDomainType::{Dma, DmaLazy, Identity};
    let world = World::with_devices(&["a0", "a1"]);
    let group = world.group("a0");
    let set = |kind| world.iommu.set_default_domain_type(&group, TypeRequest::Explicit(kind));
    world.bind("a0", "managed").unwrap();
    world.bind("a1", "managed").unwrap();
    assert_eq!((set(Identity), group.default_domain_type()), (Ok(()), Some(Identity)));
    assert_eq!(set(Dma), Ok(()));
    world.unbind("a0");
    world.bind("a0", "kernel").unwrap();
    assert_eq!(refusal(&world, || set(Identity)).errno(), Errno::EPERM);
    assert_eq!((set(DmaLazy), group.default_domain_type()), (Ok(()), Some(DmaLazy)));
    assert_eq!(state(&world), (1, None, 'D'));
}

#[test]
fn t32_t33_a_group_claim_is_exclusive() {
    let world = World::with_devices(&["a0", "a1"]);
    let owner = Owner::new("g");
    let _claim = world.group("a0").claim(&owner).unwrap();
    assert_eq!(refusal(&world, || world.group("a0").claim(&owner)).errno(), Errno::EPERM, "T32");
    assert_eq!(refusal(&world, || world.member("a1").claim(&Owner::new("X"))).errno(), Errno::EPERM, "T33");
    assert_eq!(state(&world), owned(1, "g", 'B'));
}
