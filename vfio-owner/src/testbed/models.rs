//! Devices that real drivers drive.
//!
//! Each is a [`FunctionModel`](crate::vfio_pci::FunctionModel), which
//! [`MachineBuilder::model`](super::MachineBuilder::model) puts behind the regions of a function. It does DMA through the
//! machine's IOMMU, and raises interrupts that reach whoever has the function open through vfio-pci.

mod edu;
pub mod nvme;
mod virtio_net;
mod wire;

pub use edu::Edu;
pub use virtio_net::VirtioNet;
pub use wire::{Station, Wire};
