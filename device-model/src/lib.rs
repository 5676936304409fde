#![doc = include_str!("../README.md")]
#![cfg_attr(not(shuttle), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(all(feature = "std", not(shuttle)))]
extern crate std;

mod device_id;
pub mod errno;
pub mod pci;
pub mod sync;

pub use device_id::DeviceId;
pub use errno::Errno;
