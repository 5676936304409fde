//! How much memory a mapping takes, with its pins and accounts, apart from the page tables of the hardware. Prints a line for
//! each number of mappings: bytes of one.
#![expect(clippy::expect_used, reason = "what is measured cannot fail")]

use std::sync::Arc;

use allocation_counter::measure;
use vfio_owner::backend::{Extension, MapRequest};
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::software::{LockedPages, Process};
use vfio_owner::iommu_core::{Access, Iova, PhysAddr, UserAddr};
use vfio_owner::iommufd_owner::Place;
use vfio_owner::testbed::{self, Machine};
use vfio_owner::type1::Type1Config;

const NIC: &str = "0000:00:03.0";

/// Mappings lie on every other page from here on.
fn place(number: u64) -> Iova {
    Iova::new((1 << 32) + 2 * number * PAGE_SIZE)
}

struct User {
    machine: Machine,
    process: Arc<Process>,
    page: UserAddr,
}

impl User {
    fn new() -> Self {
        let config = Type1Config { dma_entry_limit: u32::MAX, ..Type1Config::default() };
        let machine = Machine::builder(testbed::pc()).type1(config).build().expect("no device was named");
        machine.unbind(NIC).expect("it is bound").wait();
        machine.bind(NIC, "vfio-pci").expect("it is free");
        let process = machine.process(LockedPages::unlimited());
        let page = process.allocate(PAGE_SIZE, Access::ReadWrite).expect("there is memory");
        Self { machine, process, page }
    }

    fn request<P>(&self, iova: P) -> MapRequest<P> {
        MapRequest { iova, bytes: PAGE_SIZE, process: self.process.clone(), addr: self.page, access: Access::ReadWrite }
    }
}

/// Bytes that stay allocated after so many maps.
fn kept(mappings: u64, map: impl Fn(u64)) -> u64 {
    let allocated = measure(|| (0..mappings).for_each(map));
    u64::try_from(allocated.bytes_current).expect("more is allocated than freed")
}

fn page_tables(mappings: u64) -> u64 {
    let user = User::new();
    let domain = user.machine.group(NIC).expect("it has one").allocate_paging().expect("there is memory");
    kept(mappings, |number| {
        let memory = user.machine.physical_memory();
        domain.map(memory, place(number), PhysAddr::new(0x1000), PAGE_SIZE, Access::ReadWrite).expect("it is free");
    })
}

fn type1(mappings: u64) -> u64 {
    let user = User::new();
    let (group, container) =
        (user.machine.open_group(NIC).expect("it is closed"), user.machine.vfio().open_container());
    group.set_container(&container).expect("it is viable");
    container.set_iommu(Extension::TYPE1_V2).expect("there is a group");
    kept(mappings, |number| container.map(&user.request(place(number))).expect("nothing is there"))
}

fn iommufd(mappings: u64) -> u64 {
    let user = User::new();
    let context = user.machine.open_iommufd("vmm");
    let ioas = context.ioas_alloc().expect("there are ids");
    let device = context.bind(&user.machine.member(NIC).expect("it is there")).expect("nobody has it");
    device.attach(ioas).expect("nothing is in the way");
    kept(mappings, |number| {
        context.ioas_map(ioas, user.request(Place::Fixed(place(number)))).expect("nothing is there");
    })
}

#[expect(clippy::cast_precision_loss, reason = "no number here is that large")]
fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    for mappings in if measured { vec![1_000_000] } else { vec![100] } {
        let tables = page_tables(mappings);
        println!("page tables of a mapping/{mappings}: {:.2}", tables as f64 / mappings as f64);
        for (name, bytes) in [("type1 mapping", type1(mappings)), ("iommufd mapping", iommufd(mappings))] {
            println!("{name}/{mappings}: {:.2}", bytes.saturating_sub(tables) as f64 / mappings as f64);
        }
    }
}
