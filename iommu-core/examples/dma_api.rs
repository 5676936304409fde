//! A kernel driver maps memory for its device through the DMA API of the default domain, in a strict domain and in a
//! lazy one. `cargo run -p iommu-core --features software --example dma_api`.

use std::error::Error;
use std::sync::Arc;

use iommu_core::device_model::platform::{PlatformBus, PlatformDevice};
use iommu_core::device_model::{BoundTo, DeviceSpec, DmaApi, Driver, DriverCore, Errno, ProbeError};
use iommu_core::dma_api::DmaDirection;
use iommu_core::hardware::{Endpoint, IommuDriver};
use iommu_core::software::{Memory, SimulatedDevice, SoftIommu, SoftIommuConfig};
use iommu_core::{
    DefaultDomainType, DmaMapping, IommuSubsystem, Member, PhysAddr, PhysicalMemory, generic_device_group,
};

type Platform = PlatformBus<IommuSubsystem>;

/// A page of the kernel's allocator. A mapping owns it for as long as the device can reach it.
struct Page(PhysAddr);

/// Whether the device still reached a buffer right after it was unmapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AfterUnmap {
    Faults,
    ReachesUntilFlush,
}

/// A network driver, with what it takes to play its card.
struct NicDriver {
    name: Arc<str>,
    right: PhysicalMemory,
    hardware: Arc<SoftIommu>,
    memory: Memory,
}

impl Driver<Platform> for NicDriver {
    /// Without it, `dev.dma()` below has no kernel use to offer.
    type Dma = DmaApi;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn probe(&self, dev: &mut BoundTo<'_, Platform, DmaApi>) -> Result<(), ProbeError> {
        let kernel_use = dev.dma().as_ref().ok_or(ProbeError::errno_only(Errno::ENODEV))?;
        let dma = kernel_use.dma().map_err(failed)?;
        let (to_card, ring) = (self.page()?, self.page()?);
        let ring = dma.map(&self.right, ring.0, 0x1000, DmaDirection::FromDevice, ring).map_err(failed)?;

        self.memory.write(to_card.0, b"ping");
        let packet = dma.map(&self.right, to_card.0, 4, DmaDirection::ToDevice, to_card).map_err(failed)?;
        let card = card(kernel_use.member(), &self.hardware, &self.memory);
        let (iova, mut sent) = (packet.iova(), [0; 4]);
        card.read(iova, &mut sent).map_err(failed)?;
        println!("  the card reads \"{}\" at {iova}", sent.escape_ascii());
        assert_eq!(&sent, b"ping");
        assert!(card.write(iova, b"!").is_err(), "it was mapped for reading only");

        let _page: Page = packet.unmap().map_err(failed)?; // the driver's again
        let after_unmap = match card.read(iova, &mut sent) {
            Ok(()) => AfterUnmap::ReachesUntilFlush,
            Err(_) => AfterUnmap::Faults,
        };
        dma.flush().map_err(failed)?;
        assert!(card.read(iova, &mut sent).is_err(), "nothing is left after a flush");
        dev.manage(ring); // unmapped when the driver leaves
        dev.manage(after_unmap);
        Ok(())
    }
}

impl NicDriver {
    fn page(&self) -> Result<Page, ProbeError> {
        self.memory.allocate(0x1000).map(Page).ok_or(ProbeError::errno_only(Errno::ENOMEM))
    }
}

fn failed(cause: impl Error + Send + Sync + 'static) -> ProbeError {
    ProbeError::caused_by(Errno::EIO, cause)
}

/// The card's side of the device.
fn card(member: &Member, hardware: &Arc<SoftIommu>, memory: &Memory) -> SimulatedDevice {
    SimulatedDevice::new(member.endpoint().clone(), hardware.clone(), memory.clone())
}

fn main() -> Result<(), Box<dyn Error>> {
    assert_eq!(play(DefaultDomainType::Dma)?, AfterUnmap::Faults);
    assert_eq!(play(DefaultDomainType::DmaLazy)?, AfterUnmap::ReachesUntilFlush);
    Ok(())
}

fn play(kind: DefaultDomainType) -> Result<AfterUnmap, Box<dyn Error>> {
    println!("default domain of type {kind:?}");
    // An IOMMU that caches translations, so that a flush that is put off shows.
    let hardware = SoftIommu::new("dmar0", SoftIommuConfig { iotlb: true, ..SoftIommuConfig::default() });
    let unit: Arc<dyn IommuDriver> = hardware.clone();
    let builder = IommuSubsystem::builder(move |_: &Endpoint| Some(generic_device_group(&unit)));
    let (iommu, right) = builder.default_domain(kind).build();
    let bus = DriverCore::new().add_bus(PlatformBus::new(iommu));
    let memory = Memory::new();
    let driver = NicDriver { name: "nic".into(), right, hardware: hardware.clone(), memory: memory.clone() };
    let driver = bus.add_driver(Arc::new(driver))?;
    let nic = bus.add_device(DeviceSpec::new("nic.0", PlatformDevice::default()))?;
    let bound = nic.lock();
    let ring = bound.resource::<DmaMapping<Page>>().ok_or("nic.0 has no driver")?;
    let (iova, at) = (ring.iova(), ring.memory().ok_or("unmapped")?.0);
    let after_unmap = *bound.resource::<AfterUnmap>().ok_or("nic.0 has no driver")?;
    drop(bound);
    println!("  right after an unmap: {after_unmap:?}");

    let card = card(&*nic.dma_slot().member().ok_or("nic.0 is in no group")?, &hardware, &memory);
    card.write(iova, b"pong")?;
    assert_eq!(&memory.bytes::<4>(at), b"pong");
    bus.unbind(&driver, &nic)?.wait();
    let fault = card.write(iova, b"late").err().ok_or("the ring was left mapped")?;
    println!("  after the unbind, a write to the ring faults: {}", fault.reason);
    assert_eq!(&memory.bytes::<4>(at), b"pong");
    Ok(after_unmap)
}
