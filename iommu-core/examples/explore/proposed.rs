//! The walk at the release, as it was proposed: one owner a group and no count.
//!
//! A device's *token* is read from its driver, without the device lock: none without a driver, a common one for all
//! drivers that use the DMA API, the driver itself if it manages its own DMA. To bind a kernel driver and to claim for
//! user space is one operation: a group without an owner takes the token, a group with another owner refuses. When a
//! driver goes, a hook looks at every *other* device of the group; if none has the owner's token, the owner is cleared.

use std::sync::Arc;

use device_model::sync::Mutex;
use device_model::{Errno, ProbeError};

use crate::design::{A, B, Design, Kind, Refusal};
use crate::machine::{self, Binding, Machine, Prepared};
use crate::pointer::{Fetch, Pointers};
use crate::stage::{self, Reach};
use crate::walk::Group;

/// When the hook runs, and which binds that fail come to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// Before `dev->driver` is cleared, where the bus cleans up after DMA.
    BeforeClear(Reaches),
    /// After it.
    AfterClear(Reaches),
    /// Where Linux 6.12 sends its notifications: after it for an unbind, before it for a probe that has failed.
    AsNotified,
}

/// Which binds that fail come to the hook.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaches {
    /// All of them: a callback of the driver core.
    All,
    /// Those whose probe has failed: a notifier.
    Probed,
}

/// Where the hook looks at the other devices.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// With the group lock held.
    Locked,
    /// Before it takes the group lock, which only guards the owner.
    Unlocked,
}

/// What becomes of the owner when user space releases a claim, which is no unbind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// It is cleared.
    Clears,
    /// It is cleared unless another device has the owner's token, as in the hook.
    Walks,
}

/// Whether an owner may claim again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    Allowed,
    Refused,
}

/// Who owns a group that user space has claimed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owners {
    /// The driver of the claimed device: its token.
    Drivers,
    /// Whoever has claimed; then no device has the owner's token, and the hook leaves the owner alone.
    Callers,
}

/// A variant of the design.
#[derive(Clone, Copy)]
pub(crate) struct Variant {
    pub(crate) hook: Hook,
    pub(crate) look: Look,
    pub(crate) fetch: Fetch,
    pub(crate) release: Release,
    pub(crate) again: Again,
    pub(crate) owners: Owners,
}

impl Variant {
    /// As its author would have it in the end, wherever the message leaves a choice.
    pub(crate) const BEST: Self = Self {
        hook: Hook::AfterClear(Reaches::All),
        look: Look::Locked,
        fetch: Fetch::Once,
        release: Release::Clears,
        again: Again::Allowed,
        owners: Owners::Drivers,
    };
}

/// Whoever may own a group.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    DmaApi,
    Driver(Kind),
    Caller(&'static str),
}

impl Token {
    fn of(driver: Kind) -> Self {
        if driver.manages_dma() { Self::Driver(driver) } else { Self::DmaApi }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::DmaApi => "DMA API",
            Self::Driver(driver) => driver.name(),
            Self::Caller(name) => name,
        }
    }
}

pub(crate) struct Shared {
    variant: Variant,
    /// The group's devices.
    devices: &'static [&'static str],
    pointers: Pointers,
    /// The group lock, and the owner that it guards.
    owner: Mutex<Option<Token>>,
}

impl Shared {
    fn token(&self, device: &str) -> Option<Token> {
        self.pointers.follow(device).map(Token::of)
    }

    fn others(&self, gone: Option<&str>) -> impl Iterator<Item = &'static str> {
        self.devices.iter().copied().filter(move |device| Some(*device) != gone)
    }

    /// A device other than `gone` whose token is `owner`.
    fn keeper(&self, gone: Option<&str>, owner: Token) -> Option<&'static str> {
        self.others(gone).find(|device| self.token(device) == Some(owner))
    }

    fn clear(owner: &mut Option<Token>) {
        stage::step("owner = nobody");
        if owner.take() != Some(Token::DmaApi) {
            stage::moved(Reach::Kernel);
        }
    }

    /// The hook: the driver of `device` is gone, or as good as gone.
    fn hook(&self, device: &'static str) {
        let seen = match self.variant.look {
            Look::Unlocked => {
                Some(self.others(Some(device)).map(|other| (other, self.token(other))).collect::<Vec<_>>())
            }
            Look::Locked => None,
        };
        let mut owner = Group::lock(&self.owner);
        let Some(token @ (Token::DmaApi | Token::Driver(_))) = *owner else { return };
        let keeper = match seen {
            Some(seen) => seen.into_iter().find(|(_, seen)| *seen == Some(token)).map(|(other, _)| other),
            None => self.keeper(Some(device), token),
        };
        match keeper {
            Some(other) => stage::step(format!("{other} has the owner's token: the owner stays {}", token.name())),
            None => Self::clear(&mut owner),
        }
    }

    fn end_hook_first(&self, device: &'static str) {
        self.hook(device);
        self.pointers.clear(device);
    }

    fn end_hook_last(&self, device: &'static str) {
        self.pointers.clear(device);
        self.hook(device);
    }

    /// The operation that a bind and a claim have in common.
    fn claim(owner: &mut Option<Token>, token: Token) -> bool {
        if owner.is_none() {
            *owner = Some(token);
            stage::step(format!("owner = {}", token.name()));
        }
        *owner == Some(token)
    }
}

/// A driver that is being bound, or is; what it had ends with it.
pub(crate) struct Bound {
    shared: Arc<Shared>,
    device: &'static str,
    driver: Kind,
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _lock = machine::holding(self.device);
        stage::dma_ends(self.device);
        match self.shared.variant.hook {
            Hook::BeforeClear(_) => self.shared.end_hook_first(self.device),
            Hook::AsNotified if self.driver.fails() => self.shared.end_hook_first(self.device),
            Hook::AfterClear(_) | Hook::AsNotified => self.shared.end_hook_last(self.device),
        }
    }
}

impl Binding for Arc<Shared> {
    type Slot = ();
    type Bound = Bound;

    fn driver_set(&self, device: &'static str, driver: Kind) {
        self.pointers.set(device, driver);
    }

    fn driver_cleared(&self, device: &'static str) {
        match self.variant.hook {
            Hook::BeforeClear(Reaches::All) => self.end_hook_first(device),
            Hook::AfterClear(Reaches::All) => self.end_hook_last(device),
            Hook::BeforeClear(Reaches::Probed) | Hook::AfterClear(Reaches::Probed) | Hook::AsNotified => {
                self.pointers.clear(device);
            }
        }
    }

    fn configure(&self, _dev: Prepared<'_, Self>, device: &'static str, driver: Kind) -> Result<Bound, ProbeError> {
        if !driver.manages_dma() {
            let mut owner = Group::lock(&self.owner);
            if !Shared::claim(&mut owner, Token::DmaApi) {
                stage::dma_refused(device, driver.name());
                return Err(ProbeError::errno_only(Errno::EBUSY));
            }
            stage::dma_begins(device, driver.name());
        }
        Ok(Bound { shared: self.clone(), device, driver })
    }
}

/// The devices of a scene in one group.
#[derive(Clone)]
pub(crate) struct Proposed {
    shared: Arc<Shared>,
    machine: Machine<Arc<Shared>>,
}

impl Proposed {
    pub(crate) fn new(variant: Variant) -> Self {
        Self::with(variant, &[A, B])
    }

    pub(crate) fn with(variant: Variant, devices: &'static [&'static str]) -> Self {
        let pointers = Pointers::new(variant.fetch);
        let shared = Arc::new(Shared { variant, devices, pointers, owner: Mutex::new(None) });
        let machine = Machine::new(shared.clone());
        for device in devices {
            stage::must(machine.plug(device), "a device can be added");
        }
        Self { shared, machine }
    }

    /// Claims for `caller`, who drives the device by `driver`.
    fn take(&self, caller: &'static str, device: Option<&'static str>, driver: Kind) -> Result<ProposedClaim, Refusal> {
        let token = match self.shared.variant.owners {
            Owners::Drivers => Token::Driver(driver),
            Owners::Callers => Token::Caller(caller),
        };
        let mut owner = Group::lock(&self.shared.owner);
        let before = *owner;
        let again = device.is_some() && self.shared.variant.again == Again::Allowed;
        if !Shared::claim(&mut owner, token) || (before.is_some() && !again) {
            return Err(Refusal::Taken);
        }
        stage::moved(Reach::Owner);
        Ok(ProposedClaim { shared: self.shared.clone(), device, token })
    }
}

/// A claim: nothing but the memory of having claimed.
pub(crate) struct ProposedClaim {
    shared: Arc<Shared>,
    device: Option<&'static str>,
    token: Token,
}

impl Drop for ProposedClaim {
    fn drop(&mut self) {
        let mut owner = Group::lock(&self.shared.owner);
        if *owner != Some(self.token) {
            return;
        }
        let keeper = match self.shared.variant.release {
            Release::Clears => None,
            Release::Walks => self.shared.keeper(self.device, self.token),
        };
        match keeper {
            Some(other) => stage::step(format!("{other} has the owner's token: the owner stays {}", self.token.name())),
            None => Shared::clear(&mut owner),
        }
    }
}

impl Design for Proposed {
    type Claim = ProposedClaim;
    type Binding = Arc<Shared>;

    fn machine(&self) -> &Machine<Arc<Shared>> {
        &self.machine
    }

    fn claim_group(&self, owner: &'static str) -> Result<ProposedClaim, Refusal> {
        // VFIO claims as the driver that it is.
        self.take(owner, None, Kind::Managed)
    }

    fn claim_device(&self, owner: &'static str, device: &'static str) -> Result<ProposedClaim, Refusal> {
        let driver = self.shared.pointers.follow(device).filter(|driver| driver.manages_dma()).ok_or(Refusal::Gone)?;
        self.take(owner, Some(device), driver)
    }

    fn has_one_user(&self, device: &'static str) -> bool {
        let owner = Group::lock(&self.shared.owner);
        let one = owner.is_some_and(|owner| self.shared.keeper(Some(device), owner).is_none());
        stage::told_one_user(one);
        one
    }

    fn freed(&self, driver: Kind) {
        self.shared.pointers.free(driver);
    }
}
