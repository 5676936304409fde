//! Random bind, unbind, claim, release, attach, hot-plug, type change and failing hardware on a whole stack, against a
//! reference so small that it is obviously right.
//!
//! Held after every step: never a kernel user and a user-space owner at once (I3); no DMA of an owned group's device
//! reaches kernel memory (I4), nor a blocked device anything; claims and uses balance. At the end every group is idle on
//! its default domain.
#![cfg(not(shuttle))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::option_option,
    reason = "what a test takes for granted may fail it"
)]

#[cfg(not(feature = "std"))]
dma_locks::provide!(dma_locks::Spinning);

mod common;

use common::{Seen, World};
use iommu_core::device_model::Errno;
use iommu_core::{Attached, Claim, DefaultDomainType, Owner, Ownership, TypeRequest};
use proptest::prelude::*;

const NAMES: [&str; 5] = ["a0", "a1", "a2", "b0", "b1"];
const OWNERS: usize = 2;

#[derive(Debug, Clone)]
enum Op {
    Plug(usize),
    Unplug(usize),
    Bind(usize, &'static str),
    Unbind(usize),
    ClaimGroup(usize, usize),
    ClaimDevice(usize, usize),
    Release(usize),
    Attach(usize),
    Replace(usize),
    Detach(usize),
    SetType(usize, DefaultDomainType),
}

fn op() -> impl Strategy<Value = Op> {
    let device = 0..NAMES.len();
    let kind = prop_oneof![Just(DefaultDomainType::Dma), Just(DefaultDomainType::Identity)];
    prop_oneof![
        1 => device.clone().prop_map(Op::Plug),
        1 => device.clone().prop_map(Op::Unplug),
        3 => (device.clone(), prop_oneof![3 => Just("kernel"), 1 => Just("managed")]).prop_map(|(d, k)| Op::Bind(d, k)),
        3 => device.clone().prop_map(Op::Unbind),
        2 => (device.clone(), 0..OWNERS).prop_map(|(d, o)| Op::ClaimGroup(d, o)),
        4 => (device.clone(), 0..OWNERS).prop_map(|(d, o)| Op::ClaimDevice(d, o)),
        4 => (0..8_usize).prop_map(Op::Release),
        2 => (0..8_usize).prop_map(Op::Attach),
        1 => (0..8_usize).prop_map(Op::Replace),
        1 => (0..8_usize).prop_map(Op::Detach),
        1 => (device, kind).prop_map(|(d, k)| Op::SetType(d, k)),
    ]
}

/// An operation, and which hardware call fails in it, if any.
type Step = (Op, Option<u32>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((op(), prop_oneof![4 => Just(None), 1 => (0..4_u32).prop_map(Some)]), 1..40)
}

/// The reference for one group.
#[derive(Clone, Debug, PartialEq)]
enum Domain {
    Default(DefaultDomainType),
    Blocking,
    User,
}

struct Model {
    world: World,
    owners: Vec<Owner>,
    /// Driver of each device; `None` inside for none, outside for unplugged.
    drivers: [Option<Option<&'static str>>; NAMES.len()],
    /// Each with its group's letter and its owner.
    claims: Vec<(Claim, &'static str, usize)>,
    a: Domain,
    b: Domain,
}

fn letter(device: usize) -> &'static str {
    &NAMES[device][..1]
}

impl Model {
    fn new() -> Self {
        let default = Domain::Default(DefaultDomainType::Dma);
        Self {
            world: World::with_devices(&NAMES),
            owners: (0..OWNERS).map(|number| Owner::new(format!("owner {number}"))).collect(),
            drivers: [Some(None); NAMES.len()],
            claims: Vec::new(),
            a: default.clone(),
            b: default,
        }
    }

    fn domain(&mut self, group: &str) -> &mut Domain {
        if group == "a" { &mut self.a } else { &mut self.b }
    }

    fn members(&self, group: &'static str) -> impl Iterator<Item = usize> {
        (0..NAMES.len()).filter(move |&device| letter(device) == group && self.drivers[device].is_some())
    }

    fn kernel_users(&self, group: &'static str) -> usize {
        self.members(group).filter(|&device| self.drivers[device] == Some(Some("kernel"))).count()
    }

    fn owner(&self, group: &str) -> Option<usize> {
        self.claims.iter().find(|(_, claimed, _)| *claimed == group).map(|(_, _, owner)| *owner)
    }

    fn is_present(&self, device: usize) -> bool {
        self.drivers[device].is_some()
            && self.world.iommu.member(self.world.bus.device(NAMES[device]).unwrap().id()).is_some()
    }

    /// Plays one operation and says what should come of it, if hardware plays along; `None` when there is nothing to do.
    fn play(&mut self, op: &Op) -> Option<(Result<(), Errno>, Result<(), Errno>)> {
        match *op {
            Op::Plug(device) if self.drivers[device].is_none() => {
                drop(self.world.plug(NAMES[device]));
                self.drivers[device] = Some(None);
                Some((Ok(()), Ok(())))
            }
            // A group that is owned keeps a member, or a group of the same letter would be another.
            Op::Unplug(device)
                if self.is_present(device)
                    && (self.owner(letter(device)).is_none()
                        || self.members(letter(device)).filter(|&member| self.is_present(member)).count() > 1) =>
            {
                self.world.unplug(NAMES[device]);
                self.drivers[device] = None;
                let group = letter(device);
                // The next group of that letter is a new one, be it of a device that was here and could not be served.
                if !self.members(group).any(|member| self.is_present(member)) {
                    *self.domain(group) = Domain::Default(DefaultDomainType::Dma);
                }
                Some((Ok(()), Ok(())))
            }
            Op::Bind(device, driver) if self.drivers[device].is_some() => Some(self.bind(device, driver)),
            Op::Unbind(device) if self.drivers[device].flatten().is_some() => {
                self.world.unbind(NAMES[device]);
                self.drivers[device] = Some(None);
                Some((Ok(()), Ok(())))
            }
            Op::ClaimGroup(device, owner) if self.is_present(device) => {
                let free = self.owner(letter(device)).is_none();
                let result = self.world.group(NAMES[device]).claim(&self.owners[owner]);
                Some(self.claimed(device, owner, free, result))
            }
            Op::ClaimDevice(device, owner) if self.is_present(device) => {
                let free = self.owner(letter(device)).is_none_or(|holder| holder == owner);
                let result = self.world.member(NAMES[device]).claim(&self.owners[owner]);
                Some(self.claimed(device, owner, free, result))
            }
            Op::Release(n) if n < self.claims.len() => {
                let (claim, group, _) = self.claims.swap_remove(n);
                drop(claim);
                if self.owner(group).is_none() {
                    let home =
                        self.world.bus.devices().iter().filter_map(|dev| self.world.iommu.member(dev.id())).find_map(
                            |member| {
                                member.name().starts_with(group).then(|| member.group().default_domain_type()).flatten()
                            },
                        );
                    *self.domain(group) = home.map_or(Domain::Blocking, Domain::Default);
                }
                Some((Ok(()), Ok(())))
            }
            Op::Attach(n) if n < self.claims.len() => {
                let group = self.claims[n].1;
                let free = *self.domain(group) != Domain::User;
                self.attach(n, free, Claim::attach)
            }
            Op::Replace(n) if n < self.claims.len() => self.attach(n, true, Claim::replace),
            Op::Detach(n) if n < self.claims.len() => {
                let group = self.claims[n].1;
                self.claims[n].0.detach();
                *self.domain(group) = Domain::Blocking;
                Some((Ok(()), Ok(())))
            }
            Op::SetType(device, kind) if self.is_present(device) => Some(self.set_type(device, kind)),
            _ => None,
        }
    }

    fn bind(&mut self, device: usize, driver: &'static str) -> (Result<(), Errno>, Result<(), Errno>) {
        let group = letter(device);
        let refused = self.drivers[device].flatten().is_some() || driver == "kernel" && self.owner(group).is_some();
        let result = self.world.bind(NAMES[device], driver);
        if result.is_ok() {
            self.drivers[device] = Some(Some(driver));
            // A group that hardware kept blocked goes home with the first kernel use.
            if driver == "kernel" && *self.domain(group) == Domain::Blocking {
                *self.domain(group) =
                    self.world.group(NAMES[device]).default_domain_type().map(Domain::Default).unwrap();
            }
        }
        (result, if refused { Err(Errno::EBUSY) } else { Ok(()) })
    }

    fn claimed(
        &mut self,
        device: usize,
        owner: usize,
        free: bool,
        result: Result<Claim, iommu_core::ClaimError>,
    ) -> (Result<(), Errno>, Result<(), Errno>) {
        let group = letter(device);
        let expected = if free && self.kernel_users(group) == 0 { Ok(()) } else { Err(Errno::EPERM) };
        let result = result.map_err(|error| error.errno()).map(|claim| {
            if self.owner(group).is_none() {
                *self.domain(group) = Domain::Blocking;
            }
            self.claims.push((claim, group, owner));
        });
        (result, expected)
    }

    fn attach(
        &mut self,
        n: usize,
        free: bool,
        attach: fn(&Claim, &std::sync::Arc<iommu_core::Domain>) -> Result<(), iommu_core::AttachError>,
    ) -> Option<(Result<(), Errno>, Result<(), Errno>)> {
        let (claim, group, _) = &self.claims[n];
        let (domain, group) = (self.world.user_domain(claim.group()).ok()?, *group);
        let result = attach(claim, &domain).map_err(|error| error.errno());
        if result.is_ok() {
            *self.domain(group) = Domain::User;
        }
        Some((result, if free { Ok(()) } else { Err(Errno::EBUSY) }))
    }

    fn set_type(&mut self, device: usize, kind: DefaultDomainType) -> (Result<(), Errno>, Result<(), Errno>) {
        let group = letter(device);
        let held = self.kernel_users(group) > 0 || self.owner(group).is_some();
        let stuck = *self.domain(group) == Domain::Blocking;
        let expected = match (held, stuck) {
            (true, _) => Err(Errno::EPERM),
            (false, true) => Err(Errno::EBUSY),
            (false, false) => Ok(()),
        };
        let result = self
            .world
            .iommu
            .set_default_domain_type(&self.world.group(NAMES[device]), TypeRequest::Explicit(kind))
            .map_err(|error| error.errno());
        if result.is_ok() {
            *self.domain(group) = Domain::Default(kind);
        }
        (result, expected)
    }

    /// The invariants, and that the stack is where the reference is.
    fn check(&mut self) {
        let drivers = self.drivers;
        for device in (0..NAMES.len()).filter(|&device| drivers[device].is_some()) {
            let dev = self.world.bus.device(NAMES[device]).unwrap();
            let Some(member) = self.world.iommu.member(dev.id()) else {
                assert_eq!(self.world.sees(&dev), [Seen::Nothing; 2], "{dev:?} is in no group");
                continue;
            };
            let name = letter(device);
            let group = member.group();
            self.world.map_kernel_page(group);
            let claims = self.claims.iter().filter(|(_, claimed, _)| *claimed == name).count();
            match group.ownership() {
                Ownership::Idle => assert_eq!((claims, self.kernel_users(name)), (0, 0), "{name}"),
                Ownership::Kernel { users } => {
                    assert_eq!((claims, self.kernel_users(name)), (0, users.get() as usize), "{name}");
                }
                Ownership::User { owner, claims: counted } => {
                    assert_eq!((claims, self.kernel_users(name)), (counted.get() as usize, 0), "{name}");
                    assert_eq!(self.owners[self.owner(name).unwrap()], owner);
                }
            }
            let seen = match self.domain(name) {
                Domain::Default(DefaultDomainType::Identity) => [Seen::Other, Seen::Kernel],
                Domain::Default(_) => [Seen::Kernel, Seen::Nothing],
                Domain::Blocking => [Seen::Nothing; 2],
                Domain::User => [Seen::User, Seen::Nothing],
            };
            assert_eq!(self.world.sees(&dev), seen, "{dev:?} in {group:?} on {}", group.attached());
        }
    }

    /// Takes over what failing hardware may have done to a release: the group is blocked.
    fn accept_blocked(&mut self) {
        for dev in self.world.bus.devices() {
            let Some(member) = self.world.iommu.member(dev.id()) else { continue };
            let group = member.group();
            if group.attached() == Attached::Blocking && !group.ownership().is_held() {
                *self.domain(if dev.name().starts_with('a') { "a" } else { "b" }) = Domain::Blocking;
            }
        }
    }

    fn step(&mut self, (op, failing): &Step) {
        if let Some(n) = failing {
            self.world.fail_nth(*n);
        }
        let played = self.play(op);
        let failed = self.world.disarm();
        if let Some((result, expected)) = played {
            match (failed, result) {
                (false, result) => assert_eq!(result, expected, "{op:?}"),
                (true, Err(errno)) => assert!(Err(errno) == expected || errno == Errno::EIO, "{op:?}: {errno}"),
                (true, Ok(())) => assert_eq!(expected, Ok(()), "{op:?}"),
            }
        }
        if failed {
            self.accept_blocked();
        }
        self.check();
    }

    /// Drops everything; then every group is idle on its default domain.
    fn finish(mut self) {
        self.claims.clear();
        for device in (0..NAMES.len()).filter(|&device| self.drivers[device].is_some()) {
            if self.drivers[device].flatten().is_some() {
                self.world.unbind(NAMES[device]);
            }
        }
        for device in (0..NAMES.len()).filter(|&device| self.drivers[device].is_some()) {
            // A group that hardware kept blocked goes home with a kernel use.
            self.world.bind(NAMES[device], "kernel").unwrap();
            self.world.unbind(NAMES[device]);
        }
        for group in self.world.iommu.groups() {
            assert_eq!(group.ownership(), Ownership::Idle);
            assert!(matches!(group.attached(), Attached::Default(_)), "{}", group.attached());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_stack_does_what_the_reference_does(steps in steps()) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
        }
        model.finish();
    }
}
