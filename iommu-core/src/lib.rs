#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub use device_model;

pub mod address;
mod claim;
mod default_domain;
mod domain;
mod driver_domain;
pub mod error;
pub mod failing;
mod group;
pub mod grouping;
pub mod hardware;
pub mod iova_map;
mod kernel_use;
mod mapping;
mod member;
mod observer;
mod ownership;
pub mod placement;
mod registry;
pub mod reserved;
pub mod software;
mod switch;
#[cfg(feature = "std")]
pub mod sysfs;
pub mod user_memory;

pub use address::{Access, Iova, IovaRange, PhysAddr, Protection, UserAddr};
pub use claim::Claim;
pub use default_domain::{TypeRequest, UnknownType};
pub use domain::Domain;
pub use driver_domain::{DriverDomain, PasidAttachment};
pub use error::{AttachError, ClaimError, UseError};
pub use group::{Attached, Group, GroupId, MemberState};
pub use hardware::{DefaultDomainType, DomainKind};
pub use iova_map::IovaMap;
pub use kernel_use::KernelUse;
pub use mapping::{MapError, UnmapBatch};
pub use member::Member;
pub use observer::{Observer, Transition};
pub use ownership::{Owner, Ownership};
pub use registry::{Iommu, IommuBuilder};
pub use user_memory::UserMemory;
