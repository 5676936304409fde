//! The driver core as its user sees it: each test plays a scene and compares the whole trace of events.
#![cfg(not(shuttle))]
#![expect(clippy::expect_used, reason = "a broken expectation is how a test fails")]

#[cfg(not(feature = "std"))]
dma_locks::provide!(dma_locks::Spinning);

mod deferral;
mod drivers;
mod hotplug;
mod matching;
mod platform;
mod rig;
mod sequence;
mod strangers;
mod sysfs;
mod waiting;
