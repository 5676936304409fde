//! A kernel that lets go of its devices: drivers use them, user space claims them, never both at a time.
//!
//! Two chips share an IOMMU group, as the IOMMU cannot tell them apart for certain. While a driver uses one of them the
//! group cannot be claimed; while it is claimed no driver binds.
//!
//! - `locks`: what the libraries need of a kernel, besides an allocator (`memory`);
//! - `board`: a bus with its drivers; `iommu`: an IOMMU driver;
//! - `boot`: from the first instruction to `main`.
#![no_std]
#![no_main]

extern crate alloc;

mod board;
mod boot;
mod iommu;
mod locks;
mod memory;
mod threads;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::error::Error;

use device_model::sync::{SpinMutex, UserGuard, Users};
use device_model::{BindError, Device, DeviceSpec, DriverCore, Errno};
use iommu_core::hardware::{DefaultDomainType, Endpoint, IommuDriver};
use iommu_core::{ClaimError, IommuSubsystem, Owner, generic_single_device_group};

use board::{Board, Chip, ChipDriver};
use iommu::Gate;

extern "C" fn main() -> ! {
    match play() {
        Ok(()) => boot::exit(boot::Exit::Success),
        Err(error) => panic!("{error}"),
    }
}

fn play() -> Result<(), Box<dyn Error>> {
    // The IOMMU, with one group for all devices behind it; their default domain lets DMA pass.
    let gate: Arc<dyn IommuDriver> = Arc::new(Gate);
    let (iommu, _) = IommuSubsystem::builder(move |_: &Endpoint| Some(generic_single_device_group(&gate)))
        .default_domain(DefaultDomainType::Identity)
        .build();

    // The bus, its devices, and their drivers, which bind as they come.
    let core = DriverCore::new();
    let board = core.add_bus(Board(iommu.clone()));
    let nic = board.add_device(DeviceSpec::new("nic.0", Chip { kind: "nic", requester: 1 }))?;
    let disk = board.add_device(DeviceSpec::new("disk.0", Chip { kind: "disk", requester: 2 }))?;
    let nic_driver = board.add_driver(ChipDriver::new("ether", "nic"))?;
    let disk_driver = board.add_driver(ChipDriver::new("sata", "disk"))?;
    show([&nic, &disk]);

    // Somebody opens a device.
    let users = nic.lock().resource::<Arc<Users>>().cloned().ok_or("no driver")?;
    *OPEN.lock() = users.enter();
    threads::start(close);

    // User space asks for the group, which it cannot have while a driver uses any of its devices.
    let group = iommu.groups().pop().ok_or("no group")?;
    let vmm = Owner::new("vmm");
    refused(group.claim(&vmm), ClaimError::errno);
    board.unbind(&nic_driver, &nic)?.wait();
    refused(group.claim(&vmm), ClaimError::errno);

    // Now it has it, and no driver can have any of its devices.
    board.unbind(&disk_driver, &disk)?.wait();
    let claim = group.claim(&vmm)?;
    line!("claimed: {:?}", group.ownership());
    show([&nic, &disk]);
    refused(board.bind(&nic_driver, &nic), BindError::errno);

    // Until it gives it back.
    drop(claim);
    line!("released: {:?}", group.ownership());
    board.bind(&nic_driver, &nic)?;
    show([&nic, &disk]);
    line!("done");
    Ok(())
}

/// Who has the first device open.
static OPEN: SpinMutex<Option<UserGuard>> = SpinMutex::new(None);

/// The other thread: has its turn when the first one waits, for the device to be closed.
extern "C" fn close() -> ! {
    line!("nic.0: is closed");
    let user = OPEN.lock().take();
    // Not under the spinning lock: leaving takes a lock that sleeps.
    drop(user);
    loop {
        threads::yield_now();
    }
}

fn refused<T, E: Error>(result: Result<T, E>, errno: impl Fn(&E) -> Errno) {
    let Err(error) = result else { panic!("this must be refused") };
    let number = errno(&error).name().unwrap_or_default();
    line!("refused with {number}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        line!("    {error}");
        cause = error.source();
    }
}

/// Lets each device try a transaction.
fn show(devices: [&Device<Board>; 2]) {
    for dev in devices {
        let does = if iommu::passes(dev.description().requester) { "passes" } else { "is blocked" };
        line!("{}: its DMA {does}", dev.name());
    }
}
