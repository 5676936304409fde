//! DMA against each way to stop it: whatever the order, once the stop has returned, memory stays as it is.

use device_model::DeviceId;
use device_model::sync::thread;

use super::*;
use crate::address::PhysAddr;
use crate::software::SimulatedDevice;
use crate::software::testing::{Map, unheard};

/// With `--cfg shuttle` every run takes another order that the model checker chose; otherwise, whatever comes.
fn explore(run: impl Fn() + Send + Sync + 'static) {
    #[cfg(shuttle)]
    shuttle::check_random(run, 1000);
    #[cfg(not(shuttle))]
    for _ in 0..200 {
        run();
    }
}

const AT: u64 = 0xff0;

fn stops(stop: impl Fn(&SoftIommu, &Endpoint, &dyn HardwareDomain) + Send + Sync + 'static) {
    explore(move || {
        let iommu = SoftIommu::new("soft", SoftIommuConfig::default());
        let dev = Endpoint::new(DeviceId::new(1), "dev1");
        iommu.probe(&dev, unheard()).unwrap();
        let domain = iommu.allocate(DomainKind::Paging, &dev).unwrap();
        domain.map(Iova::new(0), PhysAddr::new(0), 0x2000, Access::ReadWrite).unwrap();
        domain.attach(&dev).unwrap();
        let memory = Memory::new();
        let device = SimulatedDevice::new(dev.clone(), iommu.clone(), memory.clone());
        let writer = thread::spawn(move || while device.write(Iova::new(AT), &[1; 32]).is_ok() {});

        stop(&iommu, &dev, &*domain);
        memory.write(PhysAddr::new(AT), &[2; 32]);

        writer.join().unwrap();
        assert_eq!(memory.bytes(PhysAddr::new(AT)), [2; 32]);
    });
}

#[test]
fn no_dma_is_on_its_way_once_unmap_returns() {
    stops(|_, _, domain| assert_eq!(domain.unmap(Iova::new(0), 0x2000), 0x2000));
}

#[test]
fn i8_no_dma_is_on_its_way_to_the_old_domain_once_attach_returns() {
    stops(|iommu, dev, _| iommu.allocate(DomainKind::Blocking, dev).unwrap().attach(dev).unwrap());
}

#[test]
fn no_dma_is_on_its_way_once_block_or_release_returns() {
    stops(|iommu, dev, _| iommu.block(dev).unwrap());
    stops(|iommu, dev, _| iommu.release(dev));
}
