//! I18, I19: devices leave, one by one or with their IOMMU, whatever the group is doing.

use std::sync::Arc;

use iommu_core::device_model::Errno;
use iommu_core::hardware::IommuDriver;
use iommu_core::{Attached, DefaultDomainType, GroupId, Owner, Ownership};

use crate::common::{Seen, World};
use crate::{State, kernel, removed, use_by};

const HOME: Attached = Attached::Default(DefaultDomainType::Dma);

/// I19: the device that stays does not notice, and what was held gives back exactly itself.
#[test]
fn one_device_leaves_and_the_other_stays() {
    for state in State::ALL {
        for (leaving, staying) in [("a0", "a1"), ("a1", "a0")] {
            let (world, held) = state.world();
            let group = world.group(staying);
            let before = (group.ownership(), group.attached());
            let (dev, member) = removed(&world, leaving);
            // Kernel uses of the device that leaves are over.
            let users_left = state == State::Kernel && leaving == "a1";
            let ownership = if state == State::Kernel && !users_left { Ownership::Idle } else { before.0 };
            assert_eq!((group.ownership(), group.attached()), (ownership, before.1), "{state:?} without {leaving}");
            let stays = world.bus.device(staying).unwrap();
            assert_eq!((world.sees(&dev), world.sees(&stays)), ([Seen::Nothing; 2], state.seen()));
            assert_eq!((member.is_present(), group.members().len()), (false, 1));
            drop(held);
            assert_eq!(group.ownership(), Ownership::Idle, "{state:?} without {leaving}");
            world.bind(staying, "kernel").unwrap();
            assert_eq!((group.ownership(), group.attached()), (kernel(1), HOME));
            world.unbind(staying);
            drop(group.claim(&Owner::new("next")).unwrap());
            drop(world.plug(leaving));
            assert_eq!(world.group(leaving).id(), group.id(), "it comes back");
        }
    }
}

/// I18: the last device takes the domains along; what was held gives way without effect, and a new group may begin.
#[test]
fn the_last_device_leaves() {
    for state in State::ALL {
        let (world, held) = state.world();
        let group = world.group("a0");
        world.unplug("a0");
        let (dev, _) = removed(&world, "a1");
        assert!(group.is_empty() && world.iommu.groups().is_empty());
        assert_eq!((group.attached(), group.default_domain_type()), (Attached::Nothing, None), "{state:?}, I18");
        assert_eq!(
            (group.ownership().is_held(), world.sees(&dev)),
            (state.is_owned(), [Seen::Nothing; 2]),
            "{state:?}"
        );
        let late = world.plug("a0");
        assert_eq!(world.group("a0").id(), GroupId::new(1), "the old number is still in use");
        let after = world.picture();
        drop(held);
        assert_eq!((group.ownership(), group.attached()), (Ownership::Idle, Attached::Nothing), "{state:?}");
        assert_eq!(world.picture(), after, "the new group is another");
        assert_eq!(world.sees(&late), [Seen::Nothing; 2], "nothing is mapped yet");
        drop((dev, group));
    }
}

/// I19: of many uses only those of the device that leaves are over, and their ends count for nothing.
#[test]
fn uses_of_a_device_leave_with_it() {
    let world = World::with_devices(&["a0", "a1"]);
    let group = world.group("a0");
    let leaving = [(); 3].map(|()| use_by(&world, "a0", "nic"));
    let staying = use_by(&world, "a1", "disk");
    assert_eq!(group.ownership(), kernel(4));
    world.unplug("a0");
    assert_eq!(group.ownership(), kernel(1));
    drop(leaving);
    assert_eq!(group.ownership(), kernel(1));
    drop(staying);
    assert_eq!(group.ownership(), Ownership::Idle);
    // The place of the device that left may be another's by now.
    let leaving = use_by(&world, "a1", "disk");
    world.unplug("a1");
    drop(world.plug("a2"));
    let staying = use_by(&world, "a2", "disk");
    drop(leaving);
    assert_eq!(world.group("a2").ownership(), kernel(1));
    drop(staying);
}

/// I19: the place of a device that left is given to the next, which is not mistaken for it.
#[test]
fn a_device_in_the_place_of_another_is_another() {
    let world = World::with_devices(&["a0", "a1"]);
    let (old_use, old) = (use_by(&world, "a1", "disk"), world.member("a1"));
    world.unplug("a1");
    drop(world.plug("a2"));
    let new_use = use_by(&world, "a2", "nic");
    drop(old_use);
    assert_eq!((world.group("a0").ownership(), old.is_present()), (kernel(1), false));
    assert_eq!(old.claim(&Owner::new("vm")).unwrap_err().errno(), Errno::ENODEV);
    world.iommu.remove(&old);
    assert!(world.member("a2").is_present(), "removing twice changes nothing");
    drop(new_use);
}

fn remove_iommu(world: &World, iommu: &Arc<iommu_core::failing::FailingIommu>) {
    let iommu: Arc<dyn IommuDriver> = iommu.clone();
    world.iommu.remove_iommu(&iommu);
}

/// I19 for an IOMMU: its devices go, drivers stay bound, and nothing is wrong when they let go.
#[test]
fn an_iommu_goes_with_all_its_devices() {
    for state in State::ALL {
        let (world, held) = state.world();
        drop(world.plug("b0'"));
        let (group, bystander) = (world.group("a0"), world.group("b0'"));
        let bound = world.bind("a1", "kernel").is_ok();
        assert_eq!(bound, !state.is_owned(), "{state:?}");
        remove_iommu(&world, &world.hardware);
        assert_eq!(world.iommu.groups().iter().map(|group| group.id()).collect::<Vec<_>>(), [bystander.id()]);
        for name in ["a0", "a1"] {
            let dev = world.bus.device(name).unwrap();
            assert_eq!((world.sees(&dev), dev.dma_slot().member().is_none()), ([Seen::Nothing; 2], true), "{state:?}");
        }
        assert_eq!(bound.then(|| "kernel".into()), world.bus.device("a1").unwrap().driver_hint());
        assert_eq!((group.ownership().is_held(), group.attached()), (state.is_owned(), Attached::Nothing), "{state:?}");
        if bound {
            world.unbind("a1");
        }
        drop(held);
        assert_eq!((group.ownership(), bystander.attached()), (Ownership::Idle, HOME));
        // The placement still selects that IOMMU: the device comes into a new group when a driver binds.
        assert_eq!(world.bind("a1", "kernel"), Ok(()));
        assert_eq!((world.group("a1").ownership(), world.group("a1").attached()), (kernel(1), HOME));
        assert!(!Arc::ptr_eq(&world.group("a1"), &group));
    }
}

/// I19: devices of another IOMMU are in groups of their own, whatever the placement calls them, and stay there.
#[test]
fn an_iommu_leaves_the_devices_of_another() {
    for state in State::ALL {
        let (world, held) = state.world();
        drop(world.plug("a2'"));
        let group = world.group("a0");
        assert_ne!(world.group("a2'").id(), group.id());
        let before = (group.ownership(), group.attached(), group.members().len());
        remove_iommu(&world, &world.other);
        assert!(world.bus.device("a2'").unwrap().dma_slot().member().is_none());
        assert_eq!((group.ownership(), group.attached(), group.members().len()), before);
        for member in group.members() {
            let dev = world.bus.device(&member.device).unwrap();
            assert_eq!(world.sees(&dev), state.seen(), "{state:?}");
        }
        drop(held);
        assert_eq!(group.ownership(), Ownership::Idle);
    }
}
