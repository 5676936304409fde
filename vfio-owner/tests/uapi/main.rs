//! The uAPI by number and bytes.
#![cfg(not(shuttle))]

mod answers;
mod events;
mod fuzz;
mod no_iommu;
mod numbers;
mod other_drivers;
mod rig;
