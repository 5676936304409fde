//! An IOMMU in software: real page tables, real translation, and a memory to see what a device reached.
//!
//! A [`SoftIommu`] is an [`IommuDriver`](crate::hardware::IommuDriver) like any other. A [`SimulatedDevice`] is the
//! bus-master side of a device: its reads and writes go through the IOMMU to a [`Memory`], or end in a
//! [`Fault`](crate::hardware::Fault). Each device caches the translations that it used last until they are flushed; with
//! [`SoftIommuConfig::iotlb`] none is ever evicted, so that a missing flush always shows.
//!
//! ```
//! use std::sync::Arc;
//!
//! use iommu_core::device_model::DeviceId;
//! use iommu_core::hardware::{Endpoint, FaultReason, IommuDriver};
//! use iommu_core::software::{Memory, SimulatedDevice, SoftIommu, SoftIommuConfig};
//! use iommu_core::{Access, IommuSubsystem, Iova, Owner, PhysAddr, generic_device_group};
//!
//! let hardware = SoftIommu::new("dmar0", SoftIommuConfig::default());
//! let driver: Arc<dyn IommuDriver> = hardware.clone();
//! let placement = move |_: &Endpoint| Some(generic_device_group(&driver));
//! let (subsystem, physical_memory) = IommuSubsystem::builder(placement).build();
//! let nic = Endpoint::new(DeviceId::new(1), "0000:01:00.0");
//! let member = subsystem.add_device(&nic)?.expect("its IOMMU serves it");
//!
//! let claim = member.claim(&Owner::new("vm"))?;
//! let domain = claim.group().allocate_paging()?;
//! domain.map(&physical_memory, Iova::new(0x10_0000), PhysAddr::new(0x8000), 0x1000, Access::Write)?;
//! claim.attach(&domain)?;
//!
//! let memory = Memory::new();
//! let device = SimulatedDevice::new(nic, hardware, memory.clone());
//! device.write(Iova::new(0x10_0010), b"packet")?;
//! assert_eq!(&memory.bytes::<6>(PhysAddr::new(0x8010)), b"packet");
//! let fault = device.read(Iova::new(0x10_0010), &mut [0; 6]).unwrap_err();
//! assert_eq!(fault.reason, FaultReason::NotPermitted);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Locks
//! All of them spin, and are taken inside every lock of the core, in this order: one lock of the context table (it has many,
//! picked by the device's number, so that devices seldom share one), for a nested domain that of its cache, the lock of a
//! domain's page tables, the lock of the [`Memory`]. DMA holds the first two or three while it touches memory, a page at a
//! time. A flush takes the first for each device that may have cached something. So when an attach, a block, a release or a
//! flush returns, no access under the old state is still on its way. The fault log's lock is taken alone.

mod config;
mod context;
mod device;
mod device_tlb;
mod domain;
mod fault;
mod iommu;
mod memory;
pub mod nested;
mod numbered_memory;
mod page_request;
pub mod page_table;
mod process;
mod testbed;
#[cfg(test)]
pub(crate) mod testing;
mod tlb;
mod transfer;
mod unit;

pub use config::SoftIommuConfig;
pub use context::Requester;
pub use device::SimulatedDevice;
pub use fault::FAULT_LOG_CAPACITY;
pub use iommu::SoftIommu;
pub use memory::{Contents, Memory, Window};
use nested::STAGE_1_FORMAT;
pub use numbered_memory::NumberedMemory;
pub use page_request::AnsweredRequest;
pub use process::{LockedPages, Process};
pub use testbed::{TestBus, Testbed, TestbedBuilder, left_behind, picture};
