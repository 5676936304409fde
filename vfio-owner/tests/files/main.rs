//! The machine as files.
#![cfg(all(feature = "testbed", not(shuttle)))]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what a test takes for granted may fail it"
)]

mod properties;
mod recorded;
mod rig;
mod sysfs;
mod threads;
