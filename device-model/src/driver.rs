//! Drivers: what the core calls to bind and to let go.

use alloc::sync::Arc;
use core::any::Any;
use core::fmt;

use crate::device::DeviceGuard;
use crate::errno::Errno;
use crate::sync::Users;

/// A driver.
///
/// The core calls [`probe`](Self::probe) and [`remove`](Self::remove) with the lock of the device held, strictly in
/// turns: a device is never probed while bound, nor removed while unbound. Two devices may be probed by one driver at
/// the same time.
pub trait Driver: Any + Send + Sync {
    /// The name, unique on its bus: what `driver_override` names and messages show.
    fn name(&self) -> &Arc<str>;

    /// Takes `dev` into service. What it acquires it gives to [`DeviceGuard::manage`], to be dropped in reverse order
    /// when the driver leaves or this fails. DMA is allowed already (P6 comes before P9).
    ///
    /// # Errors
    /// A failure lets the core try the next driver that matches; [`ProbeError::Deferred`] lets it come back (D25).
    fn probe(&self, dev: &mut DeviceGuard<'_>) -> Result<(), ProbeError>;

    /// Lets `dev` go; cannot refuse.
    ///
    /// A driver whose device is held open asks its user to close it and answers [`Removal::Waiting`]; the core calls
    /// again once the user has left, or to ask again. `attempt` counts these calls from 0. After [`Removal::Done`] the
    /// right to DMA ends first, then what the probe acquired is dropped (R8, R9).
    fn remove(&self, dev: &mut DeviceGuard<'_>, attempt: u32) -> Removal {
        let _ = (dev, attempt);
        Removal::Done
    }
}

impl fmt::Debug for dyn Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Driver({:?})", self.name())
    }
}

/// How far a driver has come with letting a device go.
#[derive(Debug)]
pub enum Removal {
    /// It has.
    Done,
    /// It waits for these users, whom it has asked to leave and whose door it has closed.
    Waiting(Arc<Users>),
}

/// Whether a driver does DMA through the kernel's DMA API (D63).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DmaApi {
    /// It does: binding it is a kernel use of the device's group.
    #[default]
    Kernel,
    /// It does no DMA, or claims ownership itself before any: binding it counts for nothing. vfio-pci, pci-stub and
    /// pcieport are such (D64).
    Managed,
}

/// Why a driver, or the configuration of DMA before it, did not take a device.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProbeError {
    /// Something that it needs is not there yet.
    #[error("deferred until {0}")]
    Deferred(Awaits),
    /// It failed.
    #[error("{errno}")]
    Failed {
        /// The number that Linux gives to whoever bound by hand.
        errno: Errno,
        /// What is behind it.
        #[source]
        cause: Option<Arc<dyn core::error::Error + Send + Sync>>,
    },
}

impl ProbeError {
    /// A failure of which only the number is known.
    pub const fn errno_only(errno: Errno) -> Self {
        Self::Failed { errno, cause: None }
    }

    /// A failure with the error behind it.
    pub fn caused_by(errno: Errno, cause: impl core::error::Error + Send + Sync + 'static) -> Self {
        Self::Failed { errno, cause: Some(Arc::new(cause)) }
    }

    /// The number of Linux: `EPROBE_DEFER` for a deferral.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Deferred(_) => Errno::EPROBE_DEFER,
            Self::Failed { errno, .. } => *errno,
        }
    }
}

/// What a deferred probe waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Awaits {
    /// A driver on the device of this name: the probe is repeated when that device binds, and not before.
    Supplier(Arc<str>),
    /// Not known: the probe is repeated whenever any device binds (D54).
    Anything,
}

impl fmt::Display for Awaits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Supplier(name) => write!(f, "{name} has a driver"),
            Self::Anything => f.write_str("another device has a driver"),
        }
    }
}
