#![cfg_attr(feature = "software", doc = include_str!("../README.md"))]
#![cfg_attr(not(feature = "software"), doc = "IOMMU groups, domains and DMA ownership.")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

#[cfg(all(test, not(feature = "std"), not(shuttle)))]
dma_locks::provide!(dma_locks::Spinning);

pub use device_model;

pub mod address;
mod attached;
mod bus;
mod claim;
mod default_domain;
pub mod device_group;
mod dirty;
pub mod dma_api;
mod domain;
mod driver_domain;
pub mod error;
mod extension;
#[cfg(feature = "software")]
pub mod failing;
mod group;
mod group_id;
pub mod grouping;
pub mod hardware;
pub mod iova_map;
mod kernel_use;
mod mapping;
mod member;
mod observer;
mod ownership;
mod page_requests;
mod physical_memory;
mod registry;
pub mod reserved;
#[cfg(feature = "software")]
pub mod software;
mod subsystem;
#[cfg(feature = "sysfs")]
pub mod sysfs;
mod unit;
pub mod user_memory;

pub use address::{Access, Iova, IovaRange, PhysAddr, Protection, UserAddr};
pub use attached::{Attached, Reach};
pub use bus::{DmaRefusal, MemberSlot};
pub use claim::Claim;
pub use default_domain::{TypeRequest, UnknownType};
pub use device_group::{DeviceGroup, PciGroups, Placement, generic_device_group, generic_single_device_group};
pub use dirty::{DirtyBits, DirtyRequest, set_user_bits};
pub use dma_api::{Dma, DmaMapping};
pub use domain::Domain;
pub use driver_domain::{DriverDomain, PasidAttachment};
pub use error::{AttachError, ClaimError, UseError};
pub use extension::Extension;
pub use group::{Group, MemberState};
pub use group_id::GroupId;
pub use hardware::{DefaultDomainType, DomainKind};
pub use iova_map::IovaMap;
pub use kernel_use::KernelUse;
pub use mapping::{MapError, UnmapBatch};
pub use member::Member;
pub use observer::{Observer, Transition};
pub use ownership::{Owner, Ownership};
pub use page_requests::PageRequestDelivery;
pub use physical_memory::PhysicalMemory;
pub use subsystem::{IommuBuilder, IommuSubsystem};
pub use user_memory::{MapRequest, UserMemory};
