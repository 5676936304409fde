//! What a driver acquires for a device, and what becomes of it when the driver leaves.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use core::ops::Deref;

use crate::bound::Bound;
use crate::bus::Bus;
use crate::sync::{UserGuard, Users};

/// Resources of one binding, in the order in which they were acquired.
#[derive(Default)]
pub(crate) struct Resources(Vec<Box<dyn Any + Send>>);

impl Resources {
    pub(crate) fn push(&mut self, resource: impl Any + Send) {
        self.0.push(Box::new(resource));
    }

    pub(crate) fn push_revocable<T: Any + Send + Sync>(&mut self, resource: T) -> Revocable<T> {
        let (value, users) = (Arc::new(resource), Arc::new(Users::new()));
        let handle = Revocable { value: Arc::downgrade(&value), users: users.clone() };
        self.push(Managed { value, users });
        handle
    }

    pub(crate) fn get<T: Any>(&self) -> Option<&T> {
        self.0.iter().rev().find_map(|resource| resource.downcast_ref())
    }

    pub(crate) fn get_mut<T: Any>(&mut self) -> Option<&mut T> {
        self.0.iter_mut().rev().find_map(|resource| resource.downcast_mut())
    }

    fn managed<T: Any + Send + Sync>(&self, value: &Weak<T>) -> Option<&T> {
        let all = self.0.iter().filter_map(|resource| resource.downcast_ref::<Managed<T>>());
        all.map(|managed| &managed.value).find(|own| core::ptr::eq(Arc::as_ptr(own), value.as_ptr())).map(|own| &**own)
    }

    /// Drops them, last to first; all of them, even if one unwinds.
    pub(crate) fn release(&mut self) {
        self.0.reverse();
        self.0.clear();
    }
}

/// A resource that is revoked when it is dropped.
struct Managed<T> {
    value: Arc<T>,
    users: Arc<Users>,
}

impl<T> Drop for Managed<T> {
    fn drop(&mut self) {
        self.users.close();
        self.users.wait();
    }
}

/// A resource of a bound device, for those who are no callbacks of its driver. Clones are the same resource.
///
/// When the driver leaves, accesses under way come to their end, then the resource is dropped, and only then is the
/// unbinding complete. From then on the handle reaches nothing.
///
/// ```
/// # use device_model::platform::{PlatformBus, PlatformDevice};
/// # use device_model::{BoundTo, DeviceSpec, DmaApi, Driver, DriverCore, ProbeError, Revocable, Unprotected};
/// # use std::sync::{Arc, Mutex};
/// type Platform = PlatformBus<Unprotected>;
/// struct Uart(Arc<str>, Mutex<Option<Revocable<[u8; 8]>>>);
///
/// impl Driver<Platform> for Uart {
///     type Dma = DmaApi;
///     fn name(&self) -> &Arc<str> {
///         &self.0
///     }
///     fn probe(&self, dev: &mut BoundTo<'_, Platform, DmaApi>) -> Result<(), ProbeError> {
///         let registers = dev.manage_revocable([0x60; 8]);
///         assert_eq!(registers.get(dev), Some(&[0x60; 8])); // a callback needs no guard
///         *self.1.lock().unwrap() = Some(registers);
///         Ok(())
///     }
/// }
///
/// let bus = DriverCore::new().add_bus(PlatformBus::new(Unprotected));
/// let uart = Arc::new(Uart("uart".into(), Mutex::default()));
/// let driver = bus.add_driver(uart.clone())?;
/// let dev = bus.add_device(DeviceSpec::new("uart.0", PlatformDevice::default()))?;
///
/// let registers = uart.1.lock().unwrap().clone().unwrap();
/// assert_eq!(registers.try_access().unwrap()[0], 0x60);
/// bus.unbind(&driver, &dev)?.wait();
/// assert!(registers.try_access().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Revocable<T> {
    value: Weak<T>,
    users: Arc<Users>,
}

impl<T: Any + Send + Sync> Revocable<T> {
    /// Returns access for a moment, or `None` when the resource has been revoked. The unbinding waits for the returned
    /// guard with the device's lock held: do not take that lock, or wait for anything, while you hold it.
    pub fn try_access(&self) -> Option<Access<'_, T>> {
        let user = self.users.enter()?;
        Some(Access { value: self.value.upgrade()?, _user: user, _handle: self })
    }

    /// Returns the resource to a callback of the driver, which needs no guard. `None` if it is another device's.
    pub fn get<'a, B: Bus, R>(&self, dev: &'a Bound<'_, B, R>) -> Option<&'a T> {
        dev.resources().managed(&self.value)
    }
}

impl<T> Clone for Revocable<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), users: self.users.clone() }
    }
}

impl<T> fmt::Debug for Revocable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revocable")
    }
}

/// Access to a [`Revocable`] resource.
#[must_use = "access ends when it is dropped"]
pub struct Access<'a, T> {
    /// Dropped before the user leaves, so that the resource itself is dropped by whoever revokes it.
    value: Arc<T>,
    _user: UserGuard,
    _handle: &'a Revocable<T>,
}

impl<T> Deref for Access<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Access<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
