//! What an iommufd answers: rows of the facts' tables, random lives against a plain reference, failing hardware and pins.
#![cfg(not(shuttle))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "what a test takes for granted may fail it"
)]

mod accesses;
mod bytes;
mod compat;
mod devices;
mod embedder;
mod exact;
mod faults;
mod hwpts;
mod ioas;
mod memory;
mod properties;
mod rig;
mod space;
mod sweep;
#[cfg(feature = "uapi")]
mod uapi;
mod unwinding;
