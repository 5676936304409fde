#![doc = include_str!("../README.md")]
#![cfg_attr(not(shuttle), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod access;
pub mod compat;
mod context;
mod device;
pub mod error;
mod hwpt;
mod io_page_table;
mod ioas;
mod object;
mod pages;

pub use access::{AccessPins, IoasAccess, UnmapNotice};
pub use context::{Context, IovaRanges};
pub use device::BoundDevice;
pub use io_page_table::LargePages;
pub use ioas::{CopyRequest, MapRequest, Place};
pub use iommu_core;
pub use object::ObjectId;
