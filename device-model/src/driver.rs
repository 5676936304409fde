//! Drivers: the callbacks for binding and unbinding.

use alloc::sync::Arc;
use core::fmt;

use crate::bound::Bound;
use crate::bus::{Bus, UseOf};
use crate::dma::{DmaRight, DriverDma};
use crate::errno::Errno;
use crate::sync::Users;

/// The argument of a driver's callbacks: its device, bound, with the driver's right to DMA.
pub type BoundTo<'a, B, D> = Bound<'a, B, <D as DriverDma>::Right<UseOf<B>>>;

/// A driver for the devices of the bus `B`.
///
/// The core calls [`probe`](Self::probe) and [`remove`](Self::remove) with the lock of the device held, strictly in
/// turns: a device is never probed while bound, nor removed while unbound. Two devices may be probed by one driver at
/// the same time.
///
/// A driver for another bus does not compile:
/// ```compile_fail,E0277
/// use device_model::pci::PciBus;
/// use device_model::platform::PlatformBus;
/// use device_model::{BoundTo, BusHandle, DmaApi, Driver, ProbeError, Unprotected};
/// use std::sync::Arc;
///
/// struct Nic(Arc<str>);
/// impl Driver<PciBus<Unprotected>> for Nic {
///     type Dma = DmaApi;
///     fn name(&self) -> &Arc<str> {
///         &self.0
///     }
///     fn probe(&self, _: &mut BoundTo<'_, PciBus<Unprotected>, DmaApi>) -> Result<(), ProbeError> {
///         Ok(())
///     }
/// }
///
/// fn register(platform: &BusHandle<PlatformBus<Unprotected>>) {
///     let _ = platform.add_driver(Arc::new(Nic("nic".into())));
/// }
/// ```
pub trait Driver<B: Bus>: Send + Sync + 'static {
    /// How the driver does DMA: [`DmaApi`](crate::DmaApi) or [`DriverManaged`](crate::DriverManaged).
    type Dma: DriverDma;

    /// Returns the name, unique on its bus: what `driver_override` names and messages show. Read once, when the driver
    /// is registered.
    fn name(&self) -> &Arc<str>;

    /// Returns the id table, in the id type of the bus.
    fn ids(&self) -> &[B::Id] {
        &[]
    }

    /// Takes the device into service. What it acquires it gives to [`Bound::manage`], to be dropped in reverse order
    /// when the driver leaves or this fails. DMA is allowed already.
    ///
    /// # Errors
    /// A failure lets the core try the next driver that matches; [`ProbeError::Deferred`] lets it come back. Unwinding
    /// counts as a failure, and goes on to the caller of the core.
    fn probe(&self, dev: &mut BoundTo<'_, B, Self::Dma>) -> Result<(), ProbeError>;

    /// Lets the device go; cannot refuse.
    ///
    /// A driver whose device is held open asks its user to close it and answers [`Removal::Waiting`]; the core calls
    /// again once the user has left, or to ask again. `attempt` counts these calls from 0. After [`Removal::Done`] the
    /// right to DMA ends first, then what the probe acquired is dropped. Unwinding counts as [`Removal::Done`].
    ///
    /// A driver that a hundred times in a row waits for users of whom none is inside is let go as if it were done.
    fn remove(&self, dev: &mut BoundTo<'_, B, Self::Dma>, attempt: u32) -> Removal {
        let _ = (dev, attempt);
        Removal::Done
    }
}

/// A driver whose kind of DMA is known at run time only: what a bus keeps.
///
/// Implemented for every [`Driver`], whose callbacks get just the right to DMA that they have. Implement it directly for
/// a driver that learns only at run time how it does DMA.
pub trait AnyDriver<B: Bus>: Send + Sync + 'static {
    /// Returns the name.
    fn name(&self) -> &Arc<str>;

    /// Returns the id table.
    fn ids(&self) -> &[B::Id];

    /// Returns whether the driver manages its own DMA.
    fn driver_managed_dma(&self) -> bool;

    /// Calls [`Driver::probe`].
    ///
    /// # Errors
    /// Those of the driver.
    fn probe(&self, dev: &mut Bound<'_, B>) -> Result<(), ProbeError>;

    /// Calls [`Driver::remove`].
    fn remove(&self, dev: &mut Bound<'_, B>, attempt: u32) -> Removal;
}

impl<B: Bus, D: Driver<B>> AnyDriver<B> for D {
    fn name(&self) -> &Arc<str> {
        Driver::name(self)
    }

    fn ids(&self) -> &[B::Id] {
        Driver::ids(self)
    }

    fn driver_managed_dma(&self) -> bool {
        D::Dma::DRIVER_MANAGED_DMA
    }

    fn probe(&self, dev: &mut Bound<'_, B>) -> Result<(), ProbeError> {
        match dev.with_right(D::Dma::right) {
            Some(mut dev) => Driver::probe(self, &mut dev),
            // The core has just made the right by `driver_managed_dma`, so this is the right's own kind.
            None => Err(ProbeError::errno_only(Errno::EINVAL)),
        }
    }

    fn remove(&self, dev: &mut Bound<'_, B>, attempt: u32) -> Removal {
        dev.with_right(D::Dma::right).map_or(Removal::Done, |mut dev| Driver::remove(self, &mut dev, attempt))
    }
}

impl<B: Bus> fmt::Debug for dyn AnyDriver<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Driver({:?})", self.name())
    }
}

/// Keeps `DmaRight` in the signature of the erased callbacks.
pub(crate) type AnyRight<B> = DmaRight<UseOf<B>>;

/// How far a driver has come with letting a device go.
#[derive(Debug)]
pub enum Removal {
    /// It has let go.
    Done,
    /// It waits for these users, whom it has asked to leave. No new ones are admitted.
    Waiting(Arc<Users>),
}

/// Why a driver did not take a device.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProbeError {
    /// Something that it needs is not there yet.
    #[error("deferred until {0}")]
    Deferred(Awaits),
    /// It failed.
    #[error("{errno}")]
    Failed {
        /// The number that Linux gives to whoever bound through sysfs.
        errno: Errno,
        /// What is behind it.
        #[source]
        cause: Option<Arc<dyn core::error::Error + Send + Sync>>,
    },
}

impl ProbeError {
    /// Makes a failure of which only the number is known.
    pub const fn errno_only(errno: Errno) -> Self {
        Self::Failed { errno, cause: None }
    }

    /// Makes a failure with the error behind it.
    pub fn caused_by(errno: Errno, cause: impl core::error::Error + Send + Sync + 'static) -> Self {
        Self::Failed { errno, cause: Some(Arc::new(cause)) }
    }

    /// Returns the number of Linux: `EPROBE_DEFER` for a deferral.
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
    /// Not known: the probe is repeated whenever any device binds.
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
