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
pub mod error;
mod fault_queue;
mod hwpt;
mod invalidate;
mod io_page_table;
mod ioas;
mod object;
mod pages;

pub use access::{AccessPins, IoasAccess, UnmapNotice};
pub use context::{Context, IovaRanges};
pub use device::BoundDevice;
pub use dirty::DirtyRequest;
pub use fault_queue::{FaultQueue, PageFault};
pub use hwpt::{HwInfo, HwptRequest};
pub use invalidate::Invalidations;
pub use io_page_table::LargePages;
pub use ioas::{CopyRequest, MapRequest, Place};
pub use iommu_core;
pub use object::{ObjectId, ObjectType};
