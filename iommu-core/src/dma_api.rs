//! The DMA API of the default domain: physical memory that a kernel driver lets its device reach.
//!
//! A driver that uses the DMA API holds a [`KernelUse`], which its probe gets with the bound device. From it comes [`Dma`],
//! through which memory is mapped; so DMA for an unbound device, or by a driver that manages its own
//! (`driver_managed_dma`), does not compile. What a driver has not unmapped when it is unbound is unmapped then.
//!
//! A mapping owns its memory until the device cannot reach it any more. If hardware refuses to unmap, the memory goes into
//! the [quarantine](crate::Domain::quarantine) of the domain.
//!
#![cfg_attr(feature = "software", doc = "```")]
#![cfg_attr(not(feature = "software"), doc = "```ignore")]
//! # use std::sync::Arc;
//! # use iommu_core::device_model::DeviceId;
//! # use iommu_core::hardware::Endpoint;
//! # use iommu_core::software::{Memory, SimulatedDevice, SoftIommu, SoftIommuConfig};
//! use iommu_core::dma_api::DmaDirection;
//! use iommu_core::{IommuSubsystem, KernelUse, PhysAddr, generic_device_group};
//!
//! # let hardware = SoftIommu::new("dmar0", SoftIommuConfig::default());
//! # let driver: Arc<dyn iommu_core::hardware::IommuDriver> = hardware.clone();
//! # let (subsystem, physical_memory) = IommuSubsystem::builder(move |_: &Endpoint| Some(generic_device_group(&driver))).build();
//! # let nic = Endpoint::new(DeviceId::new(1), "nic");
//! # let member = subsystem.add_device(&nic)?.unwrap();
//! # let memory = Memory::new();
//! # let device = SimulatedDevice::new(nic, hardware, memory.clone());
//! # let page = Box::new(()); // stands for memory of the kernel's allocator
//! let kernel_use: KernelUse = KernelUse::begin(member, &"e1000e".into())?; // the driver core does this before a probe
//! let dma = kernel_use.dma()?;
//! let buffer = dma.map(&physical_memory, PhysAddr::new(0x8000), 0x100, DmaDirection::FromDevice, page)?;
//!
//! device.write(buffer.iova(), b"packet")?;
//! assert_eq!(&memory.bytes::<6>(PhysAddr::new(0x8000)), b"packet");
//! let page = buffer.unmap()?; // the memory is the driver's again
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A driver that manages its own DMA holds no use:
//!
//! ```
//! use iommu_core::device_model::{Bound, platform::PlatformBus};
//! use iommu_core::{Dma, IommuSubsystem, KernelUse};
//!
//! fn probe<'b>(bound: &'b Bound<'_, PlatformBus<IommuSubsystem>, Option<KernelUse>>) -> Option<&'b Dma> {
//!     bound.dma().as_ref()?.dma().ok()
//! }
//! ```
//! ```compile_fail,E0599
//! use iommu_core::device_model::{Bound, DriverManaged, platform::PlatformBus};
//! use iommu_core::{Dma, IommuSubsystem};
//!
//! fn probe<'b>(bound: &'b Bound<'_, PlatformBus<IommuSubsystem>, DriverManaged>) -> Option<&'b Dma> {
//!     bound.dma().as_ref()?.dma().ok()
//! }
//! ```
//!
//! # Strict and lazy
//! In a strict domain ([`DomainKind::Dma`]) the device cannot reach memory any more when it is unmapped. In a lazy one
//! ([`DomainKind::DmaLazy`]) it may until the next flush, which comes when enough unmaps wait for it, when the driver is
//! unbound, or when somebody calls [`Dma::flush`], a timer perhaps. Addresses are not reused before.

use alloc::sync::Arc;
use core::any::Any;
use core::fmt;

use device_model::Errno;
use device_model::sync::{LockClass, SpinMutex};
use slab::Slab;

use crate::address::{Access, Iova, IovaRange, PhysAddr, Protection};
use crate::domain::Domain;
use crate::hardware::{DomainKind, HardwareError};
use crate::kernel_use::KernelUse;
use crate::mapping::MapError;
use crate::physical_memory::PhysicalMemory;

mod space;

pub(crate) use self::space::DmaSpace;
use self::space::reachable;

const MAPPINGS: LockClass = LockClass::new("DMA mappings of a device", 840);

/// Which way data goes through a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DmaDirection {
    /// The device reads memory.
    ToDevice,
    /// The device writes memory.
    FromDevice,
    /// Both.
    Bidirectional,
}

impl From<DmaDirection> for Protection {
    fn from(direction: DmaDirection) -> Self {
        Self::from(match direction {
            DmaDirection::ToDevice => Access::Read,
            DmaDirection::FromDevice => Access::Write,
            DmaDirection::Bidirectional => Access::ReadWrite,
        })
    }
}

/// Lets a driver map memory for its device. It lives as long as the [`KernelUse`], from which it comes.
#[derive(Debug)]
pub struct Dma(Arc<DeviceDma>);

/// The mappings of one device, for as long as a driver uses it.
#[derive(Debug)]
struct DeviceDma {
    domain: Arc<Domain>,
    mappings: SpinMutex<Mappings>,
}

#[derive(Debug)]
struct Mappings {
    /// The highest address that the device can put on its bus.
    mask: u64,
    live: Slab<State>,
}

/// What has become of a mapping.
#[derive(Debug)]
enum State {
    Mapped(IovaRange),
    /// Untranslated: there is nothing to unmap.
    Direct,
    /// The driver was unbound.
    Revoked,
}

impl Dma {
    pub(crate) fn of(kernel_use: &KernelUse) -> Result<Self, DmaMapError> {
        let domain = kernel_use.member().group().default_domain().ok_or(DmaMapError::NoDefaultDomain)?;
        let mappings = Mappings { mask: u64::MAX, live: Slab::new() };
        Ok(Self(Arc::new(DeviceDma { domain, mappings: SpinMutex::of(MAPPINGS, mappings) })))
    }

    /// Sets the highest address that the device can put on its bus, such as `0xffff_ffff`. At first it is all ones. What is
    /// mapped already stays where it is.
    pub fn set_mask(&self, mask: u64) {
        self.0.mappings.lock().mask = mask;
    }

    /// Lets the device reach `bytes` bytes of physical memory at `phys`, which need not be whole pages; but whole pages are
    /// what it can reach. `memory` is whatever keeps that memory from being used otherwise. Takes spinning locks only.
    ///
    /// # Errors
    /// Nothing was mapped, and `memory` is given back; but if hardware failed so that the device may reach a part of it, it
    /// is in quarantine.
    pub fn map<M: Any + Send + Sync>(
        &self,
        right: &PhysicalMemory,
        phys: PhysAddr,
        bytes: u64,
        direction: DmaDirection,
        memory: M,
    ) -> Result<DmaMapping<M>, NotMapped<M>> {
        let guard = Quarantine { domain: &self.0.domain, memory: Some(memory) };
        match self.0.map(right, phys, bytes, direction.into()) {
            Ok((key, iova)) => Ok(DmaMapping { dma: self.0.clone(), key, iova, bytes, memory: guard.release() }),
            Err(error) if error.is_reachable() => Err(NotMapped { error, memory: None }),
            Err(error) => Err(NotMapped { error, memory: guard.release() }),
        }
    }

    /// Flushes what was unmapped from a lazy domain, so that no device reaches it any more. Does nothing in a strict one.
    ///
    /// # Errors
    /// Hardware refused. The addresses are never used again.
    pub fn flush(&self) -> Result<(), HardwareError> {
        self.0.flush()
    }

    /// Unmaps all that is left, for the driver is unbound.
    pub(crate) fn revoke(&self) {
        self.0.revoke();
    }
}

impl DeviceDma {
    fn map(
        &self,
        right: &PhysicalMemory,
        phys: PhysAddr,
        bytes: u64,
        protection: Protection,
    ) -> Result<(usize, Iova), DmaMapError> {
        if !self.domain.is_covered_by(right) {
            return Err(DmaMapError::Map(MapError::NoRight));
        }
        let last = bytes.checked_sub(1).and_then(|span| phys.checked_add(span)).ok_or(DmaMapError::BadRange)?;
        let mask = self.mappings.lock().mask;
        let Some(space) = self.domain.dma_space() else {
            return match self.domain.kind() {
                DomainKind::Identity if last.get() > mask => Err(DmaMapError::NoAddress { bytes, mask }),
                _ => Ok((self.mappings.lock().live.insert(State::Direct), Iova::new(phys.get()))),
            };
        };
        let within = reachable(&self.domain, mask).ok_or(DmaMapError::NoAddress { bytes, mask })?;
        let sizes = self.domain.geometry().ok_or(DmaMapError::NoDefaultDomain)?.page_sizes;
        let granule = sizes.smallest();
        let start = phys.get() & !(granule - 1);
        let size = (last.get() | (granule - 1)).checked_sub(start).and_then(|span| span.checked_add(1));
        let size = size.ok_or(DmaMapError::BadRange)?;
        // So that it can be mapped in large pages.
        let alignment = sizes.largest_first().find(|page| *page <= size).unwrap_or(granule);
        let range = space
            .allocate(size, alignment, start & (alignment - 1), within)
            .ok_or(DmaMapError::NoAddress { bytes, mask })?;
        let mapped = self.domain.map_trusted(range.first(), PhysAddr::new(start), size, protection);
        if let Err(error) = mapped.map_err(DmaMapError::Map) {
            // Addresses that the device may reach stay taken.
            if !error.is_reachable() {
                space.free(range);
            }
            return Err(error);
        }
        let key = self.mappings.lock().live.insert(State::Mapped(range));
        Ok((key, Iova::new(range.first().get() | (phys.get() & (granule - 1)))))
    }

    fn unmap(&self, key: usize) -> Result<(), HardwareError> {
        let state = self.mappings.lock().live.try_remove(key);
        state.map_or(Ok(()), |state| self.unmap_state(&state))
    }

    fn unmap_state(&self, state: &State) -> Result<(), HardwareError> {
        match (state, self.domain.dma_space()) {
            (State::Mapped(range), Some(space)) => space.unmap(&self.domain, *range),
            _ => Ok(()),
        }
    }

    fn flush(&self) -> Result<(), HardwareError> {
        self.domain.dma_space().map_or(Ok(()), |space| space.flush(&self.domain))
    }

    fn revoke(&self) {
        let mut mappings = self.mappings.lock();
        for (_, state) in &mut mappings.live {
            // What hardware refuses is tried again when the mapping ends.
            if self.unmap_state(state).is_ok() {
                *state = State::Revoked;
            }
        }
        drop(mappings);
        // Nobody is left to tell; the addresses are not used again.
        let _ = self.flush();
    }
}

/// Memory that a device can reach. Dropping it unmaps, and then drops the memory; if hardware refuses, the memory goes into
/// quarantine.
///
/// It is unmapped when the driver is unbound, whoever holds it.
#[must_use = "dropping it unmaps"]
pub struct DmaMapping<M: Any + Send + Sync> {
    dma: Arc<DeviceDma>,
    key: usize,
    iova: Iova,
    bytes: u64,
    memory: Option<M>,
}

impl<M: Any + Send + Sync> DmaMapping<M> {
    /// Returns the address by which the device reaches the first byte.
    pub fn iova(&self) -> Iova {
        self.iova
    }

    /// Returns how many bytes were asked for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the memory.
    pub fn memory(&self) -> Option<&M> {
        self.memory.as_ref()
    }

    /// Returns whether the device can still reach it: the driver is bound, or hardware refused to unmap it.
    pub fn is_live(&self) -> bool {
        let mappings = self.dma.mappings.lock();
        matches!(mappings.live.get(self.key), Some(State::Mapped(_) | State::Direct))
    }

    /// Unmaps, and returns the memory.
    ///
    /// # Errors
    /// Hardware refused: the memory is in quarantine.
    pub fn unmap(mut self) -> Result<M, HardwareError> {
        match self.end() {
            Ok(Some(memory)) => Ok(memory),
            Ok(None) => Err(HardwareError::new(Errno::EINVAL, "the mapping has ended")),
            Err(error) => Err(error),
        }
    }

    fn end(&mut self) -> Result<Option<M>, HardwareError> {
        let Some(memory) = self.memory.take() else { return Ok(None) };
        let guard = Quarantine { domain: &self.dma.domain, memory: Some(memory) };
        self.dma.unmap(self.key)?;
        Ok(guard.release())
    }
}

/// Puts memory into quarantine, unless it is released: also when the IOMMU driver unwinds.
struct Quarantine<'a, M: Any + Send + Sync> {
    domain: &'a Domain,
    memory: Option<M>,
}

impl<M: Any + Send + Sync> Quarantine<'_, M> {
    fn release(mut self) -> Option<M> {
        self.memory.take()
    }
}

impl<M: Any + Send + Sync> Drop for Quarantine<'_, M> {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.domain.quarantine(memory);
        }
    }
}

impl<M: Any + Send + Sync> Drop for DmaMapping<M> {
    fn drop(&mut self) {
        // There is nobody to tell; the memory is in quarantine then.
        let _ = self.end();
    }
}

impl<M: Any + Send + Sync> fmt::Debug for DmaMapping<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaMapping").field("iova", &self.iova).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Why memory could not be mapped for a device.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DmaMapError {
    /// The device was removed from its group (`ENODEV`).
    #[error("the device has no default domain")]
    NoDefaultDomain,
    /// The range is empty, or leaves the 64-bit space (`EINVAL`).
    #[error("the physical range is empty or leaves the 64-bit space")]
    BadRange,
    /// The device reaches too few addresses (`ENOSPC`).
    #[error("no {bytes:#x} bytes are free below {mask:#x}, the last address that the device reaches")]
    NoAddress {
        /// How many were wanted.
        bytes: u64,
        /// The device's mask.
        mask: u64,
    },
    /// The domain could not map it.
    #[error(transparent)]
    Map(MapError),
}

impl DmaMapError {
    fn is_reachable(&self) -> bool {
        matches!(self, Self::Map(MapError::Reachable { .. }))
    }

    /// Returns the error number.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoDefaultDomain => Errno::ENODEV,
            Self::BadRange => Errno::EINVAL,
            Self::NoAddress { .. } => Errno::ENOSPC,
            Self::Map(error) => error.errno(),
        }
    }
}

/// Memory that could not be mapped.
#[derive(thiserror::Error)]
#[error("{error}")]
pub struct NotMapped<M> {
    /// Why.
    pub error: DmaMapError,
    /// The memory, unless the device may reach it: then it is in quarantine.
    pub memory: Option<M>,
}

impl<M> fmt::Debug for NotMapped<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotMapped").field("error", &self.error).finish_non_exhaustive()
    }
}
