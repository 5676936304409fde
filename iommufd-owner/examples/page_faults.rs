//! Page faults that user space answers: a device asks for pages that its guest has not mapped; the VMM reads the faults
//! from a queue, has the guest's page table repaired, and answers. `cargo run -p iommufd-owner --example page_faults`.

use std::error::Error;
use std::sync::Arc;

use iommu_core::device_model::DeviceId;
use iommu_core::hardware::{
    Capabilities, Endpoint, IommuDriver, PageAnswer, PagePermissions, PagingFlags, UserData, WantedPage,
};
use iommu_core::software::nested::{STAGE_1_FORMAT, Stage1, stage_1_entry};
use iommu_core::software::{LockedPages, Memory, Process, SimulatedDevice, SoftIommu, SoftIommuConfig};
use iommu_core::{Access, IommuSubsystem, Iova, UserAddr, UserMemory, generic_device_group};
use iommufd_owner::{Context, HwptRequest, MapRequest, Place};

const PAGE: u64 = 0x1000;
/// Pages of the guest's memory, which begins at its address 0. The first holds its page table for the device.
const RAM_PAGES: u64 = 16;

fn main() -> Result<(), Box<dyn Error>> {
    // An IOMMU that knows page tables of guests (nesting) and page requests (PRI).
    let mut config = SoftIommuConfig::default();
    config.capabilities = config.capabilities.union(Capabilities::NESTING).union(Capabilities::PAGE_REQUESTS);
    let hardware = SoftIommu::new("smmu0", config);
    let unit: Arc<dyn IommuDriver> = hardware.clone();
    let (iommu, physical) = IommuSubsystem::builder(move |_: &Endpoint| Some(generic_device_group(&unit))).build();
    let gpu = iommu.add_device(&Endpoint::new(DeviceId::new(1), "03:00.0"))?.ok_or("no IOMMU serves 03:00.0")?;
    let memory = Memory::new();
    let vmm = Process::new(&memory, LockedPages::unlimited());
    let ram = vmm.allocate(RAM_PAGES * PAGE, Access::ReadWrite).ok_or("no memory")?;
    let device = SimulatedDevice::new(gpu.endpoint().clone(), hardware, memory);

    // The VMM's address space shows the guest's memory; on top of it is the guest's page table, whose faults go to the
    // queue.
    let context = Context::new("iommufd of the VMM", &physical);
    let bound = context.bind(&gpu)?;
    let ioas = context.ioas_alloc()?;
    let (bytes, access) = (RAM_PAGES * PAGE, Access::ReadWrite);
    let place = Place::Fixed(Iova::new(0));
    context.ioas_map(ioas, MapRequest { iova: place, bytes, process: vmm.clone(), addr: ram, access })?;
    let parent = HwptRequest { flags: PagingFlags::NEST_PARENT, ..HwptRequest::default() };
    let parent = context.hwpt_alloc_with(bound.id(), ioas, parent)?;
    let queue = context.fault_queue_alloc()?;
    let stage_1 = Stage1 { table: Iova::new(0), entries: RAM_PAGES }.to_bytes();
    let data = Some(UserData { kind: STAGE_1_FORMAT, bytes: &stage_1 });
    let nested = HwptRequest { faults: Some(queue.id()), data, ..HwptRequest::default() };
    let nested = context.hwpt_alloc_with(bound.id(), parent, nested)?;
    bound.attach(nested)?;
    println!("attached to page table {nested}, whose faults go to queue {}", queue.id());

    // The guest has mapped nothing. The device asks for two pages as one group, then for a page that there is not.
    let target = Iova::new(2 * PAGE);
    assert!(device.write(target, b"texture").is_err());
    let page =
        |number, access| WantedPage { iova: Iova::new(number * PAGE), permissions: PagePermissions::from(access) };
    device.request_pages(7, vec![page(2, Access::Write), page(3, Access::Write)]);
    device.request_pages(8, vec![page(99, Access::Read)]);
    let refusal = queue.read(1).err().ok_or("a group of two was read into room for one")?;
    println!("read into room for one fault: {}: {refusal}", refusal.errno());
    let faults = queue.read(8)?;
    assert_eq!(faults.iter().map(|fault| (fault.group, fault.more)).collect::<Vec<_>>(), [(7, 1), (7, 0), (8, 0)]);

    // Each fault is the guest's to repair; the last one of a group brings the answer to all of it.
    for fault in faults {
        println!("fault of group {}: {:?} at {}, {} more", fault.group, fault.permissions, fault.iova, fault.more);
        let number = fault.iova.get() / PAGE;
        let answer = if number < RAM_PAGES {
            let entry = stage_1_entry(fault.iova, Access::ReadWrite);
            vmm.write(UserAddr::new(ram.get() + 8 * number), &entry.to_le_bytes())?;
            PageAnswer::Success
        } else {
            PageAnswer::Invalid
        };
        if fault.more == 0 {
            queue.respond(fault.cookie, answer)?;
            let refusal = queue.respond(fault.cookie, answer).err().ok_or("a group was answered twice")?;
            println!("  answered {answer:?}; a second answer: {}: {refusal}", refusal.errno());
        }
    }
    device.write(target, b"texture")?;
    let mut texture = [0; 7];
    vmm.read(UserAddr::new(ram.get() + target.get()), &mut texture)?;
    assert_eq!(&texture, b"texture");
    println!("the device goes on: the guest finds \"{}\"", texture.escape_ascii());

    // A device that is detached has nobody to wait for: what was not answered is answered for it.
    device.request_pages(9, vec![page(4, Access::Read)]);
    bound.detach();
    assert!(!queue.has_pending());
    let answers: Vec<_> = device.take_answers().into_iter().map(|answer| (answer.index, answer.answer)).collect();
    println!("the device was answered: {answers:?}");
    assert_eq!(answers, [(7, PageAnswer::Success), (8, PageAnswer::Invalid), (9, PageAnswer::Invalid)]);
    Ok(())
}
