#![doc = include_str!("../README.md")]
#![no_std]
#![warn(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc)]

#[cfg(feature = "one-cpu")]
extern crate std;

mod condvar;
mod mutex;
#[cfg(feature = "one-cpu")]
pub mod one_cpu;
mod provided;
mod spin_mutex;
mod spinning;

pub use condvar::Condvar;
pub use mutex::RawMutex;
pub use provided::Locks;
pub use spin_mutex::RawSpinMutex;
pub use spinning::Spinning;
