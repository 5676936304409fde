//! What VFIO's files answer, row by row of the facts' tables, on the machine `pc`.
#![cfg(all(feature = "testbed", not(shuttle)))]
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test takes for granted may fail it")]

mod callbacks;
mod close_orders;
mod container;
mod device_files;
mod every_callback;
mod group_file;
mod open_device;
mod room;
mod unbinding;
mod viability;
