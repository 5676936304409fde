//! The subsystem on a bus: devices are grouped as they come, and kernel drivers counted as they bind.

use device_model::{BusEvent, Device, DeviceGuard, DmaApi, DmaConfigure, DmaUse, Notifier, ProbeError};

use crate::error::UseError;
use crate::hardware::Endpoint;
use crate::kernel_use::KernelUse;
use crate::subsystem::IommuSubsystem;
use alloc::sync::Arc;
use device_model::pci::PciFunction;

fn endpoint(dev: &Device) -> Endpoint {
    let endpoint = Endpoint::new(dev.id(), dev.name().clone());
    match dev.details::<PciFunction>() {
        Some(function) => endpoint.with_description(Arc::new(function.clone())),
        None => endpoint,
    }
}

impl Notifier for IommuSubsystem {
    fn notify(&self, event: &BusEvent<'_>) {
        match event {
            BusEvent::Added(dev) => {
                let _ = self.add_device(&endpoint(dev));
            }
            BusEvent::Removed(dev) => {
                if let Some(member) = self.member(dev.id()) {
                    self.remove(&member);
                }
                self.placement().device_removed(&endpoint(dev));
            }
            _ => {}
        }
    }
}

impl DmaConfigure for IommuSubsystem {
    fn dma_configure(&self, dev: &DeviceGuard<'_>, api: DmaApi) -> Result<DmaUse, ProbeError> {
        let member =
            self.add_device(&endpoint(dev.device())).map_err(|error| ProbeError::caused_by(error.errno(), error))?;
        match (api, member, dev.driver()) {
            (DmaApi::Kernel, Some(member), Some(driver)) => {
                KernelUse::begin(member, driver.name()).map(DmaUse::holding).map_err(refuse)
            }
            _ => Ok(DmaUse::unguarded()),
        }
    }
}

fn refuse(error: UseError) -> ProbeError {
    match error {
        UseError::NoDefaultDomain { .. } => ProbeError::Deferred(device_model::Awaits::Anything),
        error => ProbeError::caused_by(error.errno(), error),
    }
}
