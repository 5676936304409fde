//! A device that does DMA.

use alloc::vec::Vec;

use device_model::sync::Arc;

use super::{AnsweredRequest, Memory, Requester, SoftIommu};
use crate::address::Iova;
use crate::hardware::{Endpoint, Fault, WantedPage};

/// The bus-master side of a device: lets a test see what the device reaches, and what it does not.
///
/// Being served and attached is the business of whoever drives the IOMMU; until then every access faults.
#[derive(Clone, Debug)]
pub struct SimulatedDevice {
    endpoint: Endpoint,
    requester: Requester,
    iommu: Arc<SoftIommu>,
    memory: Memory,
}

impl SimulatedDevice {
    /// The device `endpoint`, whose DMA goes through `iommu` to `memory`.
    pub fn new(endpoint: Endpoint, iommu: Arc<SoftIommu>, memory: Memory) -> Self {
        let requester = endpoint.id.into();
        Self { endpoint, requester, iommu, memory }
    }

    /// The same device, with accesses that carry `pasid`.
    #[must_use]
    pub fn with_pasid(&self, pasid: u32) -> Self {
        let requester = Requester { device: self.endpoint.id, pasid: Some(pasid) };
        Self { requester, ..self.clone() }
    }

    /// The device as the IOMMU knows it.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Reads `into.len()` bytes at `iova`.
    ///
    /// # Errors
    /// The fault, as of [`SoftIommu::dma_read`].
    pub fn read(&self, iova: Iova, into: &mut [u8]) -> Result<(), Fault> {
        self.iommu.dma_read(self.requester, iova, into, &self.memory)
    }

    /// Writes `bytes` at `iova`.
    ///
    /// # Errors
    /// The fault, as of [`SoftIommu::dma_write`].
    pub fn write(&self, iova: Iova, bytes: &[u8]) -> Result<(), Fault> {
        self.iommu.dma_write(self.requester, iova, bytes, &self.memory)
    }

    /// Asks for pages that are not mapped, as a device does that can wait for them.
    pub fn request_pages(&self, index: u32, pages: Vec<WantedPage>) {
        self.iommu.request_pages(self.requester, index, pages);
    }

    /// The answers since they were last taken, oldest first; of all PASIDs.
    pub fn take_answers(&self) -> Vec<AnsweredRequest> {
        self.iommu.take_answers(self.requester)
    }
}
