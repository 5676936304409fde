//! The way of a VMM that gives a device to its guest: bind it, make an address space, map the guest's memory, attach;
//! later replace the address space while the device runs. `cargo run -p iommufd-owner --example vmm_attach`.

use std::error::Error;
use std::sync::Arc;

use iommu_core::device_model::DeviceId;
use iommu_core::hardware::{Endpoint, IommuDriver};
use iommu_core::software::{LockedPages, Memory, Process, SimulatedDevice, SoftIommu, SoftIommuConfig};
use iommu_core::{Access, Attached, IommuSubsystem, Iova, KernelUse, Ownership, UserMemory, generic_device_group};
use iommufd_owner::{Context, CopyRequest, MapRequest, ObjectType, Place};

const RAM_BYTES: u64 = 1 << 20;
/// Where the guest has its memory; the device uses the guest's addresses.
const RAM: Iova = Iova::new(0x4000_0000);

fn main() -> Result<(), Box<dyn Error>> {
    // A network card behind an IOMMU, and a VMM with memory for its guest.
    let hardware = SoftIommu::new("dmar0", SoftIommuConfig::default());
    let unit: Arc<dyn IommuDriver> = hardware.clone();
    let (iommu, physical) = IommuSubsystem::builder(move |_: &Endpoint| Some(generic_device_group(&unit))).build();
    let nic = iommu.add_device(&Endpoint::new(DeviceId::new(1), "01:00.0"))?.ok_or("no IOMMU serves 01:00.0")?;
    let memory = Memory::new();
    let vmm = Process::new(&memory, LockedPages::limited(64 << 20));
    let ram = vmm.allocate(RAM_BYTES, Access::ReadWrite).ok_or("no memory")?;
    let dma = SimulatedDevice::new(nic.endpoint().clone(), hardware, memory);

    // A kernel driver that uses the device keeps it, and is named.
    let context = Context::new("iommufd of the VMM", &physical);
    let kernel_use = KernelUse::begin(nic.clone(), &"e1000e".into())?;
    let refusal = context.bind(&nic).err().ok_or("the VMM was not refused")?;
    println!("bind: {}: {refusal}", refusal.errno());
    assert_eq!(refusal.to_string(), "group 0 is used by kernel drivers: 01:00.0 (e1000e)");
    drop(kernel_use);

    // Bound, the device reaches nothing yet.
    let bound = context.bind(&nic)?;
    println!("bind: device object {}, attached to {}", bound.id(), nic.group().attached());
    assert_eq!(nic.group().attached(), Attached::Blocking);
    assert!(dma.write(RAM, b"packet").is_err());

    // An address space can be filled before a device comes. Nothing is pinned before it can be reached.
    let ioas = context.ioas_alloc()?;
    let request = MapRequest {
        iova: Place::Fixed(RAM),
        bytes: RAM_BYTES,
        process: vmm.clone(),
        addr: ram,
        access: Access::ReadWrite,
    };
    context.ioas_map(ioas, request)?;
    println!("map: {RAM_BYTES:#x} bytes at {RAM}, {} pages pinned", vmm.pinned());
    assert_eq!(vmm.pinned(), 0);

    let hwpt = bound.attach(ioas)?;
    println!("attach: page table {hwpt} for address space {ioas}, {} pages pinned", vmm.pinned());
    assert_eq!((context.object_type(hwpt), vmm.pinned()), (Some(ObjectType::PagingHwpt), RAM_BYTES / 0x1000));
    dma.write(RAM, b"packet")?;
    let mut packet = [0; 6];
    vmm.read(ram, &mut packet)?;
    assert_eq!(&packet, b"packet");
    println!("DMA: the guest finds \"{}\" in its memory", packet.escape_ascii());

    // Another view of the same memory, read-only, as for a guest that moves; it is not pinned once more.
    let view = context.ioas_alloc()?;
    let all = CopyRequest { from: RAM, bytes: RAM_BYTES, place: Place::Fixed(RAM), access: Access::Read };
    context.ioas_copy(view, ioas, all)?;
    bound.replace(view)?;
    println!("replace: address space {view}, {} pages pinned", vmm.pinned());
    assert_eq!(vmm.pinned(), RAM_BYTES / 0x1000);
    dma.read(RAM, &mut packet)?;
    let fault = dma.write(RAM, b"!").err().ok_or("the view is not read-only")?;
    println!("DMA: reads still arrive, a write faults: {}", fault.reason);
    assert_eq!(context.object_type(hwpt), None, "the page table went with its last device");

    // A failed replace leaves the device where it is.
    let refusal = bound.replace(bound.id()).err().ok_or("a device was attached to itself")?;
    println!("replace: {}: {refusal}", refusal.errno());
    dma.read(RAM, &mut packet)?;

    drop(bound); // detaches, and gives the group back
    assert_eq!(nic.group().ownership(), Ownership::Idle);
    drop(context); // the address spaces go, and with them the pins
    assert_eq!(vmm.pinned(), 0);
    println!("closed: group {} is idle, nothing is pinned", nic.group().id());
    Ok(())
}
