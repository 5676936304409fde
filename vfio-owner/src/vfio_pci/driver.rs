//! The vfio-pci driver.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

use iommu_core::IommuSubsystem;
use iommu_core::device_model::pci::{PciBus, PciFunction, PciId};
use iommu_core::device_model::sync::Mutex;
use iommu_core::device_model::{AnyDevice, BoundTo, Driver, DriverManaged, ProbeError, Removal};

use super::{FunctionModel, IDS, NAME, ResetScope, VfioPciDevice, admits, reset_scope};
use crate::device::DeviceSetId;
use crate::vfio::{Registration, Vfio};

type Models = Box<dyn Fn(&PciFunction) -> Arc<dyn FunctionModel> + Send + Sync>;

/// The vfio-pci driver: registers every function that it binds with VFIO, and unbinds only when the users have closed
/// the device.
pub struct VfioPciDriver {
    name: Arc<str>,
    vfio: Vfio,
    /// What is behind the windows of a function.
    models: Models,
    /// Leaf lock: the functions that it has, by name.
    devices: Mutex<BTreeMap<Arc<str>, Weak<VfioPciDevice>>>,
}

impl VfioPciDriver {
    /// Creates a driver that registers its devices with `vfio`, and asks `models` at each probe for the hardware behind
    /// a function's regions.
    pub fn new(
        vfio: Vfio,
        models: impl Fn(&PciFunction) -> Arc<dyn FunctionModel> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { name: NAME.into(), vfio, models: Box::new(models), devices: Mutex::default() })
    }

    /// Returns the simulated side of a function that is bound to the driver, for instance to raise interrupts.
    pub fn device(&self, name: &str) -> Option<Arc<VfioPciDevice>> {
        self.devices.lock().get(name)?.upgrade()
    }
}

type Pci = PciBus<IommuSubsystem>;

impl Driver<Pci> for VfioPciDriver {
    /// It claims DMA for its users, and does none through the kernel's DMA API.
    // D64.
    type Dma = DriverManaged;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn ids(&self) -> &[PciId] {
        &IDS
    }

    fn probe(&self, dev: &mut BoundTo<'_, Pci, DriverManaged>) -> Result<(), ProbeError> {
        let device = dev.device();
        let function = &**device.description();
        admits(function).map_err(|refusal| ProbeError::caused_by(refusal.errno(), refusal))?;
        let set = match reset_scope(function) {
            ResetScope::Alone(_) => DeviceSetId::Alone,
            ResetScope::Bus { domain, bus } => DeviceSetId::Named(format!("bus {domain:04x}:{bus:02x}").into()),
        };
        let bridge =
            if set == DeviceSetId::Alone { None } else { device.parent().map(|parent| Arc::downgrade(&parent)) };
        // V87: what is on the bus now and came before it was there when it was found.
        let found_alone = bridge
            .as_ref()
            .and_then(Weak::upgrade)
            .is_some_and(|bridge| bridge.children().iter().all(|sibling| sibling.id() >= device.id()));
        let served = VfioPciDevice::new(function.clone(), (self.models)(function)).below(bridge);
        let served = Arc::new(if found_alone { served.found_alone() } else { served });
        let registration = self.vfio.register(device, &set, served.clone());
        dev.manage(registration.map_err(|error| ProbeError::caused_by(error.errno(), error))?);
        self.devices.lock().insert(device.name().clone(), Arc::downgrade(&served));
        Ok(())
    }

    fn remove(&self, dev: &mut BoundTo<'_, Pci, DriverManaged>, attempt: u32) -> Removal {
        if let Some(served) = self.device(dev.device().name()) {
            served.leave();
        }
        let removal =
            dev.resource_mut::<Registration>().map_or(Removal::Done, |registration| registration.unregister(attempt));
        if matches!(removal, Removal::Done) {
            self.devices.lock().remove(dev.device().name());
        }
        removal
    }
}

impl fmt::Debug for VfioPciDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioPciDriver").field("devices", &self.devices.lock().keys()).finish_non_exhaustive()
    }
}

/// The names of the functions below a bridge that is still there.
pub(super) fn below(bridge: Option<&Weak<dyn AnyDevice>>) -> Vec<Arc<str>> {
    let bridge = bridge.and_then(Weak::upgrade);
    bridge.map_or_else(Vec::new, |bridge| bridge.children().iter().map(|child| child.name().clone()).collect())
}
