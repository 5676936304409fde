// The page's example needs the testbed.
#![cfg_attr(feature = "testbed", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "testbed"),
    doc = "VFIO: groups, containers, device files. All features bring the whole page."
)]
#![cfg_attr(not(shuttle), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(all(feature = "std", not(shuttle)))]
extern crate std;

pub mod assignment;
pub mod backend;
mod container;
mod device;
#[cfg(feature = "iommufd")]
mod device_file;
pub mod device_ops;
pub mod error;
mod group;
mod group_file;
mod isolation;
mod open_device;
mod sparse;
#[cfg(feature = "testbed")]
pub mod testbed;
pub mod type1;
#[cfg(feature = "uapi")]
pub mod uapi;
mod vfio;
pub mod vfio_pci;
pub mod viability;

pub use container::Container;
pub use device::DeviceSetId;
#[cfg(feature = "iommufd")]
pub use device_file::{BoundDeviceFile, DeviceFile};
pub use device_ops::DeviceOps;
pub use group_file::{GroupFile, GroupStatus};
pub use iommu_core;
#[cfg(feature = "iommufd")]
pub use iommufd_owner;
pub use isolation::NoIommuMode;
pub use open_device::{AffectedOwner, HotResetInfo, HotResetProof, OpenDevice};
pub use vfio::{DeviceNode, GroupNode, Registration, Vfio};
