//! Writes that wait for a user.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::time::Duration;

use iommu_core::device_model::sync::Users;
use iommu_core::device_model::{BusHandle, Device, DriverHandle, Progress, SysfsBindError, Unbind};

use super::super::machine::{Machine, MachineError, Pci};
use super::error::AttributeError;

/// How long users are waited for before they are asked again.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// What a write to an attribute does.
#[derive(Debug)]
pub(super) enum Task {
    Done,
    Unbind(Unbind),
    /// One after the other.
    Removals(VecDeque<Unbind>),
    Bind {
        pci: BusHandle<Pci>,
        driver: DriverHandle<Pci>,
        dev: Arc<Device<Pci>>,
    },
}

impl Task {
    pub(super) fn bind(machine: &Machine, driver: DriverHandle<Pci>, name: &str) -> Result<Self, AttributeError> {
        let missing = || MachineError::Bind(Box::new(SysfsBindError::NoDevice { device: name.into() }));
        let dev = machine.pci().device(name).ok_or_else(missing)?;
        Ok(Self::Bind { pci: machine.pci().clone(), driver, dev })
    }

    pub(super) fn unbind(machine: &Machine, driver: &DriverHandle<Pci>, name: &str) -> Result<Self, AttributeError> {
        let unbind = machine.pci().sysfs().unbind(driver.name(), name);
        Ok(Self::Unbind(unbind.map_err(MachineError::Unbind)?))
    }

    fn ask_again(&mut self) {
        match self {
            Self::Unbind(unbind) => unbind.ask_again(),
            Self::Removals(removals) => removals.iter_mut().take(1).for_each(Unbind::ask_again),
            Self::Done | Self::Bind { .. } => {}
        }
    }

    /// Goes on as far as possible. The error of the outer result are the users that are waited for.
    fn go_on(&mut self) -> Result<Result<(), AttributeError>, (Arc<str>, Arc<Users>)> {
        match self {
            Self::Done => Ok(Ok(())),
            Self::Unbind(unbind) => drive(unbind).map(Ok),
            Self::Removals(removals) => {
                while let Some(removal) = removals.front_mut() {
                    drive(removal)?;
                    removals.pop_front();
                }
                Ok(Ok(()))
            }
            Self::Bind { pci, driver, dev } => {
                let result = pci.try_bind(driver, dev).map_err(|users| (dev.name().clone(), users))?;
                Ok(result.map_err(|error| MachineError::Bind(Box::new(SysfsBindError::Bind(error))).into()))
            }
        }
    }
}

/// Goes on as far as possible. The error are the users that are waited for.
fn drive(unbind: &mut Unbind) -> Result<(), (Arc<str>, Arc<Users>)> {
    match unbind.try_finish() {
        Progress::Done => Ok(()),
        Progress::Waiting { device, users } => Err((device.name().clone(), users)),
    }
}

/// A write that waits until a user has closed a device. It goes on when it is driven, and not otherwise; dropping it stops
/// the wait, but what was begun stays begun.
#[derive(Debug)]
#[must_use = "nothing goes on until it is driven"]
pub struct Later {
    task: Task,
    bytes: usize,
    device: Arc<str>,
    users: Arc<Users>,
}

/// What came of a write.
#[derive(Debug)]
pub enum Written {
    /// So many bytes were taken.
    Bytes(usize),
    /// The call waits for a user.
    Later(Later),
}

impl Written {
    pub(super) fn start(mut task: Task, bytes: usize) -> Result<Self, AttributeError> {
        match task.go_on() {
            Ok(result) => result.map(|()| Self::Bytes(bytes)),
            Err((device, users)) => Ok(Self::Later(Later { task, bytes, device, users })),
        }
    }
}

impl Later {
    /// Returns the device whose user is waited for.
    pub fn device(&self) -> &Arc<str> {
        &self.device
    }

    /// Calls `then` once the users have left, at once if they have already: for whoever cannot wait here and calls
    /// [`try_finish`](Self::try_finish) then. It is called by the thread that closes the last file, without locks.
    pub fn when_due(&self, then: impl FnOnce() + Send + 'static) {
        self.users.when_empty(then);
    }

    /// Goes on as far as possible without waiting for a user. Costs little while nobody has left.
    ///
    /// # Errors
    /// The write has failed.
    pub fn try_finish(self) -> Result<Written, AttributeError> {
        if self.users.inside() > 0 {
            return Ok(Written::Later(self));
        }
        Written::start(self.task, self.bytes)
    }

    /// Goes on until the write is done, however long users take, and returns how many bytes were taken. The users are
    /// asked again from time to time.
    ///
    /// # Errors
    /// The write has failed.
    pub fn wait(mut self) -> Result<usize, AttributeError> {
        loop {
            while !self.users.wait_for(ASK_AGAIN) {
                self.task.ask_again();
            }
            match Written::start(self.task, self.bytes)? {
                Written::Bytes(bytes) => return Ok(bytes),
                Written::Later(later) => self = later,
            }
        }
    }
}
