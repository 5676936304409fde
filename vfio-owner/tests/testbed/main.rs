//! The testbed itself: what a machine is built of, and the machines that come along.
#![cfg(all(feature = "testbed", not(shuttle)))]
#![expect(clippy::unwrap_used, reason = "what a test takes for granted may fail it")]

mod builder;
mod embedded;
mod nvme;
mod virtio_net;
