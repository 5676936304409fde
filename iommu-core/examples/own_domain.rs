//! Domains of one's own: a kernel driver attaches one for its device, then user space claims the group and attaches
//! another. Each keeps the other out, and is named in the refusal.
//! `cargo run -p iommu-core --features software --example own_domain`.

use std::error::Error;
use std::sync::Arc;

use iommu_core::device_model::platform::{PlatformBus, PlatformDevice};
use iommu_core::device_model::{BoundTo, DeviceSpec, DmaApi, Driver, DriverCore, DriverManaged, Errno, ProbeError};
use iommu_core::hardware::{Endpoint, IommuDriver};
use iommu_core::software::{Memory, SimulatedDevice, SoftIommu, SoftIommuConfig};
use iommu_core::{
    Access, Domain, Group, IommuSubsystem, Iova, Owner, Ownership, PhysAddr, PhysicalMemory, generic_device_group,
};

type Platform = PlatformBus<IommuSubsystem>;

/// Where every domain here maps its page, so that what is read there tells whose domain is attached.
const WINDOW: Iova = Iova::new(0x10_0000);
const DRIVER_PAGE: PhysAddr = PhysAddr::new(0x100_0000);
const USER_PAGE: PhysAddr = PhysAddr::new(0x200_0000);

fn domain(group: &Group, right: &PhysicalMemory, page: PhysAddr) -> Result<Arc<Domain>, Box<dyn Error>> {
    let domain = group.allocate_paging()?;
    domain.map(right, WINDOW, page, 0x1000, Access::ReadWrite)?;
    Ok(domain)
}

/// Manages the DMA of its device by a domain of its own.
struct GpuDriver {
    name: Arc<str>,
    right: PhysicalMemory,
}

impl Driver<Platform> for GpuDriver {
    type Dma = DriverManaged;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn probe(&self, dev: &mut BoundTo<'_, Platform, DriverManaged>) -> Result<(), ProbeError> {
        let member = dev.device().dma_slot().member().ok_or(ProbeError::errno_only(Errno::ENODEV))?;
        let domain =
            domain(member.group(), &self.right, DRIVER_PAGE).map_err(|_| ProbeError::errno_only(Errno::EIO))?;
        let attached = member.attach_domain(&domain).map_err(|error| ProbeError::caused_by(error.errno(), error))?;
        dev.manage(attached); // when the driver leaves, the group goes back to its default domain
        Ok(())
    }
}

/// Uses the DMA API, and so the default domain.
struct DisplayDriver(Arc<str>);

impl Driver<Platform> for DisplayDriver {
    type Dma = DmaApi;

    fn name(&self) -> &Arc<str> {
        &self.0
    }

    fn probe(&self, _dev: &mut BoundTo<'_, Platform, DmaApi>) -> Result<(), ProbeError> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let hardware = SoftIommu::new("smmu0", SoftIommuConfig::default());
    let unit: Arc<dyn IommuDriver> = hardware.clone();
    let (iommu, right) = IommuSubsystem::builder(move |_: &Endpoint| Some(generic_device_group(&unit))).build();
    let bus = DriverCore::new().add_bus(PlatformBus::new(iommu));
    let gpu_driver = bus.add_driver(Arc::new(GpuDriver { name: "gpu".into(), right: right.clone() }))?;
    let display_driver = bus.add_driver(Arc::new(DisplayDriver("display".into())))?;
    let memory = Memory::new();
    memory.write(DRIVER_PAGE, b"driver");
    memory.write(USER_PAGE, b"guest!");

    let gpu = bus.add_device(DeviceSpec::new("gpu.0", PlatformDevice::default()))?;
    let member = gpu.dma_slot().member().ok_or("gpu.0 is in no group")?;
    let group = member.group();
    let dma = SimulatedDevice::new(member.endpoint().clone(), hardware, memory);
    let seen = |who: &str| {
        let mut bytes = [0; 6];
        let seen = dma.read(WINDOW, &mut bytes).ok().map(|()| bytes);
        let text = seen.map_or("nothing".to_owned(), |bytes| bytes.escape_ascii().to_string());
        println!("{who}: gpu.0 reads {text} at {WINDOW}");
        seen
    };
    assert_eq!(seen("the driver's domain").as_ref(), Some(b"driver"));

    let vmm = Owner::new("the VMM");
    let refusal = group.claim(&vmm).err().ok_or("a claim passed over the driver's domain")?;
    println!("the VMM claims the group: {}: {refusal}", refusal.errno());
    assert_eq!(refusal.to_string(), "group 0 is attached to a domain of a driver: gpu.0");

    bus.unbind(&gpu_driver, &gpu)?.wait();
    assert_eq!(seen("the default domain"), None);

    let claim = group.claim(&vmm)?;
    claim.attach(&domain(group, &right, USER_PAGE)?)?;
    assert_eq!(seen("the VMM's domain").as_ref(), Some(b"guest!"));
    gpu.set_driver_override(Some("display"));
    let refusal = bus.bind(&display_driver, &gpu).err().ok_or("a driver bound to what the VMM owns")?;
    println!("display binds: {}: {}", refusal.errno(), root(&refusal));
    assert_eq!(root(&refusal).to_string(), "group 0 belongs to the VMM");

    drop(claim); // detaches, and gives the group back
    bus.bind(&display_driver, &gpu)?;
    println!("display binds once the VMM has gone: {:?}", group.ownership());
    assert!(matches!(group.ownership(), Ownership::Kernel { .. }));
    Ok(())
}

/// The error at the bottom, which names who is in the way.
fn root<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    error.source().map_or(error, root)
}
