//! The walk at the claim: no count; a claim walks the group's devices under the group lock and looks at each driver.

use std::sync::Arc;

use device_model::sync::{Mutex, MutexGuard};
use device_model::{Errno, ProbeError};

use crate::design::{A, B, Design, Kind, Refusal};
use crate::machine::{self, Binding, Machine, Prepared};
use crate::pointer::{Fetch, Pointers};
use crate::stage::{self, Holding, Reach};

/// How the walk looks at a driver.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// A plain read of `dev->driver`.
    Plain,
    /// A plain read, and another to see whether the driver is the same.
    Twice,
    /// With the device lock, taken inside the group lock.
    LockInside,
    /// With all device locks, taken before the group lock.
    LockBefore,
}

/// When a claim says that somebody is claiming.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Publish {
    /// When the walk has found nobody.
    AfterWalk,
    /// Before it walks, so that nobody comes meanwhile.
    BeforeWalk,
}

/// When the group goes back to the kernel, without a count of claims.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum GiveBack {
    /// At each release.
    AtOnce,
    /// When no other device is bound to a driver that manages its own DMA.
    AfterWalk,
}

/// A variant of the design.
#[derive(Clone, Copy)]
pub(crate) struct Variant {
    pub(crate) look: Look,
    pub(crate) publish: Publish,
    pub(crate) give_back: GiveBack,
}

impl Variant {
    pub(crate) const PLAIN: Self = Self { look: Look::Plain, publish: Publish::AfterWalk, give_back: GiveBack::AtOnce };
}

pub(crate) struct Shared {
    variant: Variant,
    pointers: Pointers,
    /// The group lock, and the owner that it guards.
    owner: Mutex<Option<&'static str>>,
}

/// Two devices in one group.
#[derive(Clone)]
pub(crate) struct Walk {
    shared: Arc<Shared>,
    machine: Machine<Arc<Shared>>,
}

/// The held group lock; its name leaves the timeline before the lock is free.
pub(crate) struct Group<'a, T>(#[expect(dead_code, reason = "held")] Holding, MutexGuard<'a, T>);

impl<'a, T> Group<'a, T> {
    pub(crate) fn lock(lock: &'a Mutex<T>) -> Self {
        stage::awaits("group lock");
        let guard = lock.lock();
        stage::got();
        Self(stage::holding("group lock"), guard)
    }
}

impl<T> std::ops::Deref for Group<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.1
    }
}

impl<T> std::ops::DerefMut for Group<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.1
    }
}

/// A driver that is being bound, or is; what it had ends with it.
pub(crate) struct Bound {
    shared: Arc<Shared>,
    device: &'static str,
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _lock = machine::holding(self.device);
        {
            let _group = Group::lock(&self.shared.owner);
            stage::dma_ends(self.device);
        }
        self.shared.pointers.clear(self.device);
    }
}

impl Binding for Arc<Shared> {
    type Slot = ();
    type Bound = Bound;

    fn driver_set(&self, device: &'static str, driver: Kind) {
        self.pointers.set(device, driver);
    }

    fn driver_cleared(&self, device: &'static str) {
        self.pointers.clear(device);
    }

    fn configure(&self, _dev: Prepared<'_, Self>, device: &'static str, driver: Kind) -> Result<Bound, ProbeError> {
        if !driver.manages_dma() {
            let group = Group::lock(&self.owner);
            if group.is_some() {
                stage::dma_refused(device, driver.name());
                return Err(ProbeError::errno_only(Errno::EBUSY));
            }
            stage::dma_begins(device, driver.name());
        }
        Ok(Bound { shared: self.clone(), device })
    }
}

impl Walk {
    pub(crate) fn new(variant: Variant) -> Self {
        let shared = Shared { variant, pointers: Pointers::new(Fetch::Once), owner: Mutex::new(None) };
        let shared = Arc::new(shared);
        let machine = Machine::new(shared.clone());
        for device in [A, B] {
            stage::must(machine.plug(device), "a device can be added");
        }
        Self { shared, machine }
    }

    /// Whether a kernel driver is in the way at `device`, by a look at its driver.
    fn uses_dma(&self, device: &'static str) -> bool {
        let look = || {
            let driver = self.shared.pointers.follow(device);
            if self.shared.variant.look == Look::Twice
                && driver.is_some()
                && self.shared.pointers.read(device) != driver
            {
                stage::broken(format!("in one walk {device} has had two drivers"));
            }
            driver.is_some_and(|driver| !driver.manages_dma())
        };
        if self.shared.variant.look == Look::LockInside { self.machine.locked(device, look) } else { look() }
    }

    fn walk(&self) -> bool {
        !self.uses_dma(A) && !self.uses_dma(B)
    }

    /// Makes `owner` the owner, if nobody is in the way.
    fn take(&self, owner: &'static str, device: Option<&'static str>) -> bool {
        let take = || {
            let mut group = Group::lock(&self.shared.owner);
            if group.is_some() {
                return *group == Some(owner) && device.is_some();
            }
            let free = match self.shared.variant.publish {
                Publish::AfterWalk => self.walk(),
                Publish::BeforeWalk => {
                    *group = Some(owner);
                    stage::step(format!("says that {owner} is claiming"));
                    drop(group);
                    let free = self.walk();
                    group = Group::lock(&self.shared.owner);
                    free
                }
            };
            *group = free.then_some(owner);
            if free {
                stage::moved(Reach::Owner);
            }
            free
        };
        match self.shared.variant.look {
            Look::LockBefore => self.machine.locked(A, || self.machine.locked(B, take)),
            _ => take(),
        }
    }

    fn claim(&self, owner: &'static str, device: Option<&'static str>) -> Result<WalkClaim, Refusal> {
        self.take(owner, device).then(|| WalkClaim { walk: self.clone(), device }).ok_or(Refusal::Taken)
    }
}

/// A claim: nothing but the memory of having claimed.
pub(crate) struct WalkClaim {
    walk: Walk,
    device: Option<&'static str>,
}

impl Drop for WalkClaim {
    fn drop(&mut self) {
        let shared = &self.walk.shared;
        let mut group = Group::lock(&shared.owner);
        let mut others = [A, B].into_iter().filter(|device| Some(*device) != self.device);
        if shared.variant.give_back == GiveBack::AfterWalk
            && let Some(other) = others.find(|device| shared.pointers.read(device) == Some(Kind::Managed))
        {
            stage::step(format!("{other} is bound to vfio-pci: keeps the group"));
            return;
        }
        *group = None;
        stage::moved(Reach::Kernel);
    }
}

impl Design for Walk {
    type Claim = WalkClaim;
    type Binding = Arc<Shared>;

    fn machine(&self) -> &Machine<Arc<Shared>> {
        &self.machine
    }

    fn claim_group(&self, owner: &'static str) -> Result<WalkClaim, Refusal> {
        self.claim(owner, None)
    }

    fn claim_device(&self, owner: &'static str, device: &'static str) -> Result<WalkClaim, Refusal> {
        self.claim(owner, Some(device))
    }

    fn has_one_user(&self, device: &'static str) -> bool {
        let _group = Group::lock(&self.shared.owner);
        let one = ![A, B].into_iter().any(|other| other != device && self.uses_dma(other));
        stage::told_one_user(one);
        one
    }

    fn freed(&self, driver: Kind) {
        self.shared.pointers.free(driver);
    }
}
