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
    /// Creates the device `endpoint`, whose DMA goes through `iommu` to `memory`.
    pub fn new(endpoint: Endpoint, iommu: Arc<SoftIommu>, memory: Memory) -> Self {
        let requester = endpoint.id.into();
        Self { endpoint, requester, iommu, memory }
    }

    /// Returns the same device, with accesses that carry `pasid`.
    #[must_use]
    pub fn with_pasid(&self, pasid: u32) -> Self {
        let requester = Requester { device: self.endpoint.id, pasid: Some(pasid) };
        Self { requester, ..self.clone() }
    }

    /// Returns the device as the IOMMU knows it.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Reads `into.len()` bytes at `iova`.
    ///
    /// # Errors
    /// Returns the fault, as [`SoftIommu::dma_read`] does.
    pub fn read(&self, iova: Iova, into: &mut [u8]) -> Result<(), Fault> {
        self.iommu.dma_read(self.requester, iova, into, &self.memory)
    }

    /// Writes `bytes` at `iova`.
    ///
    /// # Errors
    /// Returns the fault, as [`SoftIommu::dma_write`] does.
    pub fn write(&self, iova: Iova, bytes: &[u8]) -> Result<(), Fault> {
        self.iommu.dma_write(self.requester, iova, bytes, &self.memory)
    }

    /// Requests pages that are not mapped (PRI).
    pub fn request_pages(&self, index: u32, pages: Vec<WantedPage>) {
        self.iommu.request_pages(self.requester, index, pages);
    }

    /// Takes the answers since they were last taken, oldest first; of all PASIDs.
    pub fn take_answers(&self) -> Vec<AnsweredRequest> {
        self.iommu.take_answers(self.requester)
    }
}
