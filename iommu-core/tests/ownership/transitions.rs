//! What an observer hears: each change of hands and of domain, once, in order, after it has happened.

use std::sync::Arc;

use iommu_core::device_model::sync::Mutex;
use iommu_core::error::SwitchError;
use iommu_core::hardware::IommuDriver;
use iommu_core::software::SoftIommuConfig;
use iommu_core::{Attached, Claim, Group, GroupId, KernelUse, Owner, Ownership, Transition, TypeRequest};
use proptest::prelude::*;

use crate::common::World;
use crate::{GROUP, own_domain, refused_by, use_by};

/// What the observer heard.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Told>>>);

/// A transition, to keep.
#[derive(Clone, Debug)]
struct Told {
    group: GroupId,
    sequence: u64,
    device: Option<Arc<str>>,
    before: Ownership,
    after: Ownership,
    attached: Attached,
    stuck: Option<SwitchError>,
}

impl From<&Transition<'_>> for Told {
    fn from(told: &Transition<'_>) -> Self {
        Self {
            group: told.group,
            sequence: told.sequence,
            device: told.device.cloned(),
            before: told.before.clone(),
            after: told.after.clone(),
            attached: told.attached,
            stuck: told.stuck.cloned(),
        }
    }
}

impl Heard {
    fn world(devices: &[&str]) -> (World, Self) {
        let heard = Self::default();
        let told = heard.clone();
        let observe = move |transition: &Transition<'_>| told.0.lock().push(transition.into());
        let config = SoftIommuConfig { max_pasids: 16, ..SoftIommuConfig::default() };
        let world = World::build(config, |builder| builder.observer(observe));
        for device in devices {
            drop(world.plug(device));
        }
        assert_eq!(heard.new_lines(), [""; 0], "devices that come change nobody's hold");
        (world, heard)
    }

    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut *self.0.lock())
    }

    /// What was heard since the last time, a line each.
    fn new_lines(&self) -> Vec<String> {
        self.take().iter().map(line).collect()
    }
}

fn line(transition: &Told) -> String {
    let Told { group, sequence, device, before, after, attached, stuck, .. } = transition;
    let device = device.as_deref().unwrap_or("group");
    let stuck = stuck.as_ref().map_or_else(String::new, |error| format!(" because of {}", error.device));
    format!("{group}.{sequence} {device}: {before} -> {after}, {attached}{stuck}")
}

#[test]
fn kernel_uses_begin_and_end() {
    let (world, heard) = Heard::world(&["a0", "a1"]);
    let uses = [use_by(&world, "a0", "nic"), use_by(&world, "a1", "disk")];
    drop(uses);
    let expected = [
        "0.1 a0: idle -> kernel, 1 user, default domain (DMA)",
        "0.2 a1: kernel, 1 user -> kernel, 2 users, default domain (DMA)",
        "0.3 a0: kernel, 2 users -> kernel, 1 user, default domain (DMA)",
        "0.4 a1: kernel, 1 user -> idle, default domain (DMA)",
    ];
    assert_eq!(heard.new_lines(), expected);
}

#[test]
fn drivers_are_bound_and_unbound() {
    let (world, heard) = Heard::world(&["a0", "b0"]);
    for (device, driver) in [("a0", "kernel"), ("b0", "managed")] {
        world.bind(device, driver).unwrap();
        world.unbind(device);
    }
    let expected = [
        "0.1 a0: idle -> kernel, 1 user, default domain (DMA)",
        "0.2 a0: kernel, 1 user -> idle, default domain (DMA)",
    ];
    assert_eq!(heard.new_lines(), expected, "D65: managed drivers count nothing");
}

#[test]
fn a_group_is_claimed_and_released() {
    let (world, heard) = Heard::world(&["a0", "a1"]);
    drop(world.group("a0").claim(&Owner::new("vm")).unwrap());
    let expected =
        ["0.1 group: idle -> vm, 1 claim, blocking domain", "0.2 group: vm, 1 claim -> idle, default domain (DMA)"];
    assert_eq!(heard.new_lines(), expected);
}

#[test]
fn devices_are_claimed_attached_and_released() {
    let (world, heard) = Heard::world(&["a0", "a1"]);
    let owner = Owner::new("vm");
    let first = world.member("a0").claim(&owner).unwrap();
    let second = world.member("a1").claim(&owner).unwrap();
    let [one, other] = [(); 2].map(|()| first.group().allocate_paging().unwrap());
    first.attach(&one).unwrap();
    second.replace(&other).unwrap();
    second.replace(&other).unwrap();
    drop(second);
    first.detach();
    first.detach();
    first.attach(&one).unwrap();
    drop(first);
    let expected = [
        "0.1 a0: idle -> vm, 1 claim, blocking domain",
        "0.2 a1: vm, 1 claim -> vm, 2 claims, blocking domain",
        "0.3 a0: vm, 2 claims -> vm, 2 claims, a domain of its own",
        "0.4 a1: vm, 2 claims -> vm, 2 claims, a domain of its own",
        "0.5 a1: vm, 2 claims -> vm, 1 claim, a domain of its own",
        "0.6 a0: vm, 1 claim -> vm, 1 claim, blocking domain",
        "0.7 a0: vm, 1 claim -> vm, 1 claim, a domain of its own",
        "0.8 a0: vm, 1 claim -> idle, default domain (DMA)",
    ];
    assert_eq!(heard.new_lines(), expected, "what changes nothing is not told");
}

#[test]
fn a_driver_attaches_its_own_domain() {
    let (world, heard) = Heard::world(&["a0"]);
    drop(own_domain(&world, "a0"));
    let expected = ["0.1 a0: idle -> idle, a domain of its own", "0.2 a0: idle -> idle, default domain (DMA)"];
    assert_eq!(heard.new_lines(), expected);
    let own = own_domain(&world, "a0");
    drop(heard.take());
    world.unplug("a0");
    drop(own);
    assert_eq!(heard.new_lines(), [""; 0], "nothing was left to bring home");
}

/// I31, T28: the release says who did not come home; the use that brings the group home shows it there.
#[test]
fn a_group_that_does_not_come_home_is_told() {
    let (world, heard) = Heard::world(&["a0", "a1"]);
    let claim = world.member("a0").claim(&Owner::new("vm")).unwrap();
    world.hardware.refuse_attach("a1", Some(iommu_core::DomainKind::Dma));
    drop(claim);
    let told = heard.take();
    assert_eq!(told[1].stuck, Some(refused_by("a1")));
    assert_eq!(line(&told[1]), "0.2 a0: vm, 1 claim -> idle, blocking domain because of a1");
    assert!(KernelUse::begin(world.member("a0"), &"nic".into()).is_err());
    assert_eq!(heard.new_lines(), [""; 0], "it was blocked, and it is");
    world.hardware.heal();
    drop(use_by(&world, "a0", "nic"));
    let expected = [
        "0.3 a0: idle -> kernel, 1 user, default domain (DMA)",
        "0.4 a0: kernel, 1 user -> idle, default domain (DMA)",
    ];
    assert_eq!(heard.new_lines(), expected);
    // A driver's own domain that cannot be left.
    world.unplug("a1");
    let own = own_domain(&world, "a0");
    world.hardware.refuse_attach("a0", Some(iommu_core::DomainKind::Dma));
    drop(own);
    let stuck: Vec<Option<SwitchError>> = heard.take().into_iter().map(|transition| transition.stuck).collect();
    assert_eq!(stuck, [None, Some(refused_by("a0"))]);
}

/// I19: only what changes a count is told; the end of a use that left with its device is not told again.
#[test]
fn devices_leave() {
    let (world, heard) = Heard::world(&["a0", "a1", "a2"]);
    let uses = [use_by(&world, "a0", "nic"), use_by(&world, "a0", "nic"), use_by(&world, "a1", "disk")];
    drop(heard.take());
    world.unplug("a2");
    world.unplug("a0");
    drop(uses);
    let expected = [
        "0.4 a0: kernel, 3 users -> kernel, 1 user, default domain (DMA)",
        "0.5 a1: kernel, 1 user -> idle, default domain (DMA)",
    ];
    assert_eq!(heard.new_lines(), expected);
}

#[test]
fn an_iommu_leaves() {
    let (world, heard) = Heard::world(&["a0", "b0", "b1"]);
    let _use = use_by(&world, "a0", "nic");
    let claim = world.member("b0").claim(&Owner::new("vm")).unwrap();
    drop(heard.take());
    let iommu: Arc<dyn IommuDriver> = world.hardware.clone();
    world.iommu.remove_iommu(&iommu);
    drop(claim);
    assert_eq!(heard.new_lines(), ["0.2 a0: kernel, 1 user -> idle, nothing", "1.2 b0: vm, 1 claim -> idle, nothing"]);
}

#[test]
fn refusals_are_not_told() {
    let (world, heard) = Heard::world(&["a0", "a1"]);
    let owner = Owner::new("vm");
    let nic = use_by(&world, "a0", "nic");
    assert_eq!(heard.take().len(), 1);
    assert!(world.group("a0").claim(&owner).is_err() && world.member("a1").claim(&owner).is_err());
    let identity = TypeRequest::Explicit(iommu_core::DefaultDomainType::Identity);
    assert!(world.iommu.set_default_domain_type(&world.group("a0"), identity).is_err());
    drop(nic);
    let claim = world.member("a0").claim(&owner).unwrap();
    drop(heard.take());
    world.bind("a1", "kernel").unwrap_err();
    world.hardware.refuse_attach("a1", None);
    assert!(claim.attach(&claim.group().allocate_paging().unwrap()).is_err());
    assert_eq!(heard.new_lines(), [""; 0]);
}

/// Lock order: the observer is told after the group lock was dropped, so that it may look at the group.
#[test]
fn the_observer_may_look_at_the_group() {
    type Watched = Arc<Mutex<Option<Arc<Group>>>>;
    let watched: Watched = Arc::default();
    let (looked, group) = (Arc::new(Mutex::new(Vec::new())), watched.clone());
    let seen = looked.clone();
    let observe = move |transition: &Transition<'_>| {
        let group = group.lock().clone().unwrap();
        assert_eq!((group.ownership(), group.attached()), (transition.after.clone(), transition.attached));
        seen.lock().push(transition.sequence);
    };
    let world = World::build(SoftIommuConfig::default(), |builder| builder.observer(observe));
    drop(world.plug("a0"));
    *watched.lock() = Some(world.group("a0"));
    drop(use_by(&world, "a0", "nic"));
    drop(own_domain(&world, "a0"));
    let claim = world.member("a0").claim(&Owner::new("vm")).unwrap();
    claim.attach(&claim.group().allocate_paging().unwrap()).unwrap();
    claim.detach();
    drop(claim);
    let kernel_use = use_by(&world, "a0", "nic");
    world.unplug("a0");
    drop(kernel_use);
    assert_eq!(*looked.lock(), (1..=10).collect::<Vec<_>>());
    let last = watched.lock().take();
    drop(last);
}

/// Something that is held.
#[derive(Debug)]
#[expect(dead_code, reason = "held for the sake of its end")]
enum Held {
    Use(KernelUse),
    Claim(Claim),
}

proptest! {
    /// For each group: numbers without a gap from 1, each beginning where the one before ended, never a change from the
    /// kernel to an owner or back without idleness between (I3), and the last is how things are.
    #[test]
    fn what_is_told_of_a_group_is_one_story(
        steps in proptest::collection::vec((0..4_usize, 0..5_u8, any::<proptest::sample::Index>()), 1..40),
    ) {
        const DEVICES: [&str; 4] = ["a0", "a1", "b0", "b1"];
        let (world, heard) = Heard::world(&DEVICES);
        let owner = Owner::new("vm");
        let mut held = Vec::new();
        for (device, what, which) in steps {
            let member = world.member(DEVICES[device]);
            match what {
                0 => held.extend(KernelUse::begin(member, &"nic".into()).ok().map(Held::Use)),
                1 => held.extend(member.claim(&owner).ok().map(Held::Claim)),
                2 => held.extend(member.group().claim(&owner).ok().map(Held::Claim)),
                _ if held.is_empty() => {}
                _ => drop(held.swap_remove(which.index(held.len()))),
            }
        }
        let told = heard.take();
        for group in world.iommu.groups() {
            let story: Vec<_> = told.iter().filter(|transition| transition.group == group.id()).collect();
            let mut before = (&Ownership::Idle, group.attached());
            for (n, transition) in (1..).zip(&story) {
                prop_assert_eq!(transition.sequence, n);
                prop_assert_eq!(&transition.before, before.0);
                let changes_sides = matches!(
                    (&transition.before, &transition.after),
                    (Ownership::Kernel { .. }, Ownership::User { .. }) | (Ownership::User { .. }, Ownership::Kernel { .. })
                );
                prop_assert!(!changes_sides);
                before = (&transition.after, transition.attached);
            }
            prop_assert_eq!((before.0.clone(), before.1), (group.ownership(), group.attached()));
        }
    }
}

#[test]
fn each_group_counts_for_itself() {
    let (world, heard) = Heard::world(&["a0", "b0"]);
    drop([use_by(&world, "a0", "nic"), use_by(&world, "b0", "nic")]);
    let numbers: Vec<_> = heard.take().iter().map(|transition| (transition.group, transition.sequence)).collect();
    let other = GroupId::new(1);
    assert_eq!(numbers, [(GROUP, 1), (other, 1), (GROUP, 2), (other, 2)]);
    assert!(matches!(world.group("b0").attached(), Attached::Default(_)));
}
