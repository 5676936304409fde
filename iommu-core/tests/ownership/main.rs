//! DMA ownership, row by row of the facts: what is allowed, who is refused, what the refusal says of those in the way,
//! and that a refusal has changed nothing.
#![cfg(not(shuttle))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what a test takes for granted may fail it"
)]

#[cfg(not(feature = "std"))]
dma_locks::provide!(dma_locks::Spinning);

#[path = "../common/mod.rs"]
mod common;

mod attach;
mod claims;
mod driver_domain;
mod hotplug;
mod kernel_use;
mod pasids;
mod removal;
mod reserved;
mod transitions;
mod types;
mod vectors;

use std::any::Any;
use std::num::NonZeroU32;
use std::sync::Arc;

use common::{Dev, Seen, World};
use iommu_core::device_model::Errno;
use iommu_core::error::{FirstFew, InTheWay, SwitchError};
use iommu_core::hardware::HardwareError;
use iommu_core::software::SoftIommuConfig;
use iommu_core::{Claim, DriverDomain, GroupId, KernelUse, Member, Owner, Ownership};

const GROUP: GroupId = GroupId::new(0);

/// The error of an operation that changes nothing.
fn refusal<T, E>(world: &World, operation: impl FnOnce() -> Result<T, E>) -> E {
    let before = world.picture();
    let Err(error) = operation() else { panic!("this must be refused") };
    assert_eq!(world.picture(), before, "a refusal changes nothing");
    error
}

/// A use by a driver of this name, begun without the driver core.
fn use_by(world: &World, device: &str, driver: &str) -> KernelUse {
    KernelUse::begin(world.member(device), &driver.into()).unwrap()
}

fn claim(world: &World, device: &str) -> Claim {
    world.member(device).claim(&Owner::new("vm")).unwrap()
}

/// A claim with a domain of its own attached.
fn attached(world: &World, device: &str) -> Claim {
    let claim = claim(world, device);
    claim.attach(&world.user_domain(claim.group()).unwrap()).unwrap();
    claim
}

/// A domain of its own for the driver of a device alone in its group.
fn own_domain(world: &World, device: &str) -> DriverDomain {
    world.member(device).attach_domain(&world.user_domain(&world.group(device)).unwrap()).unwrap()
}

/// Leaves the group blocked without an owner: a release that hardware refuses.
fn get_stuck(world: &World, device: &str) {
    let claim = claim(world, device);
    world.fail_nth(0);
    drop(claim);
    assert!(world.disarm());
}

fn in_the_way(devices: &[(&str, &str)]) -> FirstFew<InTheWay> {
    devices.iter().map(|&(device, driver)| InTheWay { device: device.into(), driver: driver.into() }).collect()
}

/// What `FailingIommu::refuse_attach` makes of a device.
fn refused_by(device: &str) -> SwitchError {
    let cause = HardwareError::new(Errno::EIO, "the IOMMU was told to refuse");
    SwitchError { group: GROUP, device: device.into(), cause }
}

fn kernel(users: u32) -> Ownership {
    NonZeroU32::new(users).map_or(Ownership::Idle, |users| Ownership::Kernel { users })
}

fn user(owner: &Owner, claims: u32) -> Ownership {
    Ownership::User { owner: owner.clone(), claims: NonZeroU32::new(claims).unwrap() }
}

/// The device and its group, when it is in none any more.
fn removed(world: &World, device: &str) -> (Arc<Dev>, Arc<Member>) {
    let gone = (world.bus.device(device).unwrap(), world.member(device));
    world.unplug(device);
    gone
}

/// What a group can be doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Idle,
    /// Used twice by the kernel through one device.
    Kernel,
    Owned,
    /// Owned, with a domain of the owner's attached.
    Attached,
    /// With a PASID attached by a driver.
    Pasid,
    /// With a domain of its driver's attached.
    OwnDomain,
    /// Blocked without an owner, because hardware refused a release.
    Stuck,
}

/// What keeps a group in its state, and lets it go when dropped.
type Held = Box<dyn Any>;

impl State {
    const ALL: [Self; 7] =
        [Self::Idle, Self::Kernel, Self::Owned, Self::Attached, Self::Pasid, Self::OwnDomain, Self::Stuck];

    /// A group of `a0`, through which it came into its state, and `a1`, which came later.
    fn world(self) -> (World, Held) {
        let world = World::new(SoftIommuConfig { max_pasids: 16, ..SoftIommuConfig::default() });
        drop(world.plug("a0"));
        world.map_kernel_page(&world.group("a0"));
        let held = self.enter(&world);
        drop(world.plug("a1"));
        (world, held)
    }

    fn enter(self, world: &World) -> Held {
        match self {
            Self::Idle => Box::new(()),
            Self::Kernel => Box::new([use_by(world, "a0", "nic"), use_by(world, "a0", "nic")]),
            Self::Owned => Box::new(claim(world, "a0")),
            Self::Attached => Box::new(attached(world, "a0")),
            Self::Pasid => {
                let domain = world.user_domain(&world.group("a0")).unwrap();
                Box::new(world.member("a0").attach_pasid(&domain, 1).unwrap())
            }
            Self::OwnDomain => Box::new(own_domain(world, "a0")),
            Self::Stuck => {
                get_stuck(world, "a0");
                Box::new(())
            }
        }
    }

    /// What a device of the group reaches.
    fn seen(self) -> [Seen; 2] {
        match self {
            Self::Idle | Self::Kernel | Self::Pasid => [Seen::Kernel, Seen::Nothing],
            Self::Attached | Self::OwnDomain => [Seen::User, Seen::Nothing],
            Self::Owned | Self::Stuck => [Seen::Nothing; 2],
        }
    }

    /// Whether user space owns the group.
    fn is_owned(self) -> bool {
        matches!(self, Self::Owned | Self::Attached)
    }
}

fn names(devices: &[&str]) -> FirstFew<Arc<str>> {
    devices.iter().map(|&device| device.into()).collect()
}
