//! The machine as files.
#![cfg(all(feature = "testbed", not(shuttle)))]

mod properties;
mod recorded;
mod rig;
mod sysfs;
