//! Devices as an IOMMU sees them.

use alloc::sync::Arc;
use core::any::Any;
use core::fmt;

use device_model::DeviceId;
use device_model::pci::PciAddress;

/// What the transactions of a device carry, and what an IOMMU looks up to find the device's domain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RequesterId {
    /// A PCI requester ID, with the segment (PCI domain) in which it is unique.
    Pci(PciAddress),
    /// A stream ID, unique for one IOMMU.
    Stream(u32),
}

impl RequesterId {
    /// Returns the bits on the bus: bus, device and function of a PCI requester, or the stream ID.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Pci(address) => (address.bus() as u32) << 8 | address.devfn().byte() as u32,
            Self::Stream(id) => id,
        }
    }
}

impl fmt::Display for RequesterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => fmt::Display::fmt(address, f),
            Self::Stream(id) => write!(f, "stream {id:#x}"),
        }
    }
}

/// A device as an IOMMU driver sees it. Cloning it allocates nothing.
///
/// ```
/// use std::sync::Arc;
///
/// use iommu_core::device_model::DeviceId;
/// use iommu_core::hardware::{Endpoint, RequesterId};
///
/// let nic = Endpoint::new(DeviceId::new(1), "fec")
///     .with_requesters([RequesterId::Stream(0x10), RequesterId::Stream(0x11)])
///     .with_description(Arc::new("fsl,imx6q-fec"));
/// assert_eq!(nic.description::<&str>(), Some(&"fsl,imx6q-fec"));
/// ```
#[derive(Clone)]
pub struct Endpoint {
    /// Identifies the device for as long as the machine runs.
    pub id: DeviceId,
    /// Names the device in messages. Drivers do not parse it.
    pub name: Arc<str>,
    /// Lists the IDs that the device's transactions carry. A device can have several: stream IDs of its ports, or the IDs of
    /// bridges that take its transactions over. Empty for devices that only software knows.
    pub requesters: Arc<[RequesterId]>,
    description: Option<Arc<dyn Any + Send + Sync>>,
}

impl Endpoint {
    /// Creates an endpoint without requester IDs and description.
    pub fn new(id: DeviceId, name: impl Into<Arc<str>>) -> Self {
        Self { id, name: name.into(), requesters: Arc::default(), description: None }
    }

    /// Sets the requester IDs.
    #[must_use]
    pub fn with_requesters(self, requesters: impl Into<Arc<[RequesterId]>>) -> Self {
        Self { requesters: requesters.into(), ..self }
    }

    /// Sets the bus's own description of the device, for IOMMU drivers that know the bus.
    #[must_use]
    pub fn with_description(self, description: Arc<dyn Any + Send + Sync>) -> Self {
        Self { description: Some(description), ..self }
    }

    /// Returns the bus's description of the device if it is a `T`, such as a
    /// [`PciFunction`](device_model::pci::PciFunction).
    pub fn description<T: Any>(&self) -> Option<&T> {
        self.description.as_deref()?.downcast_ref()
    }

    /// Returns the same as [`description`](Self::description), to keep.
    pub fn shared_description<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.description.clone()?.downcast().ok()
    }
}

/// Endpoints are equal if they are the same device, of the same name, with the same requester IDs.
impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.name == other.name && self.requesters == other.requesters
    }
}

impl Eq for Endpoint {}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("requesters", &self.requesters)
            .finish_non_exhaustive()
    }
}
