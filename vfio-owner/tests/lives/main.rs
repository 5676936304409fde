//! Lives of a machine under VFIO with mappings: hardware and pins fail, threads meet. Whatever happens, no mapping outlives
//! its container, no pin and no claim is left.
#![cfg(all(feature = "testbed", not(shuttle)))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what a test takes for granted may fail it"
)]

mod assignment;
mod properties;
#[path = "../rig/mod.rs"]
mod rig;
mod stress;
mod sweep;
