//! The software IOMMU: serves devices, makes domains, and lets DMA through or not.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::any::Any;

use device_model::Errno;
use device_model::sync::Arc;
use device_model::sync::atomic::AtomicBool;

use super::context::{Caching, ContextTable};
use super::domain::{SoftDomain, Translator};
use super::memory::{FRAME_SIZE, Frame};
use super::unit::{Unit, Units};
use super::{Memory, Requester, STAGE_1_FORMAT, SoftIommuConfig};
use crate::address::{Access, Iova, IovaRange};
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
        self.transfer(from.into(), iova, Transfer { iommu: self, memory, buffer: Buffer::Read(into) })
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
        self.transfer(from.into(), iova, Transfer { iommu: self, memory, buffer: Buffer::Write(bytes) })
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
    fn fault(&self, fault: Fault) -> Fault {
        self.unit().faults.record(fault);
        // Without locks: whoever listens takes its own.
        if let Some(sink) = self.contexts().of(fault.device, |context| context.faults()) {
            sink.report(&fault);
        }
        fault
    }

    /// Makes an access, as one step for each part of it that translation keeps in one piece.
    fn transfer(&self, from: Requester, iova: Iova, mut transfer: Transfer<'_>) -> Result<(), Fault> {
        let Requester { device, pasid } = from;
        let access = transfer.buffer.access();
        let fault = |iova, reason| self.fault(Fault { device, pasid, iova, access, reason });
        let mut done = 0;
        while done < transfer.buffer.len() {
            let at = iova.checked_add(done as u64).ok_or_else(|| fault(iova, FaultReason::BeyondAperture))?;
            let step = self.contexts().with_translator(from, |translator, caching| match caching {
                Some(caching) => transfer.step(at, done, translator, caching),
                None => transfer.step_uncached(at, done, translator, None),
            });
            done = step.map_err(|reason| fault(at, reason))?;
        }
        Ok(())
    }

    /// How many bytes from `at` on lie before the interrupt window. A blocked device raises no interrupts either.
    fn before_window(&self, translator: &Translator, at: Iova) -> Result<u64, FaultReason> {
        match (self.config().window(), translator) {
            (None, _) | (_, Translator::Blocking) => Ok(u64::MAX),
            (Some(window), _) if window.contains(at) => Err(FaultReason::InterruptWindow),
            (Some(window), _) => Ok(window.first().get().checked_sub(at.get()).unwrap_or(u64::MAX)),
        }
    }

    /// Whether the window has some of the bytes that are in one frame with `at`: what a device has cached, it accesses without
    /// another look at the window.
    fn meets_window(&self, at: Iova) -> bool {
        let frame = IovaRange::sized(Iova::new(at.get() & !(FRAME_SIZE as u64 - 1)), FRAME_SIZE as u64);
        self.config().window().zip(frame).is_some_and(|(window, frame)| window.overlaps(frame))
    }
}

/// An access that a device makes.
struct Transfer<'a> {
    iommu: &'a SoftIommu,
    memory: &'a Memory,
    buffer: Buffer<'a>,
}

/// The device's side of an access.
enum Buffer<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl Transfer<'_> {
    /// Makes the part of the access from `at` on, of which `done` bytes come before, and returns how many are done then.
    #[inline]
    fn step(
        &mut self,
        at: Iova,
        done: usize,
        translator: &Translator,
        caching: Caching<'_>,
    ) -> Result<usize, FaultReason> {
        if let Some(frame) = caching.tlb.lookup(at, self.buffer.access(), self.memory) {
            return Ok(self.buffer.transfer(frame, at, done));
        }
        self.step_uncached(at, done, translator, Some(caching))
    }

    /// As [`step`](Self::step), where the device has cached nothing yet, or never does.
    fn step_uncached(
        &mut self,
        at: Iova,
        done: usize,
        translator: &Translator,
        caching: Option<Caching<'_>>,
    ) -> Result<usize, FaultReason> {
        let (access, memory) = (self.buffer.access(), self.memory);
        let limit = self.iommu.before_window(translator, at)?;
        translator.with_translation(at, access, memory, |translation| {
            if let Some(caching) = caching
                && !self.iommu.meets_window(at)
                && translator.cached_in(caching.shard)
                && let Some(frame) = memory.frame(translation.phys, access)
            {
                let end = self.buffer.transfer(&frame, at, done);
                caching.tlb.fill(at, access, &translation, memory, frame);
                return end;
            }
            let bytes = usize::try_from(limit.min(translation.remaining)).unwrap_or(usize::MAX);
            let end = self.buffer.len().min(done.saturating_add(bytes));
            match &mut self.buffer {
                Buffer::Read(into) => memory.read(translation.phys, into.get_mut(done..end).unwrap_or_default()),
                Buffer::Write(from) => memory.write(translation.phys, from.get(done..end).unwrap_or_default()),
            }
            end
        })
    }
}

impl Buffer<'_> {
    fn access(&self) -> Access {
        match self {
            Self::Read(_) => Access::Read,
            Self::Write(_) => Access::Write,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Read(into) => into.len(),
            Self::Write(from) => from.len(),
        }
    }

    /// Transfers what lies in the frame of `at`, of which `done` bytes come before, and returns how many are done then.
    /// Pages are made of whole frames.
    #[inline]
    fn transfer(&mut self, frame: &Frame, at: Iova, done: usize) -> usize {
        let start = (at.get() & 0xfff) as usize;
        let end = self.len().min(done.saturating_add(FRAME_SIZE - start));
        match self {
            Self::Read(into) => frame.read(start, into.get_mut(done..end).unwrap_or_default()),
            Self::Write(from) => frame.write(start, from.get(done..end).unwrap_or_default()),
        }
        end
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
