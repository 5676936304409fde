//! type1: tables Vt14 to Vt16 and facts V44 to V51, row by row, with two IOMMUs that differ in one container.
#![cfg(all(feature = "testbed", not(shuttle)))]
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test takes for granted may fail it")]

mod attach;
mod backend;
mod dirty;
mod map;
#[path = "../rig/mod.rs"]
mod rig;
mod unmap;
mod vaddr;
