#![doc = include_str!("../README.md")]
#![cfg_attr(not(shuttle), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod context;

pub use context::{BoundDevice, Context};
pub use iommu_core;
