#![doc = include_str!("../README.md")]
#![cfg_attr(not(shuttle), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod access;
mod attachment;
pub mod compat;
mod context;
mod device;
mod dirty;
mod embedder;
mod fault_queue;
mod hwpt;
mod invalidate;
mod io_page_table;
mod ioas;
mod object;
mod object_id;
mod object_table;
mod pages;
#[cfg(feature = "uapi")]
pub mod uapi;

pub use access::{AccessError, AccessPins, IoasAccess, UnmapNotice};
pub use attachment::AttachError;
pub use context::Context;
pub use device::{BindError, BoundDevice};
pub use dirty::DirtyError;
pub use embedder::NewObject;
pub use fault_queue::{FaultQueue, MAX_REQUESTS, NoRoomError, PageFault, UnknownCookieError};
pub use hwpt::{HwInfo, HwptError, HwptRequest};
pub use invalidate::{InvalidateCause, InvalidateError, Invalidations};
pub use io_page_table::{AddDomainError, LargePages, MapError, RangeError, UnmapError};
pub use ioas::{CopyRequest, IoasError, IovaRanges, Place};
pub use iommu_core;
pub use iommu_core::{DirtyRequest, Extension, MapRequest};
pub use object::ObjectType;
pub use object_id::{NoIdsError, NoObjectError, ObjectId};
pub use object_table::DestroyError;
pub use pages::PinError;
