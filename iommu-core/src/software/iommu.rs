//! The software IOMMU: serves devices, makes domains, and lets DMA through or not.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::any::Any;

use device_model::Errno;
use device_model::sync::Arc;
use device_model::sync::atomic::AtomicBool;

use super::context::ContextTable;
use super::domain::{SoftDomain, Translator};
use super::transfer::{Buffer, Transfer};
use super::unit::{Unit, Units};
use super::{Memory, Requester, STAGE_1_FORMAT, SoftIommuConfig};
use crate::address::{Access, Iova};
use crate::hardware::{
    Capabilities, Description, DomainKind, Endpoint, EndpointProperties, Fault, FaultReason, FaultSink, HardwareDomain,
    HardwareError, IommuDriver, PageRequests, PagingFlags, UserData,
};

/// An IOMMU in software.
///
/// Drives itself, as [`IommuDriver`], and carries the DMA of the devices that it serves. Its domains keep working when
/// it is dropped, but then there is nobody left to send DMA through them.
#[derive(Debug)]
pub struct SoftIommu {
    pub(super) units: Arc<Units>,
    number: usize,
}

impl SoftIommu {
    /// Creates an IOMMU that serves no device yet.
    pub fn new(name: impl Into<String>, config: SoftIommuConfig) -> Arc<Self> {
        Arc::new(Self { units: Arc::new(Units::new([(name, config)])), number: 0 })
    }

    /// Creates several IOMMUs of one driver: devices of one can be attached to domains of another, if the formats of
    /// their page tables are the same.
    pub fn units<N: Into<String>>(units: impl IntoIterator<Item = (N, SoftIommuConfig)>) -> Vec<Arc<Self>> {
        let units = Arc::new(Units::new(units));
        (0..units.len()).map(|number| Arc::new(Self { units: units.clone(), number })).collect()
    }

    fn unit(&self) -> &Unit {
        self.units.unit(self.number)
    }

    pub(super) fn contexts(&self) -> &ContextTable {
        &self.unit().contexts
    }

    /// Returns how it was built.
    pub fn config(&self) -> &SoftIommuConfig {
        &self.unit().config
    }

    /// Lets a device, or one PASID of it, read `into.len()` bytes of `memory` from `iova` on.
    ///
    /// The access goes page by page, and each page is translated and read in one step: a change of the domain's
    /// mappings, or of what the device is attached to, comes before it or after it.
    ///
    /// # Errors
    /// Returns the fault, which is recorded and reported as well. Pages before the one that faulted were read.
    pub fn dma_read(
        &self,
        from: impl Into<Requester>,
        iova: Iova,
        into: &mut [u8],
        memory: &Memory,
    ) -> Result<(), Fault> {
        self.transfer(from.into(), iova, memory, into)
    }

    /// Lets a device, or one PASID of it, write `bytes` to `memory` at `iova`; page by page, as
    /// [`dma_read`](Self::dma_read) does.
    ///
    /// # Errors
    /// Returns the fault, which is recorded and reported as well. Pages before the one that faulted were written.
    pub fn dma_write(
        &self,
        from: impl Into<Requester>,
        iova: Iova,
        bytes: &[u8],
        memory: &Memory,
    ) -> Result<(), Fault> {
        self.transfer(from.into(), iova, memory, bytes)
    }

    /// Takes the faults since they were last taken, oldest first; at most [`FAULT_LOG_CAPACITY`](super::FAULT_LOG_CAPACITY).
    pub fn take_faults(&self) -> Vec<Fault> {
        self.unit().faults.take()
    }

    /// Returns how many faults were never recorded because nobody had taken the earlier ones.
    pub fn dropped_faults(&self) -> u64 {
        self.unit().faults.dropped()
    }

    fn domain(&self, kind: DomainKind, flags: PagingFlags) -> Box<dyn HardwareDomain> {
        Box::new(SoftDomain {
            translator: Arc::new(Translator::new(kind, self.config())),
            units: self.units.clone(),
            unit: self.number,
            flags,
            coherent: AtomicBool::new(false),
        })
    }

    /// Records a fault, and reports it to whoever is to hear of the device's.
    #[cold]
    fn fault(&self, from: Requester, iova: Iova, access: Access, reason: FaultReason) -> Fault {
        let Requester { device, pasid } = from;
        let fault = Fault { device, pasid, iova, access, reason };
        self.unit().faults.record(fault);
        // Without locks: whoever listens takes its own.
        if let Some(sink) = self.contexts().of(device, |context| context.faults()) {
            sink.report(&fault);
        }
        fault
    }

    /// Makes an access, as one step for each part of it that translation keeps in one piece.
    fn transfer<B: Buffer>(&self, from: Requester, iova: Iova, memory: &Memory, buffer: B) -> Result<(), Fault> {
        let mut transfer = Transfer { unit: self.unit(), memory, rest: buffer };
        let mut next = Some(iova);
        while transfer.rest.len() > 0 {
            let Some(at) = next else {
                return Err(self.fault(from, iova, B::ACCESS, FaultReason::BeyondAperture));
            };
            let left = transfer.rest.len();
            transfer.step(from, at).map_err(|reason| self.fault(from, at, B::ACCESS, reason))?;
            next = at.checked_add((left - transfer.rest.len()) as u64);
        }
        Ok(())
    }
}

impl IommuDriver for SoftIommu {
    fn name(&self) -> &str {
        &self.unit().name
    }

    fn probe(&self, dev: &Endpoint, faults: Arc<dyn FaultSink>) -> Result<EndpointProperties, HardwareError> {
        let properties = self.config().properties(&dev.name);
        self.contexts().add(dev, properties.capabilities, faults)?;
        Ok(properties)
    }

    fn release(&self, dev: &Endpoint) {
        self.contexts().remove(dev);
    }

    fn allocate(&self, kind: DomainKind, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        if self.config().absent.contains(&kind) {
            let reason = alloc::format!("{} has no {kind} domains", self.name());
            return Err(HardwareError::new(Errno::EOPNOTSUPP, reason));
        }
        Ok(self.domain(kind, PagingFlags::empty()))
    }

    fn allocate_for_user(
        &self,
        flags: PagingFlags,
        data: Option<UserData<'_>>,
        _dev: &Endpoint,
    ) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        let capabilities = self.config().capabilities;
        let lacks = |flag, capability| flags.contains(flag) && !capabilities.contains(capability);
        if lacks(PagingFlags::NEST_PARENT, Capabilities::NESTING)
            || lacks(PagingFlags::DIRTY_TRACKING, Capabilities::DIRTY_TRACKING)
            || data.is_some()
        {
            return Err(HardwareError::new(Errno::EOPNOTSUPP, alloc::format!("{} has no such domains", self.name())));
        }
        Ok(self.domain(DomainKind::Paging, flags))
    }

    /// Returns the highest address that its page tables translate, for who nests domains; a number of 64 bits. Without
    /// nesting, what its configuration says.
    fn describe(&self, _dev: &Endpoint) -> Result<Description, HardwareError> {
        if !self.config().capabilities.contains(Capabilities::NESTING) {
            return Ok(self.config().description.clone());
        }
        Ok(Description { kind: STAGE_1_FORMAT, bytes: self.config().format.last().get().to_le_bytes().to_vec() })
    }

    fn page_requests(&self) -> Option<&dyn PageRequests> {
        self.config().capabilities.contains(Capabilities::PAGE_REQUESTS).then_some(self)
    }

    fn accepts(&self, maker: &dyn IommuDriver) -> bool {
        let maker: &dyn Any = maker;
        maker.downcast_ref::<Self>().is_some_and(|maker| Arc::ptr_eq(&maker.units, &self.units))
    }

    fn block(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        // A device that is not served reaches nothing as it is.
        let _ = self.contexts().change(dev, super::context::Context::block);
        Ok(())
    }
}

#[cfg(test)]
#[cfg(any(feature = "std", shuttle))]
mod interleavings;
#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
