//! The design that was proposed instead: no count. A claim walks the group's devices under the group lock and looks at
//! each driver (H5).
//!
//! A model of its own, for the code that ships cannot be made to read a driver without its lock. The steps carry the
//! labels of the binding sequence: P4 sets `dev->driver`, P6 configures DMA, E2 and R8 end it, E3 and R9 clear the driver.

use device_model::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use device_model::sync::{Arc, Mutex, MutexGuard, UserGuard, Users};

use crate::design::{A, B, Design, Kind, Refusal};
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

/// A driver in memory.
struct Module {
    kind: Kind,
    registered: AtomicBool,
    freed: AtomicBool,
}

struct Device {
    name: &'static str,
    lock: Mutex<()>,
    /// `dev->driver`: a place in `Walk::modules`, plus one.
    driver: AtomicUsize,
    users: Arc<Users>,
}

struct Shared {
    variant: Variant,
    modules: [Module; 3],
    devices: [Device; 2],
    /// The group lock, and the owner that it guards.
    owner: Mutex<Option<&'static str>>,
}

/// Two devices in one group, and three drivers.
#[derive(Clone)]
pub(crate) struct Walk(Arc<Shared>);

/// A held lock; its name leaves the timeline before the lock is free.
struct Held<'a, T>(#[expect(dead_code, reason = "held")] Holding, MutexGuard<'a, T>);

fn lock<T>(name: String, lock: &Mutex<T>) -> Held<'_, T> {
    stage::awaits(&*name);
    let guard = lock.lock();
    stage::got();
    Held(stage::holding(name), guard)
}

impl Device {
    fn lock(&self) -> Held<'_, ()> {
        lock(format!("device lock of {}", self.name), &self.lock)
    }

    /// E3 or R9.
    fn clear_driver(&self, label: &str) {
        self.driver.store(0, Ordering::Relaxed);
        stage::step(format!("clears the driver of {} ({label})", self.name));
    }
}

impl Walk {
    pub(crate) fn new(variant: Variant) -> Self {
        let modules =
            Kind::ALL.map(|kind| Module { kind, registered: AtomicBool::new(true), freed: AtomicBool::new(false) });
        let devices = [A, B].map(|name| Device {
            name,
            lock: Mutex::new(()),
            driver: AtomicUsize::new(0),
            users: Arc::new(Users::new()),
        });
        Self(Arc::new(Shared { variant, modules, devices, owner: Mutex::new(None) }))
    }

    pub(crate) fn plain() -> Self {
        Self::new(Variant::PLAIN)
    }

    fn group(&self) -> Held<'_, Option<&'static str>> {
        lock("group lock".to_owned(), &self.0.owner)
    }

    fn device(&self, name: &str) -> &Device {
        let [a, b] = &self.0.devices;
        if name == A { a } else { b }
    }

    fn number(&self, kind: Kind) -> usize {
        self.0.modules.iter().position(|module| module.kind == kind).map_or(0, |place| place + 1)
    }

    /// P6: the kernel's use begins, unless user space has the group.
    fn configure_dma(&self, driver: Kind, device: &Device) -> bool {
        if driver == Kind::Managed {
            return true;
        }
        let group = self.group();
        match *group.1 {
            Some(_) => stage::dma_refused(device.name, driver.name()),
            None => stage::dma_begins(device.name, driver.name()),
        }
        group.1.is_none()
    }

    /// E2 or R8.
    fn clean_up_dma(&self, device: &Device) {
        let _group = self.group();
        stage::dma_ends(device.name);
    }

    /// Whether a kernel driver is in the way at `device`, by a look at its driver.
    fn uses_dma(&self, device: &Device) -> bool {
        let _lock = (self.0.variant.look == Look::LockInside).then(|| device.lock());
        let Some(module) = device.driver.load(Ordering::Relaxed).checked_sub(1).and_then(|at| self.0.modules.get(at))
        else {
            stage::step(format!("looks at {}: no driver", device.name));
            return false;
        };
        let name = module.kind.name();
        stage::step(format!("looks at {}: its driver is {name}", device.name));
        if module.freed.load(Ordering::Relaxed) {
            stage::broken(format!("reads whether {name} manages its own DMA from memory that is freed"));
        }
        stage::step(match module.kind {
            Kind::Managed => format!("{name} manages its own DMA"),
            Kind::Kernel | Kind::Failing => format!("{name} uses the DMA API"),
        });
        if self.0.variant.look == Look::Twice && device.driver.load(Ordering::Relaxed) != self.number(module.kind) {
            stage::broken(format!("in one walk {} has had two drivers", device.name));
        }
        module.kind != Kind::Managed
    }

    fn walk(&self) -> bool {
        let [a, b] = &self.0.devices;
        !self.uses_dma(a) && !self.uses_dma(b)
    }

    /// Makes `owner` the owner, if nobody is in the way.
    fn take(&self, owner: &'static str, device: Option<&'static str>) -> bool {
        let [a, b] = &self.0.devices;
        let _locks = (self.0.variant.look == Look::LockBefore).then(|| (a.lock(), b.lock()));
        let mut group = self.group();
        if group.1.is_some() {
            return *group.1 == Some(owner) && device.is_some();
        }
        let free = match self.0.variant.publish {
            Publish::AfterWalk => self.walk(),
            Publish::BeforeWalk => {
                *group.1 = Some(owner);
                stage::step(format!("says that {owner} is claiming"));
                drop(group);
                let free = self.walk();
                group = self.group();
                free
            }
        };
        *group.1 = free.then_some(owner);
        if free {
            stage::moved(Reach::Owner);
        }
        free
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
        let mut group = self.walk.group();
        let others = self.walk.0.devices.iter().filter(|device| Some(device.name) != self.device);
        let managed = self.walk.number(Kind::Managed);
        let mut managed = others.filter(|device| device.driver.load(Ordering::Relaxed) == managed);
        if self.walk.0.variant.give_back == GiveBack::AfterWalk
            && let Some(other) = managed.next()
        {
            stage::step(format!("{} is bound to vfio-pci: keeps the group", other.name));
            return;
        }
        *group.1 = None;
        stage::moved(Reach::Kernel);
    }
}

impl Design for Walk {
    type Claim = WalkClaim;
    type Open = UserGuard;

    fn bind(&self, driver: Kind, device: &'static str) -> bool {
        let number = self.number(driver);
        let Some(module) = number.checked_sub(1).and_then(|at| self.0.modules.get(at)) else { return false };
        let device = self.device(device);
        let _lock = device.lock();
        if !module.registered.load(Ordering::Relaxed) || device.driver.load(Ordering::Relaxed) != 0 {
            return false;
        }
        device.driver.store(number, Ordering::Relaxed);
        stage::step(format!("sets the driver of {} to {} (P4)", device.name, driver.name()));
        if !self.configure_dma(driver, device) {
            device.clear_driver("E3");
            return false;
        }
        if driver == Kind::Failing {
            stage::step(format!("{} fails to probe {}", driver.name(), device.name));
            self.clean_up_dma(device);
            device.clear_driver("E3");
            return false;
        }
        stage::step(format!("{} is bound to {} (P14)", driver.name(), device.name));
        true
    }

    fn unbind(&self, driver: Kind, device: &'static str) {
        let number = self.number(driver);
        let device = self.device(device);
        let _lock = device.lock();
        if device.driver.load(Ordering::Relaxed) != number {
            return;
        }
        device.users.close();
        if driver == Kind::Managed && device.users.inside() > 0 {
            stage::step(format!("{} waits for the user of {} (R7)", driver.name(), device.name));
            stage::awaits(format!("user to close {}", device.name));
            device.users.wait();
            stage::got();
        }
        stage::step(format!("{} leaves {} (R7)", driver.name(), device.name));
        if driver != Kind::Managed {
            self.clean_up_dma(device);
        }
        device.clear_driver("R9");
    }

    fn unload(&self, driver: Kind) {
        let Some(module) = self.0.modules.iter().find(|module| module.kind == driver) else { return };
        module.registered.store(false, Ordering::Relaxed);
        for device in [A, B] {
            self.unbind(driver, device);
        }
        module.freed.store(true, Ordering::Relaxed);
        stage::step(format!("{} is unregistered, its module freed", driver.name()));
    }

    fn open(&self, device: &'static str) -> Option<UserGuard> {
        self.device(device).users.enter()
    }

    fn claim_group(&self, owner: &'static str) -> Result<WalkClaim, Refusal> {
        self.claim(owner, None)
    }

    fn claim_device(&self, owner: &'static str, device: &'static str) -> Result<WalkClaim, Refusal> {
        self.claim(owner, Some(device))
    }
}
