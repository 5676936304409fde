//! The software IOMMU: serves devices, makes domains, and lets DMA through or not.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use device_model::Errno;
use device_model::sync::Arc;
use device_model::sync::atomic::AtomicBool;

use super::context::ContextTable;
use super::domain::{SoftDomain, Translator};
use super::fault::FaultLog;
use super::{AnsweredRequest, Fault, FaultReason, Memory, Requester, STAGE_1_FORMAT, SoftIommuConfig};
use crate::address::{Access, Iova, PhysAddr};
use crate::hardware::{
    Capabilities, Description, DirtySupport, DomainKind, Endpoint, EndpointProperties, HardwareDomain, HardwareError,
    IommuDriver, Nesting, PageAnswer, PageRequestSink, PagingFeatures, UserData,
};

/// An IOMMU in software.
///
/// Drives itself, as [`IommuDriver`], and carries the DMA of the devices that it serves. Its domains keep working when
/// it is dropped, but then there is nobody left to send DMA through them.
#[derive(Debug)]
pub struct SoftIommu {
    name: String,
    config: SoftIommuConfig,
    pub(super) contexts: Arc<ContextTable>,
    faults: FaultLog,
}

impl SoftIommu {
    /// An IOMMU that serves no device yet.
    pub fn new(name: impl Into<String>, config: SoftIommuConfig) -> Arc<Self> {
        let (contexts, faults) = (Arc::new(ContextTable::new()), FaultLog::default());
        Arc::new(Self { name: name.into(), config, contexts, faults })
    }

    /// How it was built.
    pub fn config(&self) -> &SoftIommuConfig {
        &self.config
    }

    /// A device, or one PASID of it, reads `into.len()` bytes of `memory` from `iova` on.
    ///
    /// The access goes page by page, and each page is translated and read in one step: a change of the domain's
    /// mappings, or of what the device is attached to, comes before it or after it.
    ///
    /// # Errors
    /// The fault, which is recorded as well. Pages before the one that faulted were read.
    pub fn dma_read(
        &self,
        from: impl Into<Requester>,
        iova: Iova,
        into: &mut [u8],
        memory: &Memory,
    ) -> Result<(), Fault> {
        self.transfer(from.into(), Access::Read, iova, into.len(), memory, |phys, range| {
            into.get_mut(range).into_iter().for_each(|part| memory.read(phys, part));
        })
    }

    /// A device, or one PASID of it, writes `bytes` to `memory` at `iova`; page by page, as [`dma_read`](Self::dma_read)
    /// does.
    ///
    /// # Errors
    /// The fault, which is recorded as well. Pages before the one that faulted were written.
    pub fn dma_write(
        &self,
        from: impl Into<Requester>,
        iova: Iova,
        bytes: &[u8],
        memory: &Memory,
    ) -> Result<(), Fault> {
        self.transfer(from.into(), Access::Write, iova, bytes.len(), memory, |phys, range| {
            bytes.get(range).into_iter().for_each(|part| memory.write(phys, part));
        })
    }

    /// The faults since they were last taken, oldest first; at most [`FAULT_LOG_CAPACITY`](super::FAULT_LOG_CAPACITY).
    pub fn take_faults(&self) -> Vec<Fault> {
        self.faults.take()
    }

    /// How many faults were not recorded, ever, because nobody had taken the earlier ones.
    pub fn dropped_faults(&self) -> u64 {
        self.faults.dropped()
    }

    fn domain(&self, kind: DomainKind, features: PagingFeatures) -> SoftDomain {
        SoftDomain {
            translator: Arc::new(Translator::new(kind, self.config.format)),
            contexts: self.contexts.clone(),
            max_pasids: self.config.max_pasids,
            features,
            capabilities: self.config.capabilities,
            coherent: AtomicBool::new(false),
        }
    }

    /// Calls `touch` for each part of an access that translation keeps in one piece.
    fn transfer(
        &self,
        from: Requester,
        access: Access,
        iova: Iova,
        len: usize,
        memory: &Memory,
        mut touch: impl FnMut(PhysAddr, Range<usize>),
    ) -> Result<(), Fault> {
        let fault = |at, reason| {
            let fault = Fault { device: from.device, pasid: from.pasid, iova: at, access, reason };
            self.faults.record(fault);
            fault
        };
        let mut done = 0;
        while done < len {
            let at = iova.checked_add(done as u64).ok_or_else(|| fault(iova, FaultReason::BeyondAperture))?;
            done = self
                .contexts
                .with_translator(from, |translator| {
                    let limit = self.before_window(translator, at)?;
                    translator.with_translation(at, access, memory, |translation| {
                        let bytes = limit.min(translation.remaining);
                        let end = usize::try_from(bytes).map_or(len, |bytes| len.min(done.saturating_add(bytes)));
                        touch(translation.phys, done..end);
                        end
                    })
                })
                .map_err(|reason| fault(at, reason))?;
        }
        Ok(())
    }

    /// How many bytes from `at` on lie before the interrupt window. A blocked device raises no interrupts either.
    fn before_window(&self, translator: &Translator, at: Iova) -> Result<u64, FaultReason> {
        match (self.config.window(), translator) {
            (None, _) | (_, Translator::Blocking) => Ok(u64::MAX),
            (Some(window), _) if window.contains(&at) => Err(FaultReason::InterruptWindow),
            (Some(window), _) => Ok(window.start().get().checked_sub(at.get()).unwrap_or(u64::MAX)),
        }
    }
}

impl IommuDriver for SoftIommu {
    fn name(&self) -> &str {
        &self.name
    }

    fn probe(&self, dev: &Endpoint) -> Result<EndpointProperties, HardwareError> {
        let properties = self.config.properties(&dev.name);
        self.contexts.add(dev, properties.capabilities)?;
        Ok(properties)
    }

    fn release(&self, dev: &Endpoint) {
        self.contexts.remove(dev);
    }

    fn allocate(&self, kind: DomainKind, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        if self.config.absent.contains(&kind) {
            let reason = alloc::format!("{} has no {kind} domains", self.name);
            return Err(HardwareError::new(Errno::EOPNOTSUPP, reason));
        }
        Ok(Box::new(self.domain(kind, PagingFeatures::default())))
    }

    fn allocate_for_user(
        &self,
        features: PagingFeatures,
        data: Option<UserData<'_>>,
        _dev: &Endpoint,
    ) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        let capabilities = self.config.capabilities;
        let lacks = features.nesting == Nesting::Parent && !capabilities.has(Capabilities::NESTING)
            || features.dirty_tracking == DirtySupport::Required && !capabilities.has(Capabilities::DIRTY_TRACKING);
        if lacks || data.is_some() {
            return Err(HardwareError::new(Errno::EOPNOTSUPP, alloc::format!("{} has no such domains", self.name)));
        }
        Ok(Box::new(self.domain(DomainKind::Paging, features)))
    }

    /// The highest address that its page tables translate, for who nests domains; a number of 64 bits.
    fn describe(&self, _dev: &Endpoint) -> Result<Description, HardwareError> {
        if !self.config.capabilities.has(Capabilities::NESTING) {
            return Ok(Description::default());
        }
        Ok(Description { kind: STAGE_1_FORMAT, bytes: self.config.format.last().get().to_le_bytes().to_vec() })
    }

    fn enable_page_requests(&self, dev: &Endpoint, sink: Arc<dyn PageRequestSink>) -> Result<(), HardwareError> {
        self.listen(dev, sink)
    }

    fn disable_page_requests(&self, dev: &Endpoint) {
        self.stop_listening(dev);
    }

    fn answer_page_request(&self, dev: &Endpoint, pasid: Option<u32>, index: u32, answer: PageAnswer) {
        self.answer(dev, AnsweredRequest { pasid, index, answer });
    }

    fn block(&self, dev: &Endpoint) {
        // A device that is not served reaches nothing as it is.
        let _ = self.contexts.change(dev, super::context::Context::block);
    }
}

#[cfg(test)]
#[cfg(any(feature = "std", shuttle))]
mod interleavings;
#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
