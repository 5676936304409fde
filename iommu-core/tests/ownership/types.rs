//! Table It10, I40 to I44: the type of a group's default domain.

use std::sync::Arc;

use iommu_core::address::{Iova, PhysAddr};
use iommu_core::device_model::Errno;
use iommu_core::error::SetTypeError;
use iommu_core::hardware::{DomainKind, HardwareError};
use iommu_core::reserved::{RegionKind, ReservedRegion};
use iommu_core::software::SoftIommuConfig;
use iommu_core::{Attached, DefaultDomainType, TypeRequest, UnknownType};

use crate::common::{Seen, World};
use crate::{GROUP, State, attached, get_stuck, in_the_way, own_domain, refusal, refused_by, removed, use_by, user};

use DefaultDomainType::{Dma, DmaLazy, Identity};
use TypeRequest::{Auto, Explicit};

const TYPES: [DefaultDomainType; 3] = [Dma, DmaLazy, Identity];

fn set(world: &World, request: TypeRequest) -> Result<(), SetTypeError> {
    world.iommu.set_default_domain_type(&world.group("a0"), request)
}

fn type_of(world: &World) -> DefaultDomainType {
    world.group("a0").default_domain_type().unwrap()
}

/// It10.3, I43: the words that are read can be written, but for those of no default domain.
#[test]
fn four_words_can_be_written() {
    for kind in TYPES {
        assert_eq!(kind.domain_kind().name().parse(), Ok(Explicit(kind)));
        assert_eq!(format!("{}\n", kind.domain_kind()).parse(), Ok(Explicit(kind)));
    }
    assert_eq!(("auto".parse(), "auto\n".parse()), (Ok(Auto), Ok(Auto)));
    for text in ["", "\n", "dma", "DMA\n\n", " DMA", "DMA ", "DMA-fq", "Identity", "AUTO", "blocked", "unmanaged"] {
        assert_eq!(text.parse::<TypeRequest>(), Err(UnknownType), "{text:?}");
    }
    assert_eq!(UnknownType.errno(), Errno::EINVAL);
    assert_eq!(UnknownType.to_string(), "not one of identity, DMA, DMA-FQ, auto");
}

/// It10.2.
#[test]
fn an_empty_group_has_none_to_change() {
    let world = World::with_devices(&["a0"]);
    let group = world.group("a0");
    drop(removed(&world, "a0"));
    for request in [Auto, Explicit(Dma), Explicit(DmaLazy)] {
        let error = world.iommu.set_default_domain_type(&group, request).unwrap_err();
        assert_eq!((&error, error.errno()), (&SetTypeError::NoDefaultDomain { group: GROUP }, Errno::EINVAL));
        assert_eq!(error.to_string(), "group 0 has no default domain");
    }
}

/// It10.4, I44: DMA turns lazy in place, whatever the group is doing; no other change is of that kind.
#[test]
fn dma_turns_lazy_under_anybody() {
    for state in State::ALL {
        let (world, held) = state.world();
        let group = world.group("a0");
        let (domain, calls) = (group.default_domain().unwrap(), world.hardware.calls());
        set(&world, Explicit(DmaLazy)).unwrap();
        assert!(Arc::ptr_eq(&domain, &group.default_domain().unwrap()));
        assert_eq!((type_of(&world), world.hardware.calls()), (DmaLazy, calls), "{state:?}");
        for dev in world.bus.devices() {
            assert_eq!(world.sees(&dev), state.seen(), "{state:?}");
        }
        if state != State::Idle {
            for kind in TYPES {
                let error = refusal(&world, || set(&world, Explicit(kind)));
                let errno = if group.ownership().is_held() { Errno::EPERM } else { Errno::EBUSY };
                assert_eq!(error.errno(), errno, "{state:?} to {kind:?}, I44");
            }
        }
        drop(held);
        drop(use_by(&world, "a0", "nic"));
        assert_eq!(group.attached(), Attached::Default(DmaLazy), "{state:?}");
    }
}

/// It10.5: who is in the way.
#[test]
fn who_holds_the_group_is_named() {
    let world = World::with_devices(&["a0", "a1", "a2"]);
    let uses = [use_by(&world, "a2", "disk"), use_by(&world, "a0", "nic")];
    for request in [Explicit(Identity), Explicit(Dma), Auto] {
        let error = refusal(&world, || set(&world, request));
        let devices = in_the_way(&[("a0", "nic"), ("a2", "disk")]);
        assert_eq!((&error, error.errno()), (&SetTypeError::KernelUse { group: GROUP, devices }, Errno::EPERM));
        assert_eq!(error.to_string(), "group 0 is used by kernel drivers: a0 (nic), a2 (disk)");
    }
    drop(uses);
    let claim = attached(&world, "a1");
    let holder = claim.group().ownership().owner().cloned().unwrap();
    let error = refusal(&world, || set(&world, Explicit(Identity)));
    assert_eq!((&error, error.errno()), (&SetTypeError::Owned { group: GROUP, holder: holder.clone() }, Errno::EPERM));
    assert_eq!(error.to_string(), "group 0 belongs to vm");
    assert_eq!(claim.group().ownership(), user(&holder, 1));
}

/// It10.5 where nobody is counted, and yet the group is elsewhere.
#[test]
fn a_group_that_is_elsewhere_is_refused() {
    let world = World::with_devices(&["a0"]);
    let own = own_domain(&world, "a0");
    let error = refusal(&world, || set(&world, Explicit(Identity)));
    assert_eq!((&error, error.errno()), (&SetTypeError::DomainInUse { group: GROUP }, Errno::EBUSY));
    assert_eq!(error.to_string(), "group 0 is attached to a domain of a driver");
    drop(own);
    get_stuck(&world, "a0");
    assert_eq!(refusal(&world, || set(&world, Explicit(Identity))).errno(), Errno::EBUSY);
}

/// It10.6, I41: what one device insists on.
#[test]
fn a_device_that_insists_is_named() {
    let default_domains = [("a1".into(), Identity)].into();
    let world = World::new(SoftIommuConfig { default_domains, ..SoftIommuConfig::default() });
    drop(world.plug("a1"));
    drop(world.plug("a0"));
    assert_eq!(type_of(&world), Identity);
    for kind in [Dma, DmaLazy] {
        let error = refusal(&world, || set(&world, Explicit(kind)));
        assert_eq!(
            (&error, error.errno()),
            (&SetTypeError::Refused { group: GROUP, device: "a1".into() }, Errno::EINVAL)
        );
        assert_eq!(error.to_string(), "a1 of group 0 cannot have a default domain of that type");
    }
    assert_eq!(set(&world, Explicit(Identity)), Ok(()), "It10.9");
    // Once it has gone, the others have no such wish.
    world.unplug("a1");
    assert_eq!(set(&world, Explicit(Dma)), Ok(()));
}

/// I41: where devices differ, identity wins; what the machine prefers does not count then.
#[test]
fn identity_wins_where_devices_differ() {
    for names in [["a0", "a1", "a2"], ["a2", "a1", "a0"]] {
        let default_domains = [("a0".into(), DmaLazy), ("a2".into(), Dma)].into();
        let config = SoftIommuConfig { default_domains, ..SoftIommuConfig::default() };
        let world = World::build(config, |builder| builder.default_domain(Identity));
        assert_eq!(world.iommu.default_domain(), Identity);
        drop(world.plug(names[0]));
        let first = if names[0] == "a0" { DmaLazy } else { Dma };
        assert_eq!(world.group(names[0]).default_domain_type(), Some(first), "not what the machine prefers");
        drop([world.plug(names[1]), world.plug(names[2])]);
        assert_eq!(type_of(&world), first, "the first decides until somebody asks");
        set(&world, Auto).unwrap();
        assert_eq!(type_of(&world), Identity);
    }
}

/// I41: without a wish of the devices the machine's counts; DMA where hardware has no such domain, but only then.
#[test]
fn the_machine_prefers_and_falls_back() {
    for machine in TYPES {
        let world = World::build(SoftIommuConfig::default(), move |builder| builder.default_domain(machine));
        drop(world.plug("a0"));
        assert_eq!(type_of(&world), machine);
        for kind in TYPES {
            set(&world, Explicit(kind)).unwrap();
            assert_eq!(world.group("a0").attached(), Attached::Default(kind), "It10.10");
            set(&world, Auto).unwrap();
            assert_eq!(type_of(&world), machine);
        }
    }
    let config = SoftIommuConfig { absent: vec![DomainKind::Identity], ..SoftIommuConfig::default() };
    let world = World::build(config, |builder| builder.default_domain(Identity));
    drop(world.plug("a0"));
    assert_eq!(type_of(&world), Dma);
}

/// It10.7.
#[test]
fn a_type_that_hardware_has_not_is_refused() {
    let world = World::new(SoftIommuConfig { absent: vec![DomainKind::Identity], ..SoftIommuConfig::default() });
    drop([world.plug("a0"), world.plug("a1")]);
    let error = refusal(&world, || set(&world, Explicit(Identity)));
    let cause = HardwareError::new(Errno::EOPNOTSUPP, "iommu0 has no identity domains");
    assert_eq!(error, SetTypeError::Allocate { group: GROUP, device: "a0".into(), cause });
    assert_eq!((error.errno(), error.to_string().as_str()), (Errno::EOPNOTSUPP, "no default domain for a0 of group 0"));
}

/// It10.8, I40: the old default domain is the very same.
#[test]
fn a_device_that_refuses_the_new_domain_is_named() {
    let world = World::with_devices(&["a0", "a1"]);
    let group = world.group("a0");
    world.map_kernel_page(&group);
    let domain = group.default_domain().unwrap();
    world.hardware.refuse_attach("a1", Some(DomainKind::Identity));
    let error = refusal(&world, || set(&world, Explicit(Identity)));
    assert_eq!((&error, error.errno()), (&SetTypeError::Switch(refused_by("a1")), Errno::EIO));
    assert_eq!(error.to_string(), "hardware refused the new default domain");
    assert!(Arc::ptr_eq(&domain, &group.default_domain().unwrap()));
}

/// It10.9, I40: the same object, and hardware hears nothing.
#[test]
fn the_same_type_changes_nothing() {
    let world = World::with_devices(&["a0"]);
    let group = world.group("a0");
    let (domain, calls) = (group.default_domain().unwrap(), world.hardware.calls());
    assert_eq!((set(&world, Explicit(Dma)), set(&world, Auto)), (Ok(()), Ok(())));
    assert!(Arc::ptr_eq(&domain, &group.default_domain().unwrap()));
    assert_eq!(world.hardware.calls(), calls);
}

/// It10.10, I43, T31: under a bound driver that is not counted, and every device goes along.
#[test]
fn a_type_changes_under_managed_drivers() {
    let world = World::with_devices(&["a0", "a1"]);
    world.bind("a1", "managed").unwrap();
    let old = world.group("a0").default_domain().unwrap();
    set(&world, Explicit(Identity)).unwrap();
    assert_eq!((type_of(&world), Arc::strong_count(&old)), (Identity, 1));
    for dev in world.bus.devices() {
        assert_eq!(world.sees(&dev), [Seen::Other, Seen::Kernel]);
    }
}

fn direct(first: u64, last: u64) -> ReservedRegion {
    ReservedRegion { first: Iova::new(first), kind: RegionKind::Direct, last: Iova::new(last) }
}

/// I40: direct regions of every device are there before any device is.
#[test]
fn direct_regions_are_in_every_translated_default_domain() {
    let reserved = [("a0".into(), vec![direct(0x5000, 0x6fff)]), ("a1".into(), vec![direct(0x6000, 0x7abc)])].into();
    let world = World::new(SoftIommuConfig { reserved, ..SoftIommuConfig::default() });
    drop([world.plug("a0"), world.plug("a1")]);
    for kind in [Dma, Identity, DmaLazy, Identity, Dma] {
        set(&world, Explicit(kind)).unwrap();
        let domain = world.group("a0").default_domain().unwrap();
        for page in [0x5000, 0x6000, 0x7000] {
            assert_eq!(domain.iova_to_phys(Iova::new(page)), Some(PhysAddr::new(page)), "{kind:?}");
        }
        let outside = domain.iova_to_phys(Iova::new(0x8000)).is_some();
        assert_eq!(outside, kind == Identity);
    }
}

/// I40: where that cannot be, the old default domain stays.
#[test]
fn a_direct_region_that_cannot_be_mapped_refuses_the_type() {
    let reserved = [("a1".into(), vec![direct(1 << 40, (1 << 40) + 0xfff)])].into();
    let config = SoftIommuConfig { reserved, ..SoftIommuConfig::default() };
    let world = World::build(config, |builder| builder.default_domain(Identity));
    drop([world.plug("a0"), world.plug("a1")]);
    let error = refusal(&world, || set(&world, Explicit(Dma)));
    assert_eq!((&error, error.errno()), (&SetTypeError::DirectRegion { device: "a1".into() }, Errno::EINVAL));
    assert_eq!(error.to_string(), "a direct region of a1 could not be mapped");
    assert_eq!(type_of(&world), Identity);
}
