//! A small machine without PCI: devices on a platform bus whose group is the letter that their name begins with, a VFIO
//! driver, a kernel driver, and a container's IOMMU that only attaches.
#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses a part of it")]

use std::sync::Arc;

use vfio_owner::backend::{
    Backend, ContainerIommu, DirtyRequest, DirtySink, DirtyTracking, Extension, IommuInfo, MapRequest, Unmap,
};
use vfio_owner::error::{AttachGroupError, DirtyError, MapDmaError, SetIommuError, UnmapDmaError};
use vfio_owner::iommu_core::address::PageSizes;
use vfio_owner::iommu_core::device_model::platform::{PlatformBus, PlatformDevice};
use vfio_owner::iommu_core::device_model::{
    BoundTo, BusHandle, DeviceSpec, DmaApi, Driver, DriverCore, DriverManaged, ProbeError, Removal,
};
use vfio_owner::iommu_core::hardware::{
    Capabilities, DomainKind, Endpoint, EndpointProperties, FaultSink, HardwareDomain, HardwareError, IommuDriver,
};
use vfio_owner::iommu_core::{Claim, DeviceGroup, Group, IommuSubsystem, PhysicalMemory};
use vfio_owner::{DeviceOps, DeviceSetId, Registration, Vfio};

pub(crate) const VFIO: &str = "vfio";
pub(crate) const KERNEL: &str = "kernel";

/// The type of IOMMU that containers can be set to.
pub(crate) const KIND: Extension = Extension::TYPE1;

pub(crate) type Bus = PlatformBus<IommuSubsystem>;

pub(crate) struct World {
    pub(crate) bus: BusHandle<Bus>,
    pub(crate) iommu: IommuSubsystem,
    /// The right to map, which backends and contexts are given.
    pub(crate) physical: PhysicalMemory,
    pub(crate) vfio: Vfio,
    _core: DriverCore,
}

impl World {
    /// A machine with these devices, none of them bound.
    pub(crate) fn new(devices: &[&str]) -> Self {
        Self::with(devices, Arc::new(Plain))
    }

    /// The same, where VFIO's driver opens and closes every device by `ops`.
    pub(crate) fn with(devices: &[&str], ops: Arc<dyn DeviceOps>) -> Self {
        let hardware: Arc<dyn IommuDriver> = Arc::new(Null);
        let by_letter = move |dev: &Endpoint| Some(DeviceGroup::named(&hardware, dev.name.get(..1)?));
        let (iommu, physical) = IommuSubsystem::builder(by_letter).build();
        let core = DriverCore::new();
        let bus = core.add_bus(PlatformBus::new(iommu.clone()));
        bus.set_drivers_autoprobe(false);
        let vfio = Vfio::new([Arc::new(Attaching) as Arc<dyn Backend>]);
        bus.add_driver(Arc::new(Giving { name: VFIO.into(), vfio: vfio.clone(), ops })).unwrap();
        bus.add_driver(Arc::new(Kernel(KERNEL.into()))).unwrap();
        for name in devices {
            bus.add_device(DeviceSpec::new(*name, PlatformDevice::default())).unwrap();
        }
        Self { bus, iommu, physical, vfio, _core: core }
    }

    pub(crate) fn bind(&self, device: &str, driver: &str) -> bool {
        bind(&self.bus, device, driver)
    }

    pub(crate) fn group(&self, device: &str) -> Arc<Group> {
        self.bus.device(device).unwrap().dma_slot().member().unwrap().group().clone()
    }
}

/// As people do it; whether it worked.
pub(crate) fn bind(bus: &BusHandle<Bus>, device: &str, driver: &str) -> bool {
    let Some(dev) = bus.device(device) else { return false };
    dev.set_driver_override(Some(driver));
    bus.sysfs().bind(driver, device).is_ok()
}

/// Hands devices to VFIO.
struct Giving {
    name: Arc<str>,
    vfio: Vfio,
    ops: Arc<dyn DeviceOps>,
}

impl Driver<Bus> for Giving {
    type Dma = DriverManaged;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn probe(&self, dev: &mut BoundTo<'_, Bus, DriverManaged>) -> Result<(), ProbeError> {
        let registration = self.vfio.register(dev.device(), &DeviceSetId::Alone, self.ops.clone());
        dev.manage(registration.map_err(|error| ProbeError::caused_by(error.errno(), error))?);
        Ok(())
    }

    fn remove(&self, dev: &mut BoundTo<'_, Bus, DriverManaged>, attempt: u32) -> Removal {
        dev.resource_mut::<Registration>().unwrap().unregister(attempt)
    }
}

struct Kernel(Arc<str>);

impl Driver<Bus> for Kernel {
    type Dma = DmaApi;

    fn name(&self) -> &Arc<str> {
        &self.0
    }

    fn probe(&self, _dev: &mut BoundTo<'_, Bus, DmaApi>) -> Result<(), ProbeError> {
        Ok(())
    }
}

#[derive(Debug)]
struct Plain;

impl DeviceOps for Plain {}

/// Hardware that does as it is told.
#[derive(Debug)]
struct Null;

impl IommuDriver for Null {
    fn name(&self) -> &'static str {
        "null"
    }

    fn probe(&self, _dev: &Endpoint, _faults: Arc<dyn FaultSink>) -> Result<EndpointProperties, HardwareError> {
        let capabilities = Capabilities::CACHE_COHERENCY.union(Capabilities::MSI_ISOLATION);
        Ok(EndpointProperties { capabilities, ..EndpointProperties::default() })
    }

    fn release(&self, _dev: &Endpoint) {}

    fn allocate(&self, _kind: DomainKind, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        Ok(Box::new(Self))
    }

    fn block(&self, _dev: &Endpoint) -> Result<(), HardwareError> {
        Ok(())
    }
}

impl HardwareDomain for Null {
    fn attach(&self, _dev: &Endpoint) -> Result<(), HardwareError> {
        Ok(())
    }
}

/// A container's IOMMU that attaches, and maps nothing.
#[derive(Debug)]
struct Attaching;

impl Backend for Attaching {
    fn check_extension(&self, extension: Extension) -> u32 {
        u32::from(extension == KIND)
    }

    fn open(&self, _kind: Extension) -> Result<Box<dyn ContainerIommu>, SetIommuError> {
        Ok(Box::new(Self))
    }
}

impl ContainerIommu for Attaching {
    fn check_extension(&self, extension: Extension) -> u32 {
        u32::from(extension == KIND)
    }

    fn attach_group(&mut self, claim: &Claim) -> Result<(), AttachGroupError> {
        let group = claim.group();
        let domain =
            group.allocate_paging().map_err(|cause| AttachGroupError::NoDomain { group: group.id(), cause })?;
        Ok(claim.attach(&domain)?)
    }

    fn detach_group(&mut self, claim: &Claim) {
        claim.detach();
    }

    fn map(&mut self, _request: &MapRequest) -> Result<(), MapDmaError> {
        Err(MapDmaError::TooManyMappings)
    }

    fn unmap(&mut self, _what: Unmap) -> Result<u64, UnmapDmaError> {
        Ok(0)
    }

    fn unmap_dirty(&mut self, _: DirtyRequest, _: &mut dyn DirtySink) -> Result<u64, UnmapDmaError> {
        Err(DirtyError::NotTracked.into())
    }

    fn invalidate_vaddr(&mut self, _what: Unmap) -> Result<u64, UnmapDmaError> {
        Ok(0)
    }

    fn update_vaddr(&mut self, _request: &MapRequest) -> Result<(), MapDmaError> {
        Err(MapDmaError::TooManyMappings)
    }

    fn info(&self) -> IommuInfo {
        IommuInfo { page_sizes: PageSizes::X86, ranges: Vec::new(), mappings_left: 0, migration: None }
    }

    fn tracks_dirty(&self) -> Result<(), DirtyError> {
        Err(DirtyError::NotTracked)
    }

    fn track_dirty(&mut self, _tracking: DirtyTracking) -> Result<(), DirtyError> {
        Err(DirtyError::NotTracked)
    }

    fn dirty_pages(&mut self, _: DirtyRequest, _: &mut dyn DirtySink) -> Result<(), DirtyError> {
        Err(DirtyError::NotTracked)
    }
}
