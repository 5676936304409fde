#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub use device_model;

pub mod address;
pub mod failing;
pub mod hardware;
pub mod reserved;
pub mod software;
