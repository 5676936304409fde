//! Which devices share a group: the answers of `device_group`.

use alloc::sync::Arc;
use core::fmt;

use device_model::DeviceId;

use crate::hardware::{Endpoint, IommuDriver};

mod pci;

pub use pci::PciGroups;

/// Selects the IOMMU of a device and the devices that it shares a group with, as firmware and topology tell.
///
/// Any `Fn(&Endpoint) -> Option<DeviceGroup>` is one: `|_: &Endpoint| Some(generic_device_group(&iommu))`.
pub trait Placement: Send + Sync {
    /// Returns the group of `dev`; `None` when no IOMMU serves it. Called with the probe lock held, which sleeps; it must
    /// not add or remove devices.
    fn device_group(&self, dev: &Endpoint) -> Option<DeviceGroup>;

    /// Called after `dev` has left its bus, with no lock of this crate held. By default it does nothing.
    fn device_removed(&self, dev: &Endpoint) {
        let _ = dev;
    }
}

impl<F: Fn(&Endpoint) -> Option<DeviceGroup> + Send + Sync> Placement for F {
    fn device_group(&self, dev: &Endpoint) -> Option<DeviceGroup> {
        self(dev)
    }
}

/// The group of a device: the IOMMU that serves it, and what it shares there with the others of its group.
///
/// Devices of two IOMMUs are never in one group.
#[derive(Clone)]
pub struct DeviceGroup {
    iommu: Arc<dyn IommuDriver>,
    which: Which,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Which {
    /// Each device alone.
    Own,
    /// The group that this device founded.
    FoundedBy(DeviceId),
    /// All devices of the IOMMU.
    Single,
    /// Those of this name.
    Named(Arc<str>),
}

/// Returns a group for the device alone, of an IOMMU that tells all its devices apart.
pub fn generic_device_group(iommu: &Arc<dyn IommuDriver>) -> DeviceGroup {
    DeviceGroup { iommu: iommu.clone(), which: Which::Own }
}

/// Returns the one group of all devices of an IOMMU that tells none of them apart.
pub fn generic_single_device_group(iommu: &Arc<dyn IommuDriver>) -> DeviceGroup {
    DeviceGroup { iommu: iommu.clone(), which: Which::Single }
}

impl DeviceGroup {
    /// Returns the group of all devices of `iommu` for which this name is given: those of one container, for instance.
    pub fn named(iommu: &Arc<dyn IommuDriver>, name: impl Into<Arc<str>>) -> Self {
        Self { iommu: iommu.clone(), which: Which::Named(name.into()) }
    }

    /// Returns the group of all devices of `iommu` for which the same founder is given, which is one of them.
    pub fn founded_by(iommu: &Arc<dyn IommuDriver>, founder: DeviceId) -> Self {
        Self { iommu: iommu.clone(), which: Which::FoundedBy(founder) }
    }

    /// Returns the IOMMU.
    pub fn iommu(&self) -> &Arc<dyn IommuDriver> {
        &self.iommu
    }

    pub(crate) fn which(&self) -> &Which {
        &self.which
    }

    /// Which group this is for `dev`.
    pub(crate) fn of(self, dev: &Endpoint) -> Self {
        match self.which {
            Which::Own => Self { which: Which::FoundedBy(dev.id), ..self },
            _ => self,
        }
    }
}

impl fmt::Debug for DeviceGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceGroup").field("iommu", &self.iommu.name()).field("which", &self.which).finish()
    }
}
