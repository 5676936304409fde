//! Table It8 through a claim: attach, replace, detach.

use std::sync::Arc;

use iommu_core::device_model::{DeviceId, Errno};
use iommu_core::error::AttachError;
use iommu_core::hardware::{DomainKind, Endpoint, HardwareError, IommuDriver};
use iommu_core::software::{SoftIommu, SoftIommuConfig};
use iommu_core::{Attached, Claim, Domain, IommuSubsystem, Owner, Reach, generic_device_group};

use crate::common::{Seen, World};
use crate::{GROUP, attached, claim, refusal, refused_by};

type Attach = fn(&Claim, &Arc<Domain>) -> Result<(), AttachError>;
const BOTH: [Attach; 2] = [Claim::attach, Claim::replace];

fn all_see(world: &World, seen: Seen) {
    for dev in world.bus.devices() {
        assert_eq!(world.sees(&dev), [seen, Seen::Nothing], "{dev:?}");
    }
}

/// It8.6, It8.12 from the blocking domain.
#[test]
fn every_device_goes_along() {
    for attach in BOTH {
        let world = World::with_devices(&["a0", "a1", "a2"]);
        let claim = claim(&world, "a1");
        attach(&claim, &world.user_domain(claim.group()).unwrap()).unwrap();
        assert_eq!(claim.group().attached(), Attached::Own);
        all_see(&world, Seen::User);
    }
}

/// It8.4: even for the domain that is attached.
#[test]
fn an_attached_domain_is_not_displaced() {
    let world = World::with_devices(&["a0"]);
    let claim = claim(&world, "a0");
    let [first, second] = [(); 2].map(|()| world.user_domain(claim.group()).unwrap());
    claim.attach(&first).unwrap();
    for domain in [&first, &second] {
        let error = refusal(&world, || claim.attach(domain));
        assert_eq!(error, AttachError::Attached { group: GROUP });
        assert_eq!(
            (error.errno(), error.to_string().as_str()),
            (Errno::EBUSY, "group 0 is attached to a domain already")
        );
    }
}

/// It8.12: from any domain to any other; there is nothing to do for the same one (where we differ from Linux).
#[test]
fn replace_needs_no_detach() {
    let world = World::with_devices(&["a0", "a1"]);
    let claim = claim(&world, "a0");
    let first = claim.group().allocate_paging().unwrap();
    let second = world.user_domain(claim.group()).unwrap();
    claim.attach(&first).unwrap();
    all_see(&world, Seen::Nothing);
    let calls = world.hardware.calls();
    claim.replace(&second).unwrap();
    all_see(&world, Seen::User);
    assert_eq!((world.hardware.calls() - calls, Arc::strong_count(&first)), (2, 1), "no stop on the way");
    claim.replace(&second).unwrap();
    assert_eq!(world.hardware.calls() - calls, 2);
}

/// It8.5: the first device that the domain's IOMMU does not serve.
#[test]
fn a_domain_of_another_iommu_is_refused() {
    let world = World::with_devices(&["a0", "b0'"]);
    let claim = claim(&world, "a0");
    let foreign = world.group("b0'").allocate_paging().unwrap();
    for attach in BOTH {
        let error = refusal(&world, || attach(&claim, &foreign));
        assert_eq!(error, AttachError::Foreign { device: "a0".into(), iommu: "iommu1".into() });
        assert_eq!(error.errno(), Errno::EINVAL);
        assert_eq!(error.to_string(), "the domain belongs to iommu1, which does not serve a0");
    }
}

/// It8.5: units of one driver share domains, if the driver says so.
#[test]
fn a_domain_may_serve_several_units_of_one_driver() {
    let units = SoftIommu::units(["dmar0", "dmar1"].map(|name| (name, SoftIommuConfig::default())));
    let served: Vec<Arc<dyn IommuDriver>> = units.iter().map(|unit| unit.clone() as Arc<dyn IommuDriver>).collect();
    let (iommu, _) = IommuSubsystem::builder(move |dev: &Endpoint| {
        Some(generic_device_group(&served[usize::from(&*dev.name == "b")]))
    })
    .build();
    let [a, b] = ["a", "b"].map(|name| {
        let id = DeviceId::new(u64::from(name.as_bytes()[0]));
        iommu.add_device(&Endpoint::new(id, name)).unwrap().unwrap()
    });
    assert_ne!(a.group().id(), b.group().id());
    let owner = Owner::new("vm");
    let claims = [a.claim(&owner).unwrap(), b.claim(&owner).unwrap()];
    let domain = a.group().allocate_paging().unwrap();
    for claim in &claims {
        claim.attach(&domain).unwrap();
        assert_eq!(claim.group().attached(), Attached::Own);
    }
}

/// I30 for attach and replace: all are back where they were, and the error says who refused.
#[test]
fn a_device_that_refuses_is_named() {
    for (attach, n) in [(BOTH[0], 0), (BOTH[1], 0), (BOTH[1], 1)] {
        let world = World::with_devices(&["a0", "a1", "a2"]);
        let claim = if n == 0 { claim(&world, "a0") } else { attached(&world, "a0") };
        let domain = claim.group().allocate_paging().unwrap();
        world.fail_nth(1);
        let error = refusal(&world, || attach(&claim, &domain));
        assert!(world.disarm());
        let cause = HardwareError::new(Errno::EIO, "on command");
        let AttachError::Switch(switch) = &error else { panic!("{error}") };
        assert_eq!((switch.group, &*switch.device, &switch.cause), (GROUP, "a1", &cause));
        assert_eq!((error.errno(), error.to_string().as_str()), (Errno::EIO, "hardware refused the domain"));
        assert_eq!(switch.to_string(), "a1 of group 0 could not be attached");
        assert_eq!(Arc::strong_count(&domain), 1);
    }
}

/// I30, I66: the number of the device that refuses goes up unchanged, even the soft one.
#[test]
fn the_number_of_hardware_goes_up() {
    let world = World::with_devices(&["a0"]);
    let claim = claim(&world, "a0");
    let domain = claim.group().allocate_paging().unwrap();
    for errno in [Errno::EINVAL, Errno::ENOMEM] {
        world.hardware.fail_nth(0, HardwareError::new(errno, "no"));
        assert_eq!(refusal(&world, || claim.attach(&domain)).errno(), errno);
    }
}

/// It8.9, It8.10: to the blocking domain as long as there is an owner; the domain can be freed then.
#[test]
fn detach_blocks() {
    let world = World::with_devices(&["a0", "a1"]);
    let claim = claim(&world, "a0");
    let calls = world.hardware.calls();
    claim.detach();
    assert_eq!(world.hardware.calls(), calls, "there was nothing to detach");
    let domain = world.user_domain(claim.group()).unwrap();
    claim.attach(&domain).unwrap();
    claim.detach();
    assert_eq!((claim.group().attached(), Arc::strong_count(&domain)), (Attached::Blocking, 1));
    all_see(&world, Seen::Nothing);
    claim.attach(&domain).unwrap();
    all_see(&world, Seen::User);
}

/// I31 for detach: a device that the blocking domain cannot have is stopped by force, and shows it.
#[test]
fn detach_stops_what_refuses() {
    let world = World::with_devices(&["a0", "a1"]);
    let claim = attached(&world, "a0");
    world.hardware.refuse_attach("a1", Some(DomainKind::Blocking));
    claim.detach();
    world.hardware.heal();
    let stopped =
        || -> Vec<_> { claim.group().members().iter().map(|member| member.reach != Reach::Attached).collect() };
    assert_eq!((claim.group().attached(), stopped()), (Attached::Blocking, vec![false, true]));
    all_see(&world, Seen::Nothing);
    claim.attach(&world.user_domain(claim.group()).unwrap()).unwrap();
    assert_eq!(stopped(), [false; 2]);
    all_see(&world, Seen::User);
}

/// I31 for the roll-back: who cannot go back is stopped, and the others are where they were.
#[test]
fn a_roll_back_stops_what_refuses_to_go_back() {
    let world = World::with_devices(&["a0", "a1", "a2"]);
    let claim = attached(&world, "a0");
    let domain = claim.group().allocate_paging().unwrap();
    // The second device refuses the new domain, and the first then refuses the old one.
    world.fail_nth(1);
    world.fail_nth(3);
    assert!(claim.replace(&domain).is_err());
    assert!(world.disarm());
    let seen: Vec<_> = world.bus.devices().iter().map(|dev| world.sees(dev)[0]).collect();
    assert_eq!(seen, [Seen::Nothing, Seen::User, Seen::User]);
    let stopped: Vec<_> = claim.group().members().iter().map(|member| member.reach != Reach::Attached).collect();
    assert_eq!((claim.group().attached(), stopped), (Attached::Own, vec![true, false, false]));
}

/// An owner of a group that has lost its devices has nothing to attach.
#[test]
fn an_empty_group_is_attached_to_nothing() {
    let world = World::new(SoftIommuConfig::default());
    drop(world.plug("a0"));
    let claim = attached(&world, "a0");
    let domain = claim.group().allocate_paging().unwrap();
    world.unplug("a0");
    for attach in BOTH {
        let error = refusal(&world, || attach(&claim, &domain));
        assert_eq!(error, AttachError::Empty { group: GROUP });
        assert_eq!((error.errno(), error.to_string().as_str()), (Errno::ENODEV, "group 0 is empty"));
    }
    claim.detach();
    assert_eq!(claim.group().attached(), Attached::Nothing);
    assert_eq!(claim.group().allocate_paging().unwrap_err().errno, Errno::ENODEV);
}

/// It4.3, It8: the error of a claim and that of an attach say the same of a device.
#[test]
fn who_refuses_is_the_first_in_order() {
    let world = World::with_devices(&["a0", "a1", "a2"]);
    let claim = claim(&world, "a0");
    let domain = claim.group().allocate_paging().unwrap();
    for device in ["a2", "a1"] {
        world.hardware.refuse_attach(device, Some(DomainKind::Paging));
        let error = refusal(&world, || claim.attach(&domain));
        assert_eq!(error, AttachError::Switch(refused_by(device)));
    }
}
