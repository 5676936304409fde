//! Lives of a machine under VFIO with mappings: hardware and pins fail, threads meet. Whatever happens, no mapping outlives
//! its container, no pin and no claim is left.
#![cfg(not(shuttle))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "what a test takes for granted may fail it"
)]

mod properties;
#[path = "../rig/mod.rs"]
mod rig;
mod stress;
mod sweep;
