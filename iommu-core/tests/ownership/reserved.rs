//! I33, I50, I51: what devices reserve, and what that means for claims.

use iommu_core::address::Iova;
use iommu_core::device_model::Errno;
use iommu_core::error::{AddError, ClaimError};
use iommu_core::hardware::{Capabilities, DomainKind, Endpoint};
use iommu_core::reserved::{self, RegionKind, ReservedRegion};
use iommu_core::software::{Memory, SoftIommuConfig};
use iommu_core::{Attached, DefaultDomainType, Owner, Ownership, TypeRequest};
use proptest::prelude::*;

use crate::common::World;
use crate::{GROUP, State, claim, refusal, use_by};

const KINDS: [RegionKind; 5] =
    [RegionKind::Direct, RegionKind::DirectRelaxable, RegionKind::Reserved, RegionKind::Msi, RegionKind::SoftwareMsi];

fn region(kind: RegionKind, first: u64, last: u64) -> ReservedRegion {
    ReservedRegion { first: Iova::new(first), kind, last: Iova::new(last) }
}

/// A machine whose `aD` and `aR` each need the page at 0x5000, the second only while the kernel has it.
fn world() -> World {
    let reserved = [
        ("aD".into(), vec![region(RegionKind::Direct, 0x5000, 0x5fff)]),
        ("aR".into(), vec![region(RegionKind::DirectRelaxable, 0x5000, 0x5fff)]),
    ];
    World::new(SoftIommuConfig { reserved: reserved.into(), max_pasids: 16, ..SoftIommuConfig::default() })
}

fn reaches_its_page(world: &World, device: &str) -> bool {
    let dev = world.bus.device(device).unwrap();
    world.soft.dma_read(dev.id(), Iova::new(0x5000), &mut [0], &Memory::new()).is_ok()
}

/// I33, T26: neither kind of claim; the group stays on its default domain, and kernel drivers may use it.
#[test]
fn a_group_with_a_direct_region_cannot_be_claimed() {
    let world = world();
    drop([world.plug("a0"), world.plug("aD")]);
    let owner = Owner::new("vm");
    let error = refusal(&world, || world.group("a0").claim(&owner));
    assert_eq!(refusal(&world, || world.member("a0").claim(&owner)), error, "even by a device that has none");
    assert_eq!(
        (&error, error.errno()),
        (&ClaimError::DirectRegion { group: GROUP, device: "aD".into() }, Errno::EINVAL)
    );
    assert_eq!(error.to_string(), "aD of group 0 needs a direct mapping at all times");
    assert!(reaches_its_page(&world, "aD"));
    let kernel_use = use_by(&world, "aD", "nic");
    assert_eq!(refusal(&world, || world.group("a0").claim(&owner)).errno(), Errno::EPERM, "It5.2 comes first");
    drop(kernel_use);
    world.unplug("aD");
    assert!(world.group("a0").claim(&owner).is_ok());
}

/// I12: a region that firmware made up is refused at once, however large; one that another device has a part of is mapped
/// around that part.
#[test]
fn a_direct_region_may_be_of_any_size() {
    let reserved = [
        ("aHuge".into(), vec![region(RegionKind::Direct, 0, u64::MAX)]),
        ("bPage".into(), vec![region(RegionKind::Direct, 0x5000, 0x5fff)]),
        ("bLarge".into(), vec![region(RegionKind::Direct, 0, (1 << 38) - 1)]),
    ];
    let world = World::new(SoftIommuConfig { reserved: reserved.into(), ..SoftIommuConfig::default() });
    drop([world.plug("aHuge"), world.plug("bPage"), world.plug("bLarge")]);
    assert!(world.iommu.member(world.bus.device("aHuge").unwrap().id()).is_none());
    for device in ["bPage", "bLarge"] {
        let dev = world.bus.device(device).unwrap();
        for at in [0, 0x4000, 0x5000, 0x6000, 1 << 37] {
            let read = world.soft.dma_read(dev.id(), Iova::new(at), &mut [0], &Memory::new());
            assert!(read.is_ok(), "{device} at {at:#x}: {read:?}");
        }
    }
}

/// I33: a relaxable region is given up for the claim, and there again after it.
#[test]
fn a_group_with_a_relaxable_region_can_be_claimed() {
    let world = world();
    drop(world.plug("aR"));
    assert!(reaches_its_page(&world, "aR"));
    let claim = claim(&world, "aR");
    assert!(!reaches_its_page(&world, "aR"));
    drop(claim);
    assert!(reaches_its_page(&world, "aR"));
}

/// I12: the regions of a device that comes later are mapped into the default domain, even while it is not attached.
#[test]
fn regions_of_late_devices_are_mapped() {
    for owned in [false, true] {
        let world = world();
        drop(world.plug("a0"));
        let claim = owned.then(|| claim(&world, "a0"));
        drop(world.plug("aR"));
        drop(claim);
        assert!(reaches_its_page(&world, "aR"));
    }
}

/// Where we differ from Linux (I13, I33): a device that needs a direct mapping comes into no owned group, nor into one
/// that is blocked; nor is it bound until it can come in.
#[test]
fn a_direct_region_comes_into_no_owned_or_blocked_group() {
    for state in State::ALL {
        let world = world();
        drop(world.plug("a0"));
        let held = state.enter(&world);
        let welcome = !state.is_owned() && state != State::Stuck;
        let before = world.group("a0").ownership();
        let late = world.plug("aD");
        assert_eq!(world.iommu.member(late.id()).is_some(), welcome, "{state:?}");
        assert_eq!(
            (world.group("a0").ownership(), world.group("a0").members().len()),
            (before, 1 + usize::from(welcome))
        );
        if !welcome {
            assert!(!reaches_its_page(&world, "aD"));
            for driver in ["kernel", "managed"] {
                assert_eq!(refusal(&world, || world.bind("aD", driver)), Errno::EINVAL);
            }
            let endpoint = Endpoint::new(late.id(), late.name().clone());
            let error = refusal(&world, || world.iommu.add_device(&endpoint));
            assert_eq!(error, AddError::DirectRegion { device: "aD".into(), group: GROUP });
            assert_eq!(error.to_string(), "aD needs a direct mapping, and group 0 is blocked");
        }
        drop(held);
        drop(use_by(&world, "a0", "nic"));
        assert_eq!(world.bind("aD", "kernel"), Ok(()), "{state:?}");
        assert!(reaches_its_page(&world, "aD"));
    }
}

/// I33 for what is no claim: a driver's own domain, and an identity default domain.
#[test]
fn a_direct_region_bars_claims_only() {
    let world = world();
    drop(world.plug("aD"));
    let domain = world.user_domain(&world.group("aD")).unwrap();
    drop(world.member("aD").attach_domain(&domain).unwrap());
    drop(world.member("aD").attach_pasid(&domain, 1).unwrap());
    world
        .iommu
        .set_default_domain_type(&world.group("aD"), TypeRequest::Explicit(DefaultDomainType::Identity))
        .unwrap();
    assert!(reaches_its_page(&world, "aD"));
    assert_eq!(refusal(&world, || world.group("aD").claim(&Owner::new("vm"))).errno(), Errno::EINVAL);
    assert_eq!(world.group("aD").ownership(), Ownership::Idle);
}

/// It4.2: a group that cannot be claimed asks for no blocking domain.
#[test]
fn a_direct_region_is_looked_at_before_hardware() {
    let world = world();
    drop(world.plug("aD"));
    let calls = world.hardware.calls();
    drop(refusal(&world, || world.group("aD").claim(&Owner::new("vm"))));
    assert_eq!(world.hardware.calls(), calls);
    assert_eq!(world.group("aD").attached(), Attached::Default(DefaultDomainType::Dma));
    assert_eq!(world.group("aD").default_domain().unwrap().kind(), DomainKind::Dma);
}

/// I51: the group's list is that of all its devices, as they are now.
#[test]
fn a_group_reserves_what_its_devices_reserve() {
    let window = region(RegionKind::Msi, 0xfee0_0000, 0xfeef_ffff);
    let world = world();
    drop(world.plug("a0"));
    assert_eq!(world.group("a0").reserved_regions(), [window]);
    drop([world.plug("aD"), world.plug("aR")]);
    let page = |kind| region(kind, 0x5000, 0x5fff);
    let both = [page(RegionKind::Direct), page(RegionKind::DirectRelaxable), window];
    assert_eq!(world.group("a0").reserved_regions(), both);
    world.unplug("aD");
    assert_eq!(world.group("a0").reserved_regions(), both[1..]);
}

/// I50, as sysfs shows them.
#[test]
fn software_windows_are_shown_as_hardware_ones() {
    assert_eq!(KINDS.map(RegionKind::name), ["direct", "direct-relaxable", "reserved", "msi", "msi"]);
    let shown = region(RegionKind::SoftwareMsi, 0x800_0000, 0x80f_ffff).to_string();
    assert_eq!(shown, "0x0000000008000000 0x00000000080fffff msi");
}

const WINDOW: u64 = 48;

/// For each kind, which of a few addresses are reserved; then the runs of these, in order.
fn naive(regions: &[ReservedRegion], base: u64) -> Vec<ReservedRegion> {
    let mut merged = Vec::new();
    for kind in KINDS {
        let is_reserved = |offset: u64| {
            let at = Iova::new(base + offset);
            regions.iter().any(|region| region.kind == kind && region.first <= at && at <= region.last)
        };
        let mut run = None;
        for offset in 0..WINDOW {
            match (run, is_reserved(offset)) {
                (None, true) => run = Some(offset),
                (Some(first), false) => {
                    merged.push(region(kind, base + first, base + offset - 1));
                    run = None;
                }
                _ => {}
            }
        }
        merged.extend(run.map(|first| region(kind, base + first, base + (WINDOW - 1))));
    }
    merged.sort_by_key(|region| (region.first, region.kind));
    merged
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// I51, at both ends of the addresses and elsewhere.
    #[test]
    fn merging_does_what_counting_addresses_does(
        base in prop_oneof![Just(0), Just(u64::MAX - (WINDOW - 1)), Just(0xfee0_0000)],
        picks in proptest::collection::vec((0..KINDS.len(), 0..WINDOW, 0..8_u64), 0..12),
    ) {
        let regions: Vec<_> = picks
            .into_iter()
            .map(|(kind, first, more)| region(KINDS[kind], base + first, base + (first + more).min(WINDOW - 1)))
            .collect();
        let merged = reserved::merge(regions.iter().copied());
        prop_assert_eq!(&merged, &naive(&regions, base));
        prop_assert_eq!(reserved::merge(merged.iter().copied()), merged, "merging again changes nothing");
    }
}

/// What a group can do is what each of its devices can.
#[test]
fn a_group_can_do_what_all_its_devices_can() {
    let all = SoftIommuConfig::default().capabilities;
    let lacking = [("a1".into(), Capabilities::MSI_ISOLATION), ("a2".into(), Capabilities::DIRTY_TRACKING)];
    let world = World::new(SoftIommuConfig { lacking: lacking.into(), ..SoftIommuConfig::default() });
    let group = |device: &str| {
        drop(world.plug(device));
        world.group("a0")
    };
    assert_eq!(group("a0").capabilities(), all);
    assert_eq!(group("a1").capabilities(), all.difference(Capabilities::MSI_ISOLATION));
    let neither = Capabilities::MSI_ISOLATION.union(Capabilities::DIRTY_TRACKING);
    assert_eq!(group("a2").capabilities(), all.difference(neither));
}
