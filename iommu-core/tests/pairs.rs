//! For every operation, in every state of the group: each pair of hardware calls fails, or one panics while another fails.
//!
//! Whatever the operation says then, each device is where the state of its group says that it is; a domain that a device
//! may still reach is kept; nobody holds the group but who was told so; and once hardware works again, a kernel driver gets
//! each device on its default domain. No lock is left held, or the next step would hang.
#![cfg(not(shuttle))]
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test takes for granted may fail it")]

#[cfg(not(feature = "std"))]
dma_locks::provide!(dma_locks::Spinning);

mod common;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{BUFFER, Seen, World};
use iommu_core::device_model::DeviceId;
use iommu_core::hardware::{Endpoint, IommuDriver};
use iommu_core::software::SoftIommuConfig;
use iommu_core::{Attached, Claim, DefaultDomainType, KernelUse, Owner, Ownership, Reach, TypeRequest};

/// What is held through an operation and let go after it.
type Held = Vec<Box<dyn Any>>;

struct Scene {
    world: World,
    held: Held,
}

/// How a group comes into a state.
type Setup = fn(&World) -> Held;

/// An operation; what it returns is held, and what it takes is let go.
type Operation = fn(&World, &mut Held);

fn claim(world: &World) -> Claim {
    world.member("a0").claim(&Owner::new("owner")).unwrap()
}

fn attached(world: &World) -> Claim {
    let claim = claim(world);
    claim.attach(&world.user_domain(claim.group()).unwrap()).unwrap();
    claim
}

fn keep<T: 'static, E>(held: &mut Held, result: Result<T, E>) {
    if let Ok(value) = result {
        held.push(Box::new(value));
    }
}

/// The claim among what is held.
fn claim_of(held: &Held) -> &Claim {
    held.iter().find_map(|held| held.downcast_ref()).unwrap()
}

const SETUPS: [(&str, Setup); 6] = [
    ("idle", |_| Vec::new()),
    ("kernel", |world| vec![Box::new(KernelUse::begin(world.member("a1"), &"nic".into()).unwrap())]),
    ("owned", |world| vec![Box::new(claim(world))]),
    ("attached", |world| vec![Box::new(attached(world))]),
    ("pasid", |world| {
        let domain = world.user_domain(&world.group("a0")).unwrap();
        vec![Box::new(world.member("a0").attach_pasid(&domain, 1).unwrap())]
    }),
    ("stuck", |world| {
        let claim = attached(world);
        world.fail_nth(0);
        drop(claim);
        Vec::new()
    }),
];

const OPERATIONS: [(&str, Operation); 12] = [
    ("claim the group", |world, held| keep(held, world.group("a0").claim(&Owner::new("other")))),
    ("claim a device", |world, held| keep(held, world.member("a1").claim(&Owner::new("other")))),
    ("use", |world, held| keep(held, KernelUse::begin(world.member("a0"), &"disk".into()))),
    ("attach", |world, held| {
        if held.iter().any(|held| held.is::<Claim>()) {
            let claim = claim_of(held);
            let _ = world.user_domain(claim.group()).map(|domain| claim.attach(&domain));
        }
    }),
    ("replace", |world, held| {
        if held.iter().any(|held| held.is::<Claim>()) {
            let claim = claim_of(held);
            let _ = world.user_domain(claim.group()).map(|domain| claim.replace(&domain));
        }
    }),
    ("detach", |_, held| {
        if held.iter().any(|held| held.is::<Claim>()) {
            claim_of(held).detach();
        }
    }),
    ("let go", |_, held| {
        // Not by `clear`, which would drop the rest while it unwinds.
        drop(held.pop());
    }),
    ("attach a PASID", |world, held| {
        let domain = world.user_domain(&world.group("a0"));
        if let Ok(domain) = domain {
            keep(held, world.member("a0").attach_pasid(&domain, 2));
        }
    }),
    ("change the type", |world, _| {
        let lazy = TypeRequest::Explicit(DefaultDomainType::DmaLazy);
        let identity = TypeRequest::Explicit(DefaultDomainType::Identity);
        let _ = world.iommu.set_default_domain_type(&world.group("a0"), identity);
        let _ = world.iommu.set_default_domain_type(&world.group("a0"), lazy);
    }),
    ("add a device", |world, _| drop(add(world))),
    ("add and remove a device", |world, _| {
        if let Some(member) = add(world) {
            world.iommu.remove(&member);
        }
    }),
    ("remove a device", |world, _| world.iommu.remove(&world.member("a1"))),
];

fn add(world: &World) -> Option<std::sync::Arc<iommu_core::Member>> {
    world.iommu.add_device(&Endpoint::new(DeviceId::new(1000), "a9")).ok().flatten()
}

impl Scene {
    fn new(setup: Setup) -> Self {
        let world = World::new(SoftIommuConfig { max_pasids: 16, ..SoftIommuConfig::default() });
        drop(["a0", "a1"].map(|name| world.plug(name)));
        world.map_kernel_page(&world.group("a0"));
        let held = setup(&world);
        Self { world, held }
    }

    /// Each device is where its group says.
    fn check(&self, when: &str) {
        for dev in self.world.bus.devices() {
            let seen = self.world.sees(&dev);
            let Some(member) = dev.dma_slot().member() else {
                // Unless hardware neither stopped it nor let it go. Then it reaches what it did, which is kept for ever.
                let unstopped = when.contains("Panic") && when.contains("Fail") && seen[0] != Seen::Other;
                assert!(seen == [Seen::Nothing; 2] || unstopped, "{when}: {dev:?} has left and sees {seen:?}");
                continue;
            };
            let group = member.group();
            let attached = group.attached();
            let state = group.members().into_iter().find(|state| state.device == *dev.name()).unwrap();
            if group.ownership().owner().is_some() {
                assert!(matches!(attached, Attached::Blocking | Attached::Own), "{when}: an owner on {attached}");
            }
            match state.reach {
                Reach::Unknown => {
                    let kept = group.quarantined() > 0 || attached == Attached::Own;
                    assert!(seen[0] != Seen::User || kept, "{when}: {dev:?} reaches a domain that is freed");
                }
                Reach::Stopped => assert_eq!(seen, [Seen::Nothing; 2], "{when}: {dev:?} is stopped"),
                Reach::Attached => {
                    let expected = match attached {
                        Attached::Default(DefaultDomainType::Identity) => [Seen::Other, Seen::Kernel],
                        Attached::Default(_) => [Seen::Kernel, Seen::Nothing],
                        Attached::Own => [Seen::User, Seen::Nothing],
                        Attached::Blocking | Attached::Nothing => [Seen::Nothing; 2],
                    };
                    // A domain in which hardware refused to map the page shows nothing.
                    let unmapped = group.default_domain().is_some_and(|domain| domain.iova_to_phys(BUFFER).is_none());
                    let unmapped = unmapped && matches!(attached, Attached::Default(_)) && seen == [Seen::Nothing; 2];
                    assert!(seen == expected || unmapped, "{when}: {dev:?} on {attached} sees {seen:?}");
                }
            }
        }
    }

    /// All that is held goes; then a kernel driver gets each device, on the default domain.
    fn finish(mut self, when: &str) {
        self.world.hardware.heal();
        self.held.clear();
        self.check(when);
        if let Some(member) = self.world.iommu.member(DeviceId::new(1000)) {
            self.world.iommu.remove(&member);
        }
        // A release that panicked never reached the IOMMU.
        for dev in self.world.bus.devices().iter().filter(|dev| dev.dma_slot().member().is_none()) {
            self.world.soft.release(&Endpoint::new(dev.id(), dev.name().clone()));
        }
        for name in ["a0", "a1"] {
            self.world.bind(name, "kernel").unwrap_or_else(|errno| panic!("{when}: bind {name}: {errno}"));
            self.world.map_kernel_page(&self.world.group(name));
            let member = self.world.member(name);
            let state = member.group().members().into_iter().find(|state| state.device == *member.name()).unwrap();
            assert_eq!(state.reach, Reach::Attached, "{when}");
            self.check(when);
        }
        let group = self.world.group("a0");
        assert!(matches!(group.ownership(), Ownership::Kernel { users } if users.get() == 2), "{when}");
        self.world.unbind("a0");
        self.world.unbind("a1");
        assert_eq!((group.ownership(), group.quarantined()), (Ownership::Idle, 0), "{when}");
        drop(group.claim(&Owner::new("last")).unwrap());
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Fail(u32),
    Panic(u32),
}

impl Order {
    fn give(self, world: &World) {
        match self {
            Self::Fail(n) => world.fail_nth(n),
            Self::Panic(n) => world.hardware.panic_nth(n),
        }
    }
}

/// How many hardware calls were made.
fn play(setup: (&str, Setup), operation: (&str, Operation), orders: &[Order]) -> u32 {
    let when = format!("{} when {}, {orders:?}", operation.0, setup.0);
    let mut scene = Scene::new(setup.1);
    let before = scene.world.hardware.calls();
    for order in orders {
        order.give(&scene.world);
    }
    let unwound = catch_unwind(AssertUnwindSafe(|| (operation.1)(&scene.world, &mut scene.held))).is_err();
    assert!(!unwound || orders.iter().any(|order| matches!(order, Order::Panic(_))), "{when}");
    let calls = scene.world.hardware.calls() - before;
    scene.check(&when);
    scene.finish(&when);
    calls
}

fn sweep(orders: impl Fn(u32, u32) -> Vec<[Order; 2]>) {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        if !text.contains("was told to panic") {
            eprintln!("{text}");
        }
    }));
    for setup in SETUPS {
        for operation in OPERATIONS {
            let calls = play(setup, operation, &[]);
            // A rollback makes more calls than were made without.
            for n in 0..calls {
                let with_one = play(setup, operation, &[Order::Fail(n)]).max(calls);
                for m in 0..with_one + 4 {
                    for pair in orders(n, m) {
                        play(setup, operation, &pair);
                    }
                }
            }
        }
    }
}

#[test]
fn every_pair_of_failing_calls() {
    sweep(|n, m| if m > n { vec![[Order::Fail(n), Order::Fail(m)]] } else { Vec::new() });
}

#[test]
fn every_panic_beside_every_failing_call() {
    sweep(|n, m| if m == n { vec![[Order::Panic(n); 2]] } else { vec![[Order::Panic(n), Order::Fail(m)]] });
}

#[test]
fn every_panic_after_a_failing_call() {
    sweep(|n, m| if m > n { vec![[Order::Fail(n), Order::Panic(m)]] } else { Vec::new() });
}
