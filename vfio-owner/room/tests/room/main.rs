//! Rooms with a machine in them, and what programs find there.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod calls;
mod client;
mod decoy;
mod many;
mod memory;
mod opened;
mod processes;
mod programs;
mod rig;
mod rust_vmm;
mod setup;
mod signals;
mod waiting;
