//! Table It8 for a kernel driver: a domain of its own, for a device alone in its group.

use std::sync::Arc;

use iommu_core::device_model::Errno;
use iommu_core::error::AttachError;
use iommu_core::{Attached, DefaultDomainType, Owner, Ownership};

use crate::common::{Seen, World};
use crate::{GROUP, claim, get_stuck, kernel, own_domain, refusal, refused_by, removed, use_by};

const HOME: Attached = Attached::Default(DefaultDomainType::Dma);

/// It8.3, It8.6, It8.9: there and back, with or without a kernel use; nobody is counted for it (I29).
#[test]
fn it_comes_and_goes() {
    for used in [false, true] {
        let world = World::with_devices(&["a0"]);
        let group = world.group("a0");
        world.map_kernel_page(&group);
        let kernel_use = used.then(|| use_by(&world, "a0", "gpu"));
        let domain = world.user_domain(&group).unwrap();
        let own = world.member("a0").attach_domain(&domain).unwrap();
        let dev = world.bus.device("a0").unwrap();
        assert_eq!((group.ownership(), group.attached()), (kernel(used.into()), Attached::Own));
        assert_eq!(world.sees(&dev), [Seen::User, Seen::Nothing]);
        drop(own);
        assert_eq!((group.ownership(), group.attached()), (kernel(used.into()), HOME));
        assert_eq!((world.sees(&dev), Arc::strong_count(&domain)), ([Seen::Kernel, Seen::Nothing], 1));
        drop(kernel_use);
        assert!(group.claim(&Owner::new("vm")).is_ok());
    }
}

/// It8.2.
#[test]
fn a_device_with_siblings_has_none() {
    for members in [2, 3] {
        let world = World::with_devices(&["a0", "a1", "a2"][..members]);
        let domain = world.user_domain(&world.group("a0")).unwrap();
        let error = refusal(&world, || world.member("a0").attach_domain(&domain));
        assert_eq!((&error, error.errno()), (&AttachError::Shared { group: GROUP, members }, Errno::EINVAL));
        assert_eq!(error.to_string(), format!("group 0 has {members} devices"));
    }
}

/// It8.4.
#[test]
fn there_is_one_at_a_time() {
    let world = World::with_devices(&["a0"]);
    let domain = world.user_domain(&world.group("a0")).unwrap();
    let _own = world.member("a0").attach_domain(&domain).unwrap();
    let error = refusal(&world, || world.member("a0").attach_domain(&domain));
    assert_eq!((&error, error.errno()), (&AttachError::Attached { group: GROUP }, Errno::EBUSY));
}

/// It8.5.
#[test]
fn it_belongs_to_the_iommu_of_the_device() {
    let world = World::with_devices(&["a0", "b0'"]);
    let foreign = world.group("b0'").allocate_paging().unwrap();
    let error = refusal(&world, || world.member("a0").attach_domain(&foreign));
    assert_eq!(error, AttachError::Foreign { device: "a0".into(), iommu: "iommu1".into() });
    assert_eq!(error.errno(), Errno::EINVAL);
}

/// It8.6 with hardware refusing.
#[test]
fn hardware_that_refuses_it_is_named() {
    let world = World::with_devices(&["a0"]);
    let domain = world.user_domain(&world.group("a0")).unwrap();
    world.hardware.refuse_attach("a0", Some(domain.kind()));
    let error = refusal(&world, || world.member("a0").attach_domain(&domain));
    assert_eq!((&error, error.errno()), (&AttachError::Switch(refused_by("a0")), Errno::EIO));
}

/// Where we differ from Linux (I29): not in a group that user space owns.
#[test]
fn an_owner_keeps_it_out() {
    let world = World::with_devices(&["a0"]);
    let claim = claim(&world, "a0");
    let domain = world.user_domain(claim.group()).unwrap();
    let error = refusal(&world, || world.member("a0").attach_domain(&domain));
    let holder = claim.group().ownership().owner().cloned().unwrap();
    assert_eq!(error, AttachError::Owned { group: GROUP, holder });
    assert_eq!((error.errno(), error.to_string().as_str()), (Errno::EBUSY, "group 0 belongs to vm"));
}

/// It8.1.
#[test]
fn a_removed_device_has_none() {
    let world = World::with_devices(&["a0", "a1"]);
    let (_, gone) = removed(&world, "a1");
    let domain = world.user_domain(&world.group("a0")).unwrap();
    let error = refusal(&world, || gone.attach_domain(&domain));
    assert_eq!(error, AttachError::NoGroup { device: "a1".into() });
    assert_eq!((error.errno(), error.to_string().as_str()), (Errno::ENODEV, "a1 is in no IOMMU group"));
}

/// It8.7: its device has gone, and nothing is left to detach; the domain can be freed.
#[test]
fn it_outlives_its_device() {
    let world = World::with_devices(&["a0"]);
    let own = own_domain(&world, "a0");
    let (_, gone) = removed(&world, "a0");
    assert_eq!((gone.group().ownership(), gone.group().attached()), (Ownership::Idle, Attached::Nothing));
    drop(own);
    assert_eq!(gone.group().attached(), Attached::Nothing);
}

/// It1.1, It8.8 as we have it: a device that comes later is taken along, and home again.
#[test]
fn who_comes_later_goes_along_and_home() {
    let world = World::with_devices(&["a0"]);
    world.map_kernel_page(&world.group("a0"));
    let own = own_domain(&world, "a0");
    let late = world.plug("a1");
    assert_eq!(world.sees(&late), [Seen::User, Seen::Nothing]);
    world.unplug("a0");
    drop(own);
    assert_eq!(world.group("a1").attached(), HOME);
    assert_eq!(world.sees(&late), [Seen::Kernel, Seen::Nothing]);
}

/// I31 as we have it: a way home that hardware refuses ends in a blocked group, from which it can begin again.
#[test]
fn a_stuck_group_lets_the_driver_begin_again() {
    let world = World::with_devices(&["a0"]);
    let own = own_domain(&world, "a0");
    world.fail_nth(0);
    drop(own);
    assert!(world.disarm());
    assert_eq!(world.group("a0").attached(), Attached::Blocking);
    drop(own_domain(&world, "a0"));
    assert_eq!(world.group("a0").attached(), HOME);
    get_stuck(&world, "a0");
    drop(own_domain(&world, "a0"));
    assert_eq!(world.group("a0").attached(), HOME);
}
