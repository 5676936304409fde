//! The driver that alone may match a device.

use alloc::sync::Arc;

use crate::bus::Bus;
use crate::device::Device;
use crate::errno::Errno;

impl<B: Bus> Device<B> {
    /// Returns the driver that alone may match, if one is set.
    pub fn driver_override(&self) -> Option<Arc<str>> {
        self.driver_override.lock().clone()
    }

    /// Lets only the driver of this name match, or every driver again. Binds and unbinds nothing.
    pub fn set_driver_override(&self, driver: Option<&str>) {
        let name = driver.map(Arc::from);
        let before = core::mem::replace(&mut *self.driver_override.lock(), name);
        drop(before);
    }

    /// Sets the override to the text that is written to sysfs: up to the first newline; nothing clears.
    ///
    /// # Errors
    /// The text is a page long or longer.
    pub fn write_driver_override(&self, text: &str) -> Result<(), OverrideTooLong> {
        const PAGE_SIZE: usize = 4096;
        // D17.
        if text.len() >= PAGE_SIZE - 1 {
            return Err(OverrideTooLong { length: text.len() });
        }
        let name = text.split('\n').next().unwrap_or_default();
        self.set_driver_override(Some(name).filter(|name| !name.is_empty()));
        Ok(())
    }

    /// Returns what the override says of a driver of this name. Takes a leaf lock.
    pub fn override_verdict(&self, driver: &str) -> Override {
        match self.driver_override.lock().as_deref() {
            None => Override::Unset,
            Some(name) if name == driver => Override::Demands,
            Some(_) => Override::Excludes,
        }
    }
}

/// What `driver_override` says of one driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Override {
    /// Nothing: the bus matches by ids.
    Unset,
    /// This driver, whatever its ids.
    Demands,
    /// Another driver.
    Excludes,
}

/// A text for `driver_override` is longer than a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a driver_override of {length} bytes is longer than a page")]
pub struct OverrideTooLong {
    /// Length of the text in bytes.
    pub length: usize,
}

impl OverrideTooLong {
    /// Returns `EINVAL`.
    pub const fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}
