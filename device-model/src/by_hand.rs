//! Binding by hand: what a write to `bind`, `unbind` and `drivers_probe` of sysfs does.

use alloc::sync::Arc;

use crate::binding::{self, ProbeFailure};
use crate::bus::Match;
use crate::deferred::InFlight;
use crate::driver::Awaits;
use crate::errno::Errno;
use crate::registry::BusHandle;
use crate::unbind::Unbind;

impl BusHandle {
    /// Binds `driver` to `device`, if the driver matches. Neither autoprobe nor an earlier deferral hinders it, and a
    /// deferral is not repeated later (D30, D48). Waits for the device lock.
    ///
    /// # Errors
    /// Table Dt9; the device is as it was.
    pub fn bind(&self, driver: &str, device: &str) -> Result<(), BindError> {
        let bus = &self.0;
        let entry = bus.driver(driver).ok_or_else(|| BindError::NoDriver { driver: driver.into() })?;
        let dev = bus.device(device).ok_or_else(|| BindError::NoDevice { device: device.into() })?;
        // A match that cannot tell counts as one (Dt9.3).
        if bus.bus.matches(&dev, &**entry.driver()) == Match::No {
            return Err(BindError::NoMatch { device: device.into(), driver: driver.into() });
        }
        let flight;
        let mut guard = dev.lock();
        flight = InFlight::begin(&bus.core);
        binding::probe(bus, &entry, &mut guard, &flight).map_err(|cause| BindError::Refused {
            device: device.into(),
            driver: driver.into(),
            cause,
        })
    }

    /// Unbinds `driver` from `device`. Nothing happens until the returned value is driven.
    ///
    /// # Errors
    /// Table Dt10: no such device, or another driver or none is bound.
    pub fn unbind(&self, driver: &str, device: &str) -> Result<Unbind, UnbindError> {
        let dev = self.device(device).ok_or_else(|| UnbindError::NoDevice { device: device.into() })?;
        let entry = self.0.driver(driver).filter(|_| dev.driver_field().as_deref() == Some(driver));
        match entry {
            Some(entry) => Ok(Unbind::of_binding(&dev, &entry)),
            None => Err(UnbindError::NotBound { device: device.into(), driver: driver.into() }),
        }
    }

    /// Looks for a driver for `device`, whatever autoprobe says. A device that has one, or for which none fits, is let
    /// be (Dt11). Waits for the device lock.
    ///
    /// # Errors
    /// No such device, or the core refused a driver that matches.
    pub fn drivers_probe(&self, device: &str) -> Result<(), DriversProbeError> {
        let dev = self.device(device).ok_or_else(|| DriversProbeError::NoDevice { device: device.into() })?;
        if dev.driver_field().is_some() {
            return Ok(());
        }
        binding::attach_device(&self.0, &dev)
            .map(drop)
            .map_err(|cause| DriversProbeError::Refused { device: device.into(), cause })
    }
}

/// Why a driver was not bound by hand.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// No driver of that name is registered on the bus: in sysfs its folder is not there.
    #[error("no driver {driver} on this bus")]
    NoDriver {
        /// The name.
        driver: Arc<str>,
    },
    /// No device of that name is on the bus (Dt9.1).
    #[error("no device {device} on this bus")]
    NoDevice {
        /// The name.
        device: Arc<str>,
    },
    /// The driver does not match the device (Dt9.2).
    #[error("{driver} does not match {device}")]
    NoMatch {
        /// The device.
        device: Arc<str>,
        /// The driver.
        driver: Arc<str>,
    },
    /// The driver matches, but was not bound.
    #[error("cannot bind {driver} to {device}")]
    Refused {
        /// The device.
        device: Arc<str>,
        /// The driver.
        driver: Arc<str>,
        /// Why.
        #[source]
        cause: ProbeFailure,
    },
}

impl BindError {
    /// The number that the write to `bind` gives; `ENOENT` is that of opening a file that is not there.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoDriver { .. } => Errno::ENOENT,
            Self::NoDevice { .. } | Self::NoMatch { .. } => Errno::ENODEV,
            Self::Refused { cause, .. } => cause.errno(),
        }
    }
}

/// Why nothing was unbound.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnbindError {
    /// No device of that name is on the bus (Dt10.1).
    #[error("no device {device} on this bus")]
    NoDevice {
        /// The name.
        device: Arc<str>,
    },
    /// That driver is not bound to the device (Dt10.2).
    #[error("{device} is not bound to {driver}")]
    NotBound {
        /// The device.
        device: Arc<str>,
        /// The driver.
        driver: Arc<str>,
    },
}

impl UnbindError {
    /// `ENODEV`.
    pub const fn errno(&self) -> Errno {
        Errno::ENODEV
    }
}

/// Why the search for a driver ended without looking further.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// A driver cannot tell yet whether it matches (Dt4.2).
    #[error("a match is deferred until {0}")]
    MatchDeferred(Awaits),
    /// A driver cannot tell at all whether it matches (Dt4.3).
    #[error("a match failed with {0}")]
    MatchFailed(Errno),
    /// The core refused a driver that matches (Dt4.7).
    #[error("a matching driver was refused")]
    Refused(#[source] ProbeFailure),
}

/// Why a search for a driver by hand failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriversProbeError {
    /// No device of that name is on the bus (Dt11.1).
    #[error("no device {device} on this bus")]
    NoDevice {
        /// The name.
        device: Arc<str>,
    },
    /// The search ended early.
    #[error("no driver for {device}")]
    Refused {
        /// The device.
        device: Arc<str>,
        /// Why.
        #[source]
        cause: AttachError,
    },
}

impl DriversProbeError {
    /// The number that the write to `drivers_probe` gives: it flattens every refusal to `EINVAL` (Dt11.3).
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoDevice { .. } => Errno::ENODEV,
            Self::Refused { .. } => Errno::EINVAL,
        }
    }
}
