//! The vfio-pci driver.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::{Arc, Weak};
use core::fmt;

use iommu_core::IommuSubsystem;
use iommu_core::device_model::pci::{PciBus, PciFunction, PciId};
use iommu_core::device_model::sync::Mutex;
use iommu_core::device_model::{BoundTo, Driver, DriverManaged, ProbeError, Removal};

use super::neighbours::virtual_functions;
use super::reset_scope::on_root_bus;
use super::{FunctionModel, IDS, NAME, ResetScope, VfioPciDevice, VfioPciRefusal, admits, reset_scope};
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
        let refused = |refusal: VfioPciRefusal| ProbeError::caused_by(refusal.errno(), refusal);
        admits(function).map_err(refused)?;
        match virtual_functions(device) {
            0 => {}
            count => return Err(refused(VfioPciRefusal::HasVirtualFunctions { device: function.address, count })),
        }
        let set = match reset_scope(function) {
            ResetScope::Alone(_) => DeviceSetId::Alone,
            ResetScope::Bus { domain, bus } => DeviceSetId::Named(format!("bus {domain:04x}:{bus:02x}").into()),
        };
        let bridge = if on_root_bus(function) { None } else { device.parent() };
        let served = VfioPciDevice::below(function.clone(), (self.models)(function), bridge.as_ref());
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
