#![doc = include_str!("../README.md")]
#![cfg_attr(not(shuttle), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(all(feature = "std", not(shuttle)))]
extern crate std;

pub mod backend;
mod device_ops;
pub mod error;
mod group;
#[cfg(feature = "testbed")]
pub mod testbed;

pub use device_ops::DeviceOps;
pub use group::VfioGroup;
pub use iommu_core;
#[cfg(feature = "iommufd")]
pub use iommufd_owner;
