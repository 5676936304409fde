//! Letting go: of a driver, of a device, of all devices of a driver.
//!
//! A driver whose device is held open cannot leave before its user does. The wait is a value, [`Unbind`], which
//! the caller drives: to try, to wait, or to wait for some time.
// V13.

use alloc::sync::Arc;
#[cfg(any(feature = "std", shuttle))]
use core::time::Duration;

use crate::any_device::AnyDevice;
use crate::binding;
use crate::bus::Bus;
use crate::device::{Binding, Device, DeviceGuard, Leaving, Left, Life, ShownDriver};
use crate::dma::DmaConfigure;
use crate::driver::{AnyDriver, Removal};
use crate::notifier::BusEvent;
use crate::registration::{Last, Registration};
#[cfg(any(feature = "std", shuttle))]
use crate::sync::Deadline;
use crate::sync::Users;

/// How long a wait lasts before the driver asks its users again.
// V13.
#[cfg(any(feature = "std", shuttle))]
const ASK_AGAIN: Duration = if cfg!(test) { Duration::from_millis(1) } else { Duration::from_secs(10) };

/// How often in a row a driver may wait for users of whom none is inside.
const IN_VAIN: u32 = 100;

/// An unbind in progress; nothing happens until it is driven.
///
/// Dropping it stops waiting, but does not cancel: a driver that was asked to remove stays in removal, and the next
/// thread that takes the device lock waits for it and completes it. A removal is completed by another call of
/// [`Device::remove`], an unregistration by another call of
/// [`BusHandle::remove_driver`](crate::BusHandle::remove_driver); until then the driver is found by its name, and is
/// [leaving](crate::DriverHandle::is_leaving).
#[derive(Debug)]
#[must_use = "nothing is unbound until `wait` or `try_finish` is called"]
pub struct Unbind(Task);

enum Task {
    /// Lets the driver go if it is still this one.
    // D42.
    Release {
        dev: Arc<dyn AnyDevice>,
        registration: Arc<dyn AnyRegistration>,
    },
    /// Lets the driver's devices go, the last bound first, and then the driver.
    Unregister {
        registration: Arc<dyn AnyRegistration>,
        at: Option<Arc<dyn AnyDevice>>,
    },
    /// Removes `root` and all below it; `at` is what goes next.
    Remove {
        root: Arc<dyn AnyDevice>,
        at: Arc<dyn AnyDevice>,
    },
    Done,
}

impl core::fmt::Debug for Task {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Release { dev, registration } => write!(f, "{} from {dev:?}", registration.name()),
            Self::Unregister { registration, .. } => write!(f, "{} from all devices", registration.name()),
            Self::Remove { root, .. } => write!(f, "{root:?} and all below"),
            Self::Done => f.write_str("done"),
        }
    }
}

enum Step {
    Done,
    Further,
}

/// Progress of an [`Unbind`].
#[derive(Debug)]
pub enum Progress {
    /// The unbind is complete.
    Done,
    /// The driver of `device` waits for `users`.
    Waiting {
        /// The device.
        device: Arc<dyn AnyDevice>,
        /// The users that have it open.
        users: Arc<Users>,
    },
}

/// A registration on whatever bus.
trait AnyRegistration: Send + Sync {
    fn name(&self) -> &Arc<str>;
    fn key(&self) -> usize;
    fn close(&self);
    /// The device that was bound last; with none left the driver is unregistered.
    fn last_device_or_finish(&self) -> Option<Arc<dyn AnyDevice>>;
}

impl<B: Bus> AnyRegistration for Registration<B> {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn key(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    fn close(&self) {
        Self::close(self);
    }

    fn last_device_or_finish(&self) -> Option<Arc<dyn AnyDevice>> {
        match self.last_device() {
            Last::Device(dev) => return Some(dev),
            Last::NoneAnyMore => {
                self.bus.unregister(self);
                self.bus.bus.driver_removed(&self.driver);
            }
            Last::GoneBefore => {}
        }
        None
    }
}

impl Unbind {
    pub(crate) fn of_binding<B: Bus>(dev: &Arc<Device<B>>, driver: &Arc<Registration<B>>) -> Self {
        Self(Task::Release { dev: dev.clone(), registration: driver.clone() })
    }

    pub(crate) fn of_driver<B: Bus>(driver: &Arc<Registration<B>>) -> Self {
        Self(Task::Unregister { registration: driver.clone(), at: None })
    }

    fn of_device(dev: Arc<dyn AnyDevice>) -> Self {
        Self(Task::Remove { root: dev.clone(), at: dev })
    }

    /// Continues as far as possible without waiting for a user. Waits for device locks that others hold briefly.
    pub fn try_finish(&mut self) -> Progress {
        loop {
            match self.step() {
                Ok(Step::Further) => {}
                Ok(Step::Done) => {
                    self.0 = Task::Done;
                    return Progress::Done;
                }
                Err((device, users)) => {
                    users.ask();
                    return Progress::Waiting { device, users };
                }
            }
        }
    }

    fn step(&mut self) -> Result<Step, (Arc<dyn AnyDevice>, Arc<Users>)> {
        match &mut self.0 {
            Task::Done => Ok(Step::Done),
            Task::Release { dev, registration } => {
                dev.clone().step_release(registration.key()).map_err(|users| (dev.clone(), users))?;
                Ok(Step::Done)
            }
            Task::Unregister { registration, at } => {
                registration.close();
                let Some(dev) = registration.last_device_or_finish() else { return Ok(Step::Done) };
                *at = Some(dev.clone());
                dev.clone().step_release(registration.key()).map_err(|users| (dev, users))?;
                Ok(Step::Further)
            }
            Task::Remove { root, at } => {
                match at.clone().step_removal().map_err(|users| (at.clone(), users))? {
                    Removed::NotBefore(child) => *at = child,
                    Removed::Done if at.id() == root.id() => return Ok(Step::Done),
                    // What was above it goes on; its siblings first.
                    Removed::Done => *at = at.parent().unwrap_or_else(|| root.clone()),
                }
                Ok(Step::Further)
            }
        }
    }

    /// Continues until the unbind is complete, however long users take. Must not be called by a thread that holds a
    /// device open which is to be unbound.
    pub fn wait(mut self) {
        while let Progress::Waiting { device, users } = self.try_finish() {
            #[cfg(any(feature = "std", shuttle))]
            if !users.wait_for(ASK_AGAIN) {
                device.ask_again();
            }
            #[cfg(not(any(feature = "std", shuttle)))]
            {
                users.wait();
                drop(device);
            }
        }
    }

    /// Continues until the unbind is complete, for `timeout` at most.
    ///
    /// # Errors
    /// Returns `self` if users remain at the deadline.
    #[cfg(any(feature = "std", shuttle))]
    pub fn wait_for(mut self, timeout: Duration) -> Result<(), Self> {
        let deadline = Deadline::after(timeout);
        while let Progress::Waiting { device, users } = self.try_finish() {
            let left = deadline.left();
            if left.is_zero() {
                return Err(self);
            }
            if !users.wait_for(left.min(ASK_AGAIN)) && left > ASK_AGAIN {
                device.ask_again();
            }
        }
        Ok(())
    }

    /// Calls the driver that waits, if any, so that it requests its users to leave again.
    pub fn ask_again(&mut self) {
        match &self.0 {
            Task::Release { dev, .. } | Task::Remove { at: dev, .. } | Task::Unregister { at: Some(dev), .. } => {
                dev.clone().ask_again();
            }
            Task::Unregister { at: None, .. } | Task::Done => {}
        }
    }
}

impl dyn AnyDevice {
    /// Removes the device and all below it; see [`Device::remove`].
    pub fn remove(self: &Arc<Self>) -> Unbind {
        Unbind::of_device(self.clone())
    }
}

impl<B: Bus> Device<B> {
    /// Removes the device and all below it, the lowest first: no driver can bind any more, bound drivers are unbound,
    /// then the device is removed and the notifiers are called. Nothing happens until the returned value is driven.
    ///
    /// A removal whose [`Unbind`] was dropped is continued by another call. Does nothing for a device that has been
    /// removed.
    pub fn remove(self: &Arc<Self>) -> Unbind {
        Unbind::of_device(self.clone())
    }

    /// Takes the device lock, and waits for its holder; also for a driver that is leaving but still has users. If its
    /// users have left, its [`remove`](crate::Driver::remove) is called and its removal completed first. Must not be
    /// called from a callback for the same device.
    pub fn lock(self: &Arc<Self>) -> DeviceGuard<'_, B> {
        // D44, D50.
        loop {
            match settle(self) {
                Ok(guard) => return guard,
                Err(users) => {
                    users.ask();
                    users.wait();
                }
            }
        }
    }
}

/// The device lock, once no driver is half-way out; else the users that it waits for.
pub(crate) fn settle<B: Bus>(dev: &Arc<Device<B>>) -> Result<DeviceGuard<'_, B>, Arc<Users>> {
    let mut guard = dev.raw_lock();
    if let Binding::Leaving(_, Leaving { users, .. }) = &guard.state().binding {
        if users.inside() > 0 {
            return Err(users.clone());
        }
        ask(&mut guard)?;
    }
    Ok(guard)
}

/// Lets the driver of `dev` go, if it is of the registration of this key. The lock is returned when it has gone.
// R1 to R13.
fn release<B: Bus>(dev: &Arc<Device<B>>, expected: Option<usize>) -> Result<DeviceGuard<'_, B>, Arc<Users>> {
    let mut guard = settle(dev)?;
    let right = guard.link().is_some_and(|link| expected.is_none_or(|key| link.driver.key() == key));
    if right && guard.is_bound() {
        announce(&guard);
        ask(&mut guard)?;
    }
    Ok(guard)
}

/// Tells that the driver is about to go. If a notifier unwinds, nothing has happened.
// R4 and R5.
fn announce<B: Bus>(guard: &DeviceGuard<'_, B>) {
    let Some(name) = guard.driver_name() else { return };
    let dev = guard.device();
    dev.show(ShownDriver::Set(name.clone()));
    let undo = scopeguard::guard((), |()| dev.show(ShownDriver::Linked(name.clone())));
    dev.notify(&BusEvent::Unbinding(guard));
    scopeguard::ScopeGuard::into_inner(undo);
}

/// Calls the driver's remove, for the first time or again, and completes the release when it is done, or unwinds.
// R7 to R13.
fn ask<B: Bus>(guard: &mut DeviceGuard<'_, B>) -> Result<(), Arc<Users>> {
    if guard.link().is_none() {
        return Ok(());
    }
    let (attempt, in_vain) = match &guard.state().binding {
        Binding::Leaving(_, leaving) => (leaving.attempt, leaving.in_vain),
        _ => (0, 0),
    };
    let mut complete = scopeguard::guard(guard, |guard| let_go(guard));
    let removal = complete.with_driver(|driver, bound| driver.remove(bound, attempt));
    let Some(Removal::Waiting(users)) = removal else { return Ok(()) };
    let in_vain = if users.inside() > 0 { 0 } else { in_vain + 1 };
    if in_vain >= IN_VAIN {
        return Ok(());
    }
    let guard = scopeguard::ScopeGuard::into_inner(complete);
    let state = guard.state_mut();
    state.binding = match core::mem::replace(&mut state.binding, Binding::Unbound) {
        Binding::Probing(attached) | Binding::Bound(attached) | Binding::Leaving(attached, _) => {
            Binding::Leaving(attached, Leaving { attempt: attempt.saturating_add(1), in_vain, users: users.clone() })
        }
        other => other,
    };
    Err(users)
}

// R8 to R13.
fn let_go<B: Bus>(guard: &mut DeviceGuard<'_, B>) {
    let mut tell = scopeguard::guard(guard, |guard| guard.device().notify(&BusEvent::Unbound(guard)));
    binding::detach(&mut tell);
}

/// How far a removal came.
#[derive(Debug)]
pub enum Removed {
    Done,
    /// Not even begun: this device below goes first.
    NotBefore(Arc<dyn AnyDevice>),
}

/// No driver comes any more, the bound one leaves, the device is gone.
// Table Dt2.
pub(crate) fn remove<B: Bus>(dev: &Arc<Device<B>>) -> Result<Removed, Arc<Users>> {
    let _turn = dev.take_turn();
    let first = {
        let mut guard = settle(dev)?;
        let first = matches!(guard.state().life, Life::Arriving | Life::Ready);
        if first {
            if let Some(child) = dev.last_child() {
                return Ok(Removed::NotBefore(child));
            }
            guard.state_mut().life = Life::Dying;
        }
        first
    };
    if first {
        dev.notify(&BusEvent::Deleting(dev));
    }
    let mut guard = release(dev, None)?;
    let last = guard.state().life == Life::Dying;
    guard.state_mut().life = Life::Gone;
    drop(guard);
    if last {
        finish(dev);
    }
    Ok(Removed::Done)
}

/// The device is gone, even if a notifier unwinds. It was found until now: a driver that waited for a user had it.
// D68; Dt2, steps 6 to 9.
fn finish<B: Bus>(dev: &Arc<Device<B>>) {
    let bus = dev.bus();
    bus.hide(dev);
    bus.core.deferral.leave(dev.id());
    let _forget = scopeguard::guard((), |()| forget(dev));
    let _guard_of_dma = scopeguard::guard((), |()| bus.bus.dma().device_removed(dev.dma_device()));
    dev.notify(&BusEvent::Removed(dev));
}

fn forget<B: Bus>(dev: &Device<B>) {
    dev.bus().forget(dev);
    if let Some(parent) = dev.parent() {
        parent.disown(dev.id());
    }
    drop(dev.exchange_notifiers(None));
}

/// The device was not added after all: whoever heard of it unwound.
pub(crate) fn take_back<B: Bus>(dev: &Arc<Device<B>>) {
    dev.raw_lock().state_mut().life = Life::Gone;
    let _forget = scopeguard::guard((), |()| forget(dev));
    dev.bus().bus.dma().device_removed(dev.dma_device());
}

/// Nobody has a handle of the bus any more: the device goes, and its driver, asked once, without waiting for a user. If
/// somebody holds the device's lock, that one does it.
pub(crate) fn close<B: Bus>(dev: &Arc<Device<B>>) {
    let Some(_turn) = dev.turn_or_leave() else { return };
    let Some(mut guard) = dev.lock_or_leave(Left::Close, || ()) else { return };
    if guard.state().life == Life::Gone {
        return;
    }
    let before = core::mem::replace(&mut guard.state_mut().life, Life::Gone);
    drop(guard);
    // Each step is taken even if the one before unwinds.
    let _finish = scopeguard::guard((), |()| finish(dev));
    let _release = scopeguard::guard((), |()| release_by_force(dev));
    if before != Life::Dying {
        dev.notify(&BusEvent::Deleting(dev));
    }
}

/// Lets the driver go, if there is one, whatever it answers.
fn release_by_force<B: Bus>(dev: &Arc<Device<B>>) {
    let mut guard = dev.raw_lock();
    let mut force = scopeguard::guard(&mut guard, |guard| {
        if guard.link().is_some() {
            let_go(guard);
        }
    });
    if force.is_bound() {
        announce(&force);
    }
    let _ = ask(&mut force);
}

/// Lets the driver of the registration of this key go, if it is bound.
pub(crate) fn step_release<B: Bus>(dev: &Arc<Device<B>>, registration: usize) -> Result<(), Arc<Users>> {
    release(dev, Some(registration)).map(drop)
}

/// Lets a driver that waits for users ask them again.
pub(crate) fn ask_again<B: Bus>(dev: &Arc<Device<B>>) {
    let mut guard = dev.raw_lock();
    let leaving = matches!(guard.state().binding, Binding::Leaving(..));
    // Whether it is done now shows at the next try.
    let asked = if leaving { ask(&mut guard) } else { Ok(()) };
    drop(guard);
    if let Err(users) = asked {
        users.ask();
    }
}
