//! Where a plan is carried out: something that knows which driver each device is on, and can change it.

use std::fmt;

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::device_model::pci::PciAddress;

/// What a device is bound to, and what it may be bound to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Binding {
    /// The driver that it is on.
    pub driver: Option<String>,
    /// The only driver that may bind to it (D16).
    pub driver_override: Option<String>,
}

/// The devices and drivers of a machine: the running kernel's, those of a tree on disk, or those of the model.
pub trait Bindings {
    /// What a device is bound to.
    ///
    /// # Errors
    /// There is no such device, or it cannot be read.
    fn binding(&self, device: PciAddress) -> Result<Binding, BindingError>;

    /// Sees to it that a driver is there.
    ///
    /// # Errors
    /// It is not, and cannot be loaded.
    fn load(&self, driver: &str) -> Result<(), BindingError>;

    /// Writes the device's `driver_override`, or clears it.
    ///
    /// # Errors
    /// It cannot be written.
    fn set_override(&self, device: PciAddress, driver: Option<&str>) -> Result<(), BindingError>;

    /// Takes the device from the driver that it is on.
    ///
    /// # Errors
    /// It is not on that driver, or is in use.
    fn unbind(&self, device: PciAddress, driver: &str) -> Result<(), BindingError>;

    /// Gives the device to a driver.
    ///
    /// # Errors
    /// The driver is not there, or does not take it.
    fn bind(&self, device: PciAddress, driver: &str) -> Result<(), BindingError>;
}

/// A binding could not be read or changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{at}: {reason}")]
pub struct BindingError {
    /// Which file or device.
    pub at: String,
    /// Why.
    pub reason: String,
}

impl BindingError {
    pub(super) fn new(at: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self { at: format!("{at}"), reason: format!("{reason}") }
    }
}
