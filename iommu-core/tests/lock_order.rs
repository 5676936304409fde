//! The lock order is watched: a device lock taken under a group lock is seen, though nothing deadlocks in this run (L33).
#![cfg(lock_order)]

use std::sync::{Arc, OnceLock};

use iommu_core::device_model::platform::PlatformBus;
use iommu_core::device_model::{Device, DeviceSpec, DriverCore};
use iommu_core::hardware::{DomainKind, Endpoint, EndpointProperties, HardwareDomain, HardwareError, IommuDriver};
use iommu_core::placement::AllTogether;
use iommu_core::{Iommu, Owner};

/// Asks the device what driver it has while the core holds the group lock: what the lock order forbids.
#[derive(Debug)]
struct Curious(OnceLock<Arc<Device>>);

impl IommuDriver for Curious {
    fn name(&self) -> &'static str {
        "curious"
    }

    fn probe(&self, _dev: &Endpoint) -> Result<EndpointProperties, HardwareError> {
        Ok(EndpointProperties::default())
    }

    fn release(&self, _dev: &Endpoint) {}

    fn allocate(&self, kind: DomainKind, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        if let (DomainKind::Blocking, Some(dev)) = (kind, self.0.get()) {
            let _ = dev.lock().driver();
        }
        Ok(Box::new(Null))
    }

    fn block(&self, _dev: &Endpoint) {}
}

#[derive(Debug)]
struct Null;

impl HardwareDomain for Null {
    fn attach(&self, _dev: &Endpoint) -> Result<(), HardwareError> {
        Ok(())
    }
}

#[test]
#[should_panic(expected = "lock order: device lock (rank 100, depth 1) taken while group lock (rank 800) is held")]
fn l33_a_device_lock_under_a_group_lock_is_seen() {
    let hardware = Arc::new(Curious(OnceLock::new()));
    let iommu = Iommu::new(AllTogether(hardware.clone()));
    let core = DriverCore::new();
    let bus = core.add_bus(PlatformBus::new(Arc::new(iommu.clone())));
    bus.subscribe(iommu);
    let dev = bus.add_device(DeviceSpec::new("dev")).unwrap();
    hardware.0.set(dev.clone()).unwrap();
    let group = Iommu::member(&dev).unwrap().group().clone();
    let _ = group.claim(&Owner::new("user"));
}
