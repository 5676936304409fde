//! The lock order is watched: a device lock taken under a group lock is seen, though nothing deadlocks in this run (L33).
#![cfg(lock_order)]

use std::sync::{Arc, OnceLock};

use iommu_core::device_model::platform::{PlatformBus, PlatformDevice};
use iommu_core::device_model::{Device, DeviceSpec, DriverCore};
use iommu_core::hardware::{
    DomainKind, Endpoint, EndpointProperties, FaultSink, HardwareDomain, HardwareError, IommuDriver,
};
use iommu_core::{IommuSubsystem, Owner, generic_single_device_group};

type Curiosity = Arc<OnceLock<Arc<Device<PlatformBus<IommuSubsystem>>>>>;

/// Asks the device what driver it has while the core holds the group lock: what the lock order forbids.
#[derive(Debug, Clone)]
struct Curious(Curiosity);

impl IommuDriver for Curious {
    fn name(&self) -> &'static str {
        "curious"
    }

    fn probe(&self, _dev: &Endpoint, _faults: Arc<dyn FaultSink>) -> Result<EndpointProperties, HardwareError> {
        Ok(EndpointProperties::default())
    }

    fn release(&self, _dev: &Endpoint) {}

    fn allocate(&self, _kind: DomainKind, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        Ok(Box::new(self.clone()))
    }

    fn block(&self, _dev: &Endpoint) -> Result<(), HardwareError> {
        Ok(())
    }
}

impl HardwareDomain for Curious {
    fn attach(&self, _dev: &Endpoint) -> Result<(), HardwareError> {
        if let Some(dev) = self.0.get() {
            let _ = dev.lock().driver();
        }
        Ok(())
    }
}

#[test]
#[should_panic(expected = "taken while group lock (rank 800) is held")]
fn l33_a_device_lock_under_a_group_lock_is_seen() {
    let curious = Curious(Arc::default());
    let hardware: Arc<dyn IommuDriver> = Arc::new(curious.clone());
    let (iommu, _) = IommuSubsystem::builder(move |_: &Endpoint| Some(generic_single_device_group(&hardware))).build();
    let core = DriverCore::new();
    let bus = core.add_bus(PlatformBus::new(iommu));
    let dev = bus.add_device(DeviceSpec::new("dev", PlatformDevice::default())).unwrap();
    curious.0.set(dev.clone()).unwrap();
    let group = dev.dma_slot().member().unwrap().group().clone();
    let _ = group.claim(&Owner::new("user"));
}
