//! For every operation, the n-th hardware call fails, for all n: the state before is restored and the error names the
//! device (I24, I30, T27); what cannot fail leaves the group on its default domain or blocked, never open (I31, T28).
#![cfg(not(shuttle))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what a test takes for granted may fail it"
)]

#[cfg(not(feature = "std"))]
dma_locks::provide!(dma_locks::Spinning);

mod common;

use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;

use common::{Dev, Seen, World};
use iommu_core::device_model::DeviceId;
use iommu_core::failing::Operation;
use iommu_core::{
    Attached, Claim, DefaultDomainType, DeviceGroup, DomainKind, KernelUse, Owner, Ownership, TypeRequest,
};

const NAMES: [&str; 4] = ["a0", "a1", "a2", "a3"];

/// A machine with a group of `size` devices, prepared, and what the preparation holds.
struct Prepared<H> {
    world: World,
    devices: Vec<Arc<Dev>>,
    held: H,
}

fn prepare<H>(size: usize, setup: impl Fn(&World) -> H) -> Prepared<H> {
    let world = World::with_devices(&NAMES[..size]);
    world.map_kernel_page(&world.group("a0"));
    let devices = world.bus.devices();
    let held = setup(&world);
    Prepared { world, devices, held }
}

fn explain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        write!(text, ": {error}").unwrap();
        source = error.source();
    }
    text
}

/// Runs an operation that can fail with each hardware call failing in turn; how many calls it makes.
fn sweep<H, T, E: Error + 'static>(
    what: &str,
    setup: impl Fn(&World) -> H,
    operation: impl Fn(&World, &H) -> Result<T, E>,
) {
    for size in 1..=NAMES.len() {
        for n in 0.. {
            let Prepared { world, held, .. } = prepare(size, &setup);
            let before = world.picture();
            world.fail_nth(n);
            let result = operation(&world, &held);
            let failed = world.hardware.last_failed();
            if !world.disarm() {
                assert!(result.is_ok(), "{what}: nothing failed, and yet: {}", explain(&result.err().unwrap()));
                assert!(n > 0, "{what} calls no hardware");
                break;
            }
            // A call without which the operation gets along (another blocking domain) is no failure.
            let Err(error) = result else { continue };
            assert_eq!(world.picture(), before, "{what}, {size} devices, call {n}: {}", explain(&error));
            let device = failed.and_then(|call| call.device).map_or_else(String::new, |device| device.name.to_string());
            assert!(explain(&error).contains(&device), "{what}: {} does not name {device}", explain(&error));
        }
    }
}

fn claim(world: &World) -> Claim {
    world.member("a0").claim(&Owner::new("owner")).unwrap()
}

fn attached(world: &World) -> Claim {
    let claim = claim(world);
    claim.attach(&world.user_domain(claim.group()).unwrap()).unwrap();
    claim
}

#[test]
fn claims() {
    sweep("group claim", |_| (), |world, ()| world.group("a0").claim(&Owner::new("owner")).map(std::mem::forget));
    sweep("device claim", |_| (), |world, ()| world.member("a0").claim(&Owner::new("owner")).map(std::mem::forget));
}

#[test]
fn attach_and_replace() {
    let with_domain = |world: &World| {
        let claim = claim(world);
        let domain = world.user_domain(claim.group()).unwrap();
        (claim, domain)
    };
    sweep("attach", with_domain, |_, (claim, domain)| claim.attach(domain));
    let with_two = |world: &World| {
        let claim = attached(world);
        let domain = world.user_domain(claim.group()).unwrap();
        (claim, domain)
    };
    sweep("replace", with_two, |_, (claim, domain)| claim.replace(domain));
}

#[test]
fn default_domain_type() {
    for request in [DefaultDomainType::Identity, DefaultDomainType::DmaLazy] {
        // From identity, so that DMA-FQ is not the change in place.
        let setup = |world: &World| {
            let explicit = TypeRequest::Explicit(match request {
                DefaultDomainType::Identity => DefaultDomainType::DmaLazy,
                _ => DefaultDomainType::Identity,
            });
            world.iommu.set_default_domain_type(&world.group("a0"), explicit).unwrap();
            world.map_kernel_page(&world.group("a0"));
        };
        sweep("set type", setup, |world, ()| {
            world.iommu.set_default_domain_type(&world.group("a0"), TypeRequest::Explicit(request))
        });
    }
}

#[test]
fn hot_add_into_every_state() {
    fn add(world: &World) -> Result<(), iommu_core::error::AddError> {
        // Without the notifier, which swallows the error.
        let endpoint = iommu_core::hardware::Endpoint::new(DeviceId::new(1000), "late");
        let iommu: Arc<dyn iommu_core::hardware::IommuDriver> = world.hardware.clone();
        world.iommu.add_device_to(&endpoint, DeviceGroup::named(&iommu, "a")).map(std::mem::forget)
    }
    sweep("hot-add, idle", |_| (), |world, ()| add(world));
    sweep("hot-add, owned", claim, |world, _| add(world));
    sweep("hot-add, attached", attached, |world, _| add(world));
    let used = |world: &World| KernelUse::begin(world.member("a0"), &"kernel".into()).unwrap();
    sweep("hot-add, kernel", used, |world, _| add(world));
}

#[test]
fn the_first_device_of_a_group() {
    for n in 0.. {
        let world = World::new(iommu_core::software::SoftIommuConfig::default());
        world.fail_nth(n);
        let dev = world.plug("a0");
        let failed = world.hardware.last_failed().map(|call| call.operation);
        let disarmed = world.disarm();
        // Without a blocking domain the group comes about, and asks again when it is claimed.
        if disarmed && failed == Some(Operation::Allocate(DomainKind::Blocking)) {
            assert!(world.group("a0").claim(&Owner::new("owner")).is_ok());
            continue;
        }
        if !disarmed {
            assert!(world.iommu.member(dev.id()).is_some() && n > 0);
            break;
        }
        assert!(world.iommu.member(dev.id()).is_none(), "call {n}");
        assert_eq!(world.sees(&dev), [Seen::Nothing; 2], "call {n}: an unserved device reaches nothing");
        assert!(world.iommu.groups().is_empty());
        // Binding tries again, for nothing fails any more.
        world.bind("a0", "kernel").unwrap();
        assert!(world.group("a0").ownership().is_held());
    }
}

#[test]
fn a_driver_with_a_domain_of_its_own() {
    for n in 0.. {
        let Prepared { world, .. } = prepare(1, |_| ());
        let domain = world.user_domain(&world.group("a0")).unwrap();
        let before = world.picture();
        world.fail_nth(n);
        let result = world.member("a0").attach_domain(&domain);
        if !world.disarm() {
            assert!(result.is_ok() && n > 0);
            break;
        }
        assert!(explain(&result.unwrap_err()).contains("a0"));
        assert_eq!(world.picture(), before, "call {n}");
    }
}

/// What cannot fail: with each call failing in turn, every device ends on the default domain or reaches nothing.
fn sweep_infallible<H>(what: &str, setup: impl Fn(&World) -> H, operation: impl Fn(H)) {
    for size in 1..=NAMES.len() {
        for n in 0.. {
            let Prepared { world, devices, held } = prepare(size, &setup);
            world.fail_nth(n);
            operation(held);
            let failed = world.disarm();
            let group = world.group("a0");
            let seen: Vec<_> = devices.iter().map(|dev| world.sees(dev)).collect();
            let expected = match group.attached() {
                Attached::Default(_) => [Seen::Kernel, Seen::Nothing],
                Attached::Blocking => [Seen::Nothing; 2],
                other => panic!("{what}, call {n}: on {other}"),
            };
            assert!(seen.iter().all(|seen| *seen == expected), "{what}, {size} devices, call {n}: {seen:?}");
            if !failed {
                break;
            }
        }
    }
}

#[test]
fn release_never_fails_and_never_leaves_the_group_open() {
    sweep_infallible("release", claim, drop);
    sweep_infallible("release with a domain attached", attached, drop);
    let domain = |world: &World| world.member("a0").attach_domain(&world.user_domain(&world.group("a0")).unwrap());
    let alone = prepare(1, domain);
    alone.world.fail_nth(0);
    drop(alone.held);
    assert_eq!(alone.world.group("a0").attached(), Attached::Blocking);
}

#[test]
fn detach_never_fails() {
    sweep_infallible("detach", attached, |claim| {
        claim.detach();
        std::mem::forget(claim);
    });
}

#[test]
fn a_group_that_stays_blocked_goes_home_with_the_next_kernel_use() {
    let Prepared { world, devices, held } = prepare(3, claim);
    world.fail_nth(1);
    drop(held);
    assert!(world.disarm());
    let group = world.group("a0");
    assert_eq!((group.ownership(), group.attached()), (Ownership::Idle, Attached::Blocking));
    // Hardware still refuses: so does the use, and all stays blocked.
    world.fail_nth(0);
    assert_eq!(world.bind("a1", "kernel").unwrap_err().name(), Some("EIO"));
    assert!(world.disarm());
    assert_eq!(group.attached(), Attached::Blocking);
    world.bind("a1", "kernel").unwrap();
    assert_eq!(group.attached(), Attached::Default(DefaultDomainType::Dma));
    assert!(devices.iter().all(|dev| world.sees(dev) == [Seen::Kernel, Seen::Nothing]));
}

#[test]
fn a_group_that_stays_blocked_can_be_claimed() {
    let Prepared { world, held, .. } = prepare(2, claim);
    world.fail_nth(0);
    drop(held);
    assert!(world.disarm());
    drop(claim(&world));
    assert_eq!(world.group("a0").attached(), Attached::Default(DefaultDomainType::Dma));
}
