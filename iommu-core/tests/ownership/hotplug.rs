//! Table It1: a device comes into a group, whatever the group is doing.

use std::sync::Arc;

use iommu_core::device_model::{DeviceId, Errno};
use iommu_core::error::{AddError, SetTypeError};
use iommu_core::hardware::{Endpoint, HardwareError, IommuDriver};
use iommu_core::software::SoftIommuConfig;
use iommu_core::{Attached, DefaultDomainType, DeviceGroup, GroupId, Member, Ownership};

use crate::common::{Seen, World};
use crate::{GROUP, State, claim, refusal, refused_by};

/// It1.1, I13, I4: it joins where the group is, and nobody is counted more or less; once the group has gone home, so has
/// the device.
#[test]
fn a_device_joins_where_the_group_is() {
    for state in State::ALL {
        let (world, held) = state.world();
        let group = world.group("a0");
        let before = (group.ownership(), group.attached());
        let late = world.plug("a2");
        assert!(Arc::ptr_eq(&world.group("a2"), &group));
        assert_eq!((group.ownership(), group.attached()), before, "{state:?}");
        for dev in world.bus.devices() {
            assert_eq!(world.sees(&dev), state.seen(), "{state:?}: {dev:?}");
        }
        // I14, I22: a kernel driver is as welcome as on any other device of the group.
        let welcome = match state {
            State::Owned | State::Attached => Err(Errno::EBUSY),
            _ => Ok(()),
        };
        assert_eq!(world.bind("a2", "kernel"), welcome, "{state:?}");
        drop(held);
        if welcome.is_err() {
            world.bind("a2", "kernel").unwrap();
        }
        world.unbind("a2");
        assert_eq!((group.ownership(), group.attached()), (Ownership::Idle, Attached::Default(DefaultDomainType::Dma)));
        assert_eq!(world.sees(&late), [Seen::Kernel, Seen::Nothing], "{state:?}");
    }
}

/// It1.2, I11: the first device brings the group about, and its number is the lowest that is free.
#[test]
fn the_first_device_makes_the_group() {
    let world = World::with_devices(&["a0", "b0", "c0"]);
    let number = |device| world.group(device).id().get();
    assert_eq!(["a0", "b0", "c0"].map(number), [0, 1, 2]);
    assert_eq!(world.group("b0").attached(), Attached::Default(DefaultDomainType::Dma));
    world.unplug("b0");
    assert!(world.iommu.group(GroupId::new(1)).is_none());
    drop(world.plug("d0"));
    assert_eq!(number("d0"), 1);
}

/// I11: a device that is in a group stays there, and hardware hears nothing.
#[test]
fn adding_twice_changes_nothing() {
    let world = World::with_devices(&["a0"]);
    let (dev, calls) = (world.bus.device("a0").unwrap(), world.hardware.calls());
    let again = world.iommu.add_device(&Endpoint::new(dev.id(), dev.name().clone())).unwrap().unwrap();
    assert!(Arc::ptr_eq(&again, &world.member("a0")));
    assert_eq!(world.hardware.calls(), calls);
}

fn add(world: &World, device: u64) -> Result<Arc<Member>, AddError> {
    let endpoint = Endpoint::new(DeviceId::new(device), "late");
    let iommu: Arc<dyn IommuDriver> = world.hardware.clone();
    world.iommu.add_device_to(&endpoint, DeviceGroup::named(&iommu, "a"))
}

/// I11, It1.1, It1.2: what the errors say.
#[test]
fn a_device_that_cannot_be_taken_in_is_named() {
    let world = World::with_devices(&["a0"]);
    let _claim = claim(&world, "a0");
    world.hardware.fail_nth(0, HardwareError::new(Errno::ENOMEM, "no context"));
    let error = refusal(&world, || add(&world, 1000));
    let cause = HardwareError::new(Errno::ENOMEM, "no context");
    assert_eq!(error, AddError::Probe { device: "late".into(), cause });
    assert_eq!((error.errno(), error.to_string().as_str()), (Errno::ENOMEM, "the IOMMU cannot serve late"));

    world.hardware.refuse_attach("late", None);
    let error = refusal(&world, || add(&world, 1000));
    assert_eq!((&error, error.errno()), (&AddError::Switch(refused_by("late")), Errno::EIO));
    assert_eq!(error.to_string(), "hardware refused the domain of the group");
    world.hardware.heal();
    assert!(add(&world, 1000).is_ok(), "it left no trace");
    assert_eq!(world.group("a0").members().len(), 2);
}

/// It1.2: a first device without a default domain leaves no group.
#[test]
fn a_group_without_a_default_domain_does_not_come_about() {
    let world = World::new(SoftIommuConfig::default());
    world.hardware.refuse_attach("late", None);
    let error = refusal(&world, || add(&world, 1000));
    assert_eq!((error.errno(), error.to_string().as_str()), (Errno::EIO, "no default domain"));
    let AddError::DefaultDomain(SetTypeError::Switch(switch)) = error else { panic!("{error}") };
    assert_eq!(switch, refused_by("late"));
    assert!(world.iommu.groups().is_empty());
    world.hardware.heal();
    assert_eq!(add(&world, 1000).unwrap().group().id(), GROUP);
}

/// Where we differ from Linux (D61, I13): a device that its IOMMU could not take in is not bound, and is tried again.
#[test]
fn what_could_not_be_taken_in_is_not_bound() {
    let world = World::with_devices(&["a0"]);
    let _claim = claim(&world, "a0");
    world.hardware.refuse_attach("a1", None);
    let late = world.plug("a1");
    assert!(world.iommu.member(late.id()).is_none());
    for driver in ["kernel", "managed"] {
        assert_eq!(refusal(&world, || world.bind("a1", driver)), Errno::EIO);
    }
    assert_eq!(world.sees(&late), [Seen::Nothing; 2]);
    world.hardware.heal();
    assert_eq!(world.bind("a1", "kernel"), Err(Errno::EBUSY), "taken in, into an owned group");
    assert_eq!(world.group("a0").members().len(), 2);
}
