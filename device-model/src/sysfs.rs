//! The files of a bus in sysfs: binding by name.

use alloc::sync::Arc;

use crate::binding::SearchError;
use crate::bus::{Bus, DmaErrorOf};
use crate::bus_handle::{BindError, BusHandle};
use crate::dma::DmaError;
use crate::errno::Errno;
use crate::unbind::Unbind;

/// What writes to the files `bind`, `unbind` and `drivers_probe` of a bus do; from [`BusHandle::sysfs`].
///
/// Devices and drivers are looked up by their names, which locks the bus's lists; whoever binds often keeps handles.
#[derive(Debug)]
pub struct Sysfs<'a, B: Bus>(&'a BusHandle<B>);

impl<B: Bus> BusHandle<B> {
    /// Returns the bus as sysfs shows it.
    pub fn sysfs(&self) -> Sysfs<'_, B> {
        Sysfs(self)
    }
}

impl<B: Bus> Sysfs<'_, B> {
    /// Binds the driver of this name to the device of this name; see [`BusHandle::bind`].
    ///
    /// # Errors
    /// The device is as it was.
    pub fn bind(&self, driver: &str, device: &str) -> Result<(), SysfsBindError<DmaErrorOf<B>>> {
        // Opening the file comes before writing to it.
        let driver = self.0.driver(driver).ok_or_else(|| SysfsBindError::NoDriver { driver: driver.into() })?;
        let dev = self.0.device(device).ok_or_else(|| SysfsBindError::NoDevice { device: device.into() })?;
        self.0.bind(&driver, &dev).map_err(SysfsBindError::Bind)
    }

    /// Unbinds the driver of this name from the device of this name. Nothing happens until the returned value is driven.
    ///
    /// # Errors
    /// No such device, or another driver or none is bound.
    pub fn unbind(&self, driver: &str, device: &str) -> Result<Unbind, SysfsUnbindError> {
        let dev = self.0.device(device).ok_or_else(|| SysfsUnbindError::NoDevice { device: device.into() })?;
        let unbind = self.0.driver(driver).and_then(|driver| self.0.unbind(&driver, &dev).ok());
        unbind.ok_or_else(|| SysfsUnbindError::NotBound { device: device.into(), driver: driver.into() })
    }

    /// Looks for a driver for the device of this name; see [`BusHandle::drivers_probe`].
    ///
    /// # Errors
    /// No such device, or the core refused a driver that matches.
    pub fn drivers_probe(&self, device: &str) -> Result<(), DriversProbeError<DmaErrorOf<B>>> {
        let dev = self.0.device(device).ok_or_else(|| DriversProbeError::NoDevice { device: device.into() })?;
        self.0.drivers_probe(&dev).map_err(|cause| DriversProbeError::Refused { device: dev.name().clone(), cause })
    }
}

/// Why a write to `bind` failed; `E` is why DMA was refused.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SysfsBindError<E: DmaError> {
    /// No driver of that name is registered on the bus: in sysfs its folder is not there.
    #[error("no driver {driver} on this bus")]
    NoDriver {
        /// The name.
        driver: Arc<str>,
    },
    /// No device of that name is on the bus.
    #[error("no device {device} on this bus")]
    NoDevice {
        /// The name.
        device: Arc<str>,
    },
    /// The driver was not bound.
    #[error(transparent)]
    Bind(BindError<E>),
}

impl<E: DmaError> SysfsBindError<E> {
    /// Returns the number that the write gives; `ENOENT` is that of opening a file that is not there.
    pub fn errno(&self) -> Errno {
        // Dt9.
        match self {
            Self::NoDriver { .. } => Errno::ENOENT,
            Self::NoDevice { .. } => Errno::ENODEV,
            Self::Bind(error) => error.errno(),
        }
    }
}

/// Why a write to `unbind` failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SysfsUnbindError {
    /// No device of that name is on the bus.
    #[error("no device {device} on this bus")]
    NoDevice {
        /// The name.
        device: Arc<str>,
    },
    /// That driver is not bound to the device.
    #[error("{device} is not bound to {driver}")]
    NotBound {
        /// The device.
        device: Arc<str>,
        /// The driver.
        driver: Arc<str>,
    },
}

impl SysfsUnbindError {
    /// Returns `ENODEV`.
    pub const fn errno(&self) -> Errno {
        // Dt10.
        Errno::ENODEV
    }
}

/// Why a write to `drivers_probe` failed; `E` is why DMA was refused.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriversProbeError<E: DmaError> {
    /// No device of that name is on the bus.
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
        cause: SearchError<E>,
    },
}

impl<E: DmaError> DriversProbeError<E> {
    /// Returns the number that the write gives: it flattens every refusal to `EINVAL`.
    pub const fn errno(&self) -> Errno {
        // Dt11.
        match self {
            Self::NoDevice { .. } => Errno::ENODEV,
            Self::Refused { .. } => Errno::EINVAL,
        }
    }
}
