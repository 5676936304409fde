//! Where a device belongs: which IOMMU serves it, and what it cannot be told apart from (I49).

use alloc::sync::Arc;

use device_model::{Device, DeviceId};

use crate::hardware::IommuDriver;

mod pci;

pub use pci::PciPlacing;

/// Devices with equal keys share a group.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum GroupKey {
    /// A device alone.
    Device(DeviceId),
    /// Whatever bears this name: all devices of an IOMMU that tells none apart, those of one container.
    Named(Arc<str>),
    /// The PCI functions that [`PciPlacing`] counts under this number.
    Pci(u64),
}

/// Where a device belongs.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The IOMMU that serves it.
    pub iommu: Arc<dyn IommuDriver>,
    /// What it shares with the devices of its group.
    pub key: GroupKey,
}

/// Knows of each device where it belongs, as firmware and topology tell it.
pub trait Placing: Send + Sync {
    /// Where `dev` belongs; `None` when no IOMMU serves it. Called under the probe lock; it must not call back into
    /// the [`Iommu`](crate::Iommu).
    fn place(&self, dev: &Device) -> Option<Placement>;

    /// `dev` has left its bus. Called under no lock of this crate.
    fn forget(&self, dev: &Device) {
        let _ = dev;
    }
}

/// One IOMMU that tells all devices apart: each is alone in its group.
#[derive(Clone, Debug)]
pub struct OneEach(pub Arc<dyn IommuDriver>);

impl Placing for OneEach {
    fn place(&self, dev: &Device) -> Option<Placement> {
        Some(Placement { iommu: self.0.clone(), key: GroupKey::Device(dev.id()) })
    }
}

/// One IOMMU that tells no device apart: all share one group.
#[derive(Clone, Debug)]
pub struct AllTogether(pub Arc<dyn IommuDriver>);

impl Placing for AllTogether {
    fn place(&self, _dev: &Device) -> Option<Placement> {
        Some(Placement { iommu: self.0.clone(), key: GroupKey::Named(self.0.name().into()) })
    }
}

impl<F: Fn(&Device) -> Option<Placement> + Send + Sync> Placing for F {
    fn place(&self, dev: &Device) -> Option<Placement> {
        self(dev)
    }
}
