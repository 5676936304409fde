#![doc = include_str!("../README.md")]
#![cfg_attr(not(shuttle), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(all(feature = "std", not(shuttle)))]
extern crate std;

#[cfg(all(test, not(feature = "std"), not(shuttle)))]
dma_locks::provide!(dma_locks::Spinning);

mod binding;
mod bus;
mod by_hand;
mod deferred;
mod device;
mod device_id;
pub mod dma;
mod driver;
pub mod errno;
mod notifier;
pub mod pci;
pub mod platform;
mod registry;
pub mod sync;
mod unbind;

pub use binding::ProbeFailure;
pub use bus::{Bus, Match};
pub use by_hand::{AttachError, BindError, DriversProbeError, UnbindError};
pub use deferred::ProbeHold;
pub use device::{Device, DeviceGuard, DeviceSpec, Override, OverrideTooLong};
pub use device_id::DeviceId;
pub use dma::{DmaConfigure, DmaUse, Unprotected};
pub use driver::{Awaits, DmaApi, Driver, ProbeError, Removal};
pub use errno::Errno;
pub use notifier::{BusEvent, Notifier};
pub use registry::{AddDeviceError, AddDriverError, Autoprobe, BusHandle, DriverCore};
pub use unbind::{Progress, Unbind};
