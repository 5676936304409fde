#![doc = include_str!("../README.md")]
#![cfg_attr(not(shuttle), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(all(any(feature = "std", test), not(shuttle)))]
extern crate std;

#[cfg(all(test, not(feature = "std"), not(shuttle)))]
dma_locks::provide!(dma_locks::Spinning);

mod any_device;
mod binding;
mod bound;
mod bus;
mod bus_handle;
mod deferred;
mod device;
mod device_id;
pub mod dma;
mod driver;
mod driver_core;
mod driver_override;
mod erased;
pub mod errno;
mod notifier;
pub mod pci;
pub mod platform;
mod registration;
mod registry;
mod resources;
pub mod sync;
mod sysfs;
mod unbind;

pub use any_device::AnyDevice;
pub use binding::{ProbeFailure, SearchError};
pub use bound::Bound;
pub use bus::{Bus, DmaErrorOf, Match, SlotOf, UseOf};
pub use bus_handle::{AddDeviceError, AddDriverError, BindError, BusHandle, UnbindError, WeakBusHandle};
pub use deferred::ProbeHold;
pub use device::{Device, DeviceGuard, DeviceSpec};
pub use device_id::DeviceId;
pub use dma::{DmaApi, DmaConfigure, DmaDevice, DmaError, DmaRight, DriverDma, DriverManaged, Unguarded, Unprotected};
pub use driver::{AnyDriver, Awaits, BoundTo, Driver, ProbeError, Removal};
pub use driver_core::{DriverCore, Repeats};
pub use driver_override::{Override, OverrideTooLong};
pub use errno::Errno;
pub use notifier::{BusEvent, Notifier, Subscription};
pub use registration::DriverHandle;
pub use resources::{Access, Revocable};
pub use sysfs::{DriversProbeError, Sysfs, SysfsBindError, SysfsUnbindError};
pub use unbind::{Progress, Unbind};
