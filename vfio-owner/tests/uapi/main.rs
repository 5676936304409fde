//! The uAPI by number and bytes.
#![cfg(all(feature = "testbed", not(shuttle)))]
#![expect(clippy::unwrap_used, reason = "what a test takes for granted may fail it")]

mod answers;
mod events;
mod fuzz;
#[cfg(feature = "iommufd-test")]
mod iommufd_test;
mod no_iommu;
mod numbers;
mod other_drivers;
mod rig;
