//! Reading and changing which driver is bound to each device.

use std::fmt;

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::device_model::pci::PciAddress;

use crate::Host;

/// The driver that is bound to a device, and which may be.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Binding {
    /// The driver that is bound.
    pub driver: Option<String>,
    /// The only driver that may bind (`driver_override`).
    pub driver_override: Option<String>,
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.driver.as_deref().unwrap_or("no driver"))?;
        match &self.driver_override {
            Some(name) if self.driver.as_ref() != Some(name) => write!(f, " (driver_override {name})"),
            _ => Ok(()),
        }
    }
}

/// The devices and drivers of a machine: the running kernel, a tree on disk, or the model.
pub trait Bindings {
    /// Reads the machine as it is now, including which devices the host uses and which processes hold its groups.
    ///
    /// # Errors
    /// Fails if it cannot be read.
    fn host(&self) -> Result<Host, BindingError>;

    /// Returns the binding of a device.
    ///
    /// # Errors
    /// Fails if there is no such device, or it cannot be read.
    fn binding(&self, device: PciAddress) -> Result<Binding, BindingError>;

    /// Loads a driver, unless it is loaded.
    ///
    /// # Errors
    /// Fails if it cannot be loaded.
    fn load(&self, driver: &str) -> Result<(), BindingError>;

    /// Sets the device's `driver_override`, or clears it.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    fn set_override(&self, device: PciAddress, driver: Option<&str>) -> Result<(), BindingError>;

    /// Unbinds the device from its driver.
    ///
    /// # Errors
    /// Fails if it is not bound to that driver, or is in use.
    fn unbind(&self, device: PciAddress, driver: &str) -> Result<(), BindingError>;

    /// Binds the device to a driver.
    ///
    /// # Errors
    /// Fails if the driver is not loaded, or does not take the device.
    fn bind(&self, device: PciAddress, driver: &str) -> Result<(), BindingError>;

    /// Returns the process that still waits for the kernel to change the device: it looks as before, and may yet change.
    fn pending(&self, device: PciAddress) -> Option<u32> {
        let _ = device;
        None
    }
}

/// Why a binding could not be read or changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindingError {
    /// The change was refused, and nothing has changed.
    #[error("{at}: {reason}")]
    Refused {
        /// The file or device.
        at: String,
        /// Why.
        reason: String,
    },
    /// The kernel has not answered. The change may still be made when what it waits for is over.
    #[error(
        "{at}: the kernel has not answered for {seconds} s{}; process {writer} still waits for it",
        waits_for(holders)
    )]
    NoAnswer {
        /// The file.
        at: String,
        /// How long the call was waited for.
        seconds: u64,
        /// The process that made the call; it cannot be killed before the kernel returns.
        writer: u32,
        /// Processes that the kernel seems to wait for.
        holders: Vec<String>,
    },
}

fn waits_for(holders: &[String]) -> String {
    if holders.is_empty() { String::new() } else { format!(", and seems to wait for {}", holders.join(", ")) }
}

impl BindingError {
    pub(super) fn new(at: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::Refused { at: format!("{at}"), reason: format!("{reason}") }
    }
}
