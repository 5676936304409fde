//! Letting go: of a driver, of a device, of all devices of a driver.
//!
//! A driver whose device is held open cannot leave before its user does (V13). The wait is a value, [`Unbind`], which
//! the caller drives: to try, to wait, or to wait for some time.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
#[cfg(any(feature = "std", shuttle))]
use core::time::Duration;

use crate::binding;
use crate::device::{Binding, Device, DeviceGuard, Life, ShownDriver};
use crate::driver::Removal;
use crate::notifier::BusEvent;
use crate::registry::DriverEntry;
#[cfg(any(feature = "std", shuttle))]
use crate::sync::Deadline;
use crate::sync::Users;

/// How long a wait lasts before the driver asks its users again (V13).
#[cfg(any(feature = "std", shuttle))]
const ASK_AGAIN: Duration = if cfg!(test) { Duration::from_millis(1) } else { Duration::from_secs(10) };

/// An unbinding under way; nothing happens until it is driven.
///
/// Dropping it gives up the wait, not the work: a driver that was asked to leave goes on leaving, and whoever next
/// wants the device's lock waits for it and completes it. A removal is completed by a further
/// [`remove_device`](crate::BusHandle::remove_device).
#[derive(Debug)]
#[must_use = "nothing is unbound until `wait` or `try_finish` is called"]
pub struct Unbind {
    /// The next task last.
    tasks: Vec<Task>,
}

#[derive(Debug)]
enum Task {
    /// Lets the driver go if it is still this one (D42).
    Release { dev: Arc<Device>, entry: Arc<DriverEntry> },
    /// Removes the device.
    Remove { dev: Arc<Device> },
}

/// How far an [`Unbind`] has come.
#[derive(Debug)]
pub enum Progress {
    /// All is done.
    Done,
    /// The driver of `device` waits for `users` to leave.
    Waiting {
        /// The device.
        device: Arc<Device>,
        /// Those that hold it.
        users: Arc<Users>,
    },
}

impl Unbind {
    pub(crate) fn of_binding(dev: &Arc<Device>, entry: &Arc<DriverEntry>) -> Self {
        Self { tasks: vec![Task::Release { dev: dev.clone(), entry: entry.clone() }] }
    }

    pub(crate) fn of_driver(entry: &Arc<DriverEntry>) -> Self {
        let devices = entry.close().into_iter();
        Self { tasks: devices.map(|dev| Task::Release { dev, entry: entry.clone() }).collect() }
    }

    pub(crate) fn of_removal(dev: &Arc<Device>) -> Self {
        Self { tasks: vec![Task::Remove { dev: dev.clone() }] }
    }

    /// Goes as far as it can without waiting for a user. Waits for device locks that others hold for a while.
    pub fn try_finish(&mut self) -> Progress {
        while let Some(task) = self.tasks.last() {
            let (Task::Release { dev, .. } | Task::Remove { dev }) = task;
            let result = match task {
                Task::Release { dev, entry } => release(dev, Some(entry)).map(|_| Removed::Done),
                Task::Remove { dev } => remove(dev),
            };
            match result {
                Ok(Removed::Done) => drop(self.tasks.pop()),
                Ok(Removed::NotBefore(child)) => self.tasks.push(Task::Remove { dev: child }),
                Err(users) => return Progress::Waiting { device: dev.clone(), users },
            }
        }
        Progress::Done
    }

    /// Goes on until all is done, however long users take. Must not be called by a thread that holds a device open
    /// which is to be unbound.
    pub fn wait(mut self) {
        while let Progress::Waiting { device, users } = self.try_finish() {
            #[cfg(any(feature = "std", shuttle))]
            if !users.wait_for(ASK_AGAIN) {
                ask_again(&device);
            }
            #[cfg(not(any(feature = "std", shuttle)))]
            {
                users.wait();
                drop(device);
            }
        }
    }

    /// As [`wait`](Self::wait), for `timeout` at the most.
    ///
    /// # Errors
    /// Users are left; the value goes on.
    #[cfg(any(feature = "std", shuttle))]
    pub fn wait_for(mut self, timeout: Duration) -> Result<(), Self> {
        let deadline = Deadline::after(timeout);
        while let Progress::Waiting { device, users } = self.try_finish() {
            let left = deadline.left();
            if left.is_zero() {
                return Err(self);
            }
            if !users.wait_for(left.min(ASK_AGAIN)) && left > ASK_AGAIN {
                ask_again(&device);
            }
        }
        Ok(())
    }

    /// Lets the driver that waits, if any, ask its users again to leave.
    pub fn ask_again(&mut self) {
        if let Some(Task::Release { dev, .. } | Task::Remove { dev }) = self.tasks.last() {
            ask_again(dev);
        }
    }
}

fn ask_again(dev: &Arc<Device>) {
    let mut guard = dev.raw_lock();
    if matches!(guard.binding(), Binding::Leaving { .. }) {
        // Whether it is done now shows at the next try.
        let _ = ask(&mut guard);
    }
}

/// The device lock, once no driver is half-way out; else the users that it waits for.
pub(crate) fn settle(dev: &Arc<Device>) -> Result<DeviceGuard<'_>, Arc<Users>> {
    let mut guard = dev.raw_lock();
    if let Binding::Leaving { users, .. } = guard.binding() {
        if users.inside() > 0 {
            return Err(users.clone());
        }
        ask(&mut guard)?;
    }
    Ok(guard)
}

/// R1 to R13: lets the driver of `dev` go, if it is `expected`. The lock is returned when it has gone.
fn release<'a>(dev: &'a Arc<Device>, expected: Option<&Arc<DriverEntry>>) -> Result<DeviceGuard<'a>, Arc<Users>> {
    let mut guard = settle(dev)?;
    let right = guard.attached().is_some_and(|now| expected.is_none_or(|entry| Arc::ptr_eq(&now.entry, entry)));
    if right && guard.is_bound() {
        if let Some(driver) = guard.driver() {
            dev.show(ShownDriver::Set(driver.name().clone()));
        }
        if let Some(bus) = dev.bus() {
            bus.notify(&BusEvent::Unbinding(&guard));
        }
        ask(&mut guard)?;
    }
    Ok(guard)
}

/// Calls the driver's remove, for the first time or again, and completes the release when it is done (R7 to R13).
fn ask(guard: &mut DeviceGuard<'_>) -> Result<(), Arc<Users>> {
    let attempt = match guard.binding() {
        Binding::Leaving { attempt, .. } => *attempt,
        _ => 0,
    };
    let Some(driver) = guard.driver().cloned() else { return Ok(()) };
    if let Removal::Waiting(users) = driver.remove(guard, attempt) {
        let binding = core::mem::replace(&mut guard.state().binding, Binding::Unbound);
        if let Binding::Probing(attached) | Binding::Bound(attached) | Binding::Leaving { attached, .. } = binding {
            guard.state().binding =
                Binding::Leaving { attached, attempt: attempt.saturating_add(1), users: users.clone() };
        }
        return Err(users);
    }
    binding::detach(guard);
    if let Some(bus) = guard.device().bus() {
        bus.notify(&BusEvent::Unbound(guard));
    }
    Ok(())
}

/// How far a removal came.
enum Removed {
    Done,
    /// Not even begun: this device below goes first.
    NotBefore(Arc<Device>),
}

/// Table Dt2: no driver comes any more, the bound one leaves, the device is gone.
fn remove(dev: &Arc<Device>) -> Result<Removed, Arc<Users>> {
    let _turn = dev.take_turn();
    let bus = dev.bus();
    let first = {
        let mut guard = settle(dev)?;
        let first = matches!(guard.life(), Life::Arriving | Life::Ready);
        if first {
            if let Some(child) = dev.last_child() {
                return Ok(Removed::NotBefore(child));
            }
            guard.state().life = Life::Dying;
        }
        first
    };
    if let Some(bus) = &bus
        && first
    {
        bus.notify(&BusEvent::Deleting(dev));
        bus.hide(dev);
    }
    let last = {
        let mut guard = release(dev, None)?;
        guard.release_resources();
        let last = guard.life() == Life::Dying;
        guard.state().life = Life::Gone;
        last
    };
    if last {
        if let Some(bus) = &bus {
            bus.core.deferral.leave(dev);
            bus.notify(&BusEvent::Removed(dev));
            bus.forget(dev);
        }
        if let Some(parent) = dev.parent() {
            parent.disown(dev.id());
        }
    }
    Ok(Removed::Done)
}

#[cfg(all(test, not(shuttle)))]
mod tests;
