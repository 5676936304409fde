//! `cargo xtask demo`: the story of one card, told on the machine of a real kernel's snapshot.

mod failing;
mod stage;

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use vfio_owner::backend::Extension;
use vfio_owner::iommu_core::address::{Access, Iova, PhysAddr};
use vfio_owner::iommu_core::device_model::{Errno, pci};
use vfio_owner::iommu_core::sysfs::Snapshot;
use vfio_owner::iommu_core::{Domain, grouping};
use vfio_owner::testbed::{Machine, MachineError};

use stage::Stage;

/// The card: two network functions and a third without driver, without ACS between them.
const CARD: [&str; 3] = ["0000:00:04.0", "0000:00:04.1", "0000:00:04.2"];
/// Where both parties map their page, so that one address shows who is reached.
const BUFFER: Iova = Iova::new(0x10_0000);
const KERNEL_PAGE: PhysAddr = PhysAddr::new(0x100_0000);
const USER_PAGE: PhysAddr = PhysAddr::new(0x200_0000);
const PAGE: u64 = 0x1000;
const KERNEL_TEXT: &[u8; 12] = b"kernel bytes";
const USER_TEXT: &[u8; 12] = b"guest memory";

/// Plays the story; each refusal that it tells of is checked on the way.
pub(crate) fn run() -> Result<()> {
    let snapshot = crate::replay::snapshot("pc")?;
    let machine = Machine::boot(&snapshot);
    let group = machine.group(CARD[0])?;
    let stage = Arc::new(Stage::new(machine, group));
    boot(&stage, &snapshot)?;
    vfio(&stage)?;
    iommufd(&stage)?;
    both(&stage)?;
    failing::play(&stage)?;
    stage.close();
    Ok(())
}

fn boot(stage: &Stage, snapshot: &Snapshot) -> Result<()> {
    let computed = grouping::partition(&snapshot.topology());
    let told: Vec<Vec<pci::PciAddress>> = snapshot.groups.iter().map(|group| group.members.clone()).collect();
    ensure!(computed == told, "the computed groups are not those of the kernel");
    stage.title("A machine, as Linux 6.12 showed it in sysfs: booted from its snapshot");
    stage.groups(snapshot);
    stage.note(&format!(
        "{} devices, {} groups computed from topology and ACS: the same as the kernel's",
        snapshot.devices.len(),
        computed.len()
    ));
    stage.machine().memory().write(KERNEL_PAGE, KERNEL_TEXT);
    stage.machine().memory().write(USER_PAGE, USER_TEXT);
    map_kernel_page(stage)?;
    stage.title("One card, three functions that the IOMMU cannot tell apart, two kernel drivers");
    stage.state();
    stage.dma(CARD[1])
}

/// What e1000 does through the DMA API.
fn map_kernel_page(stage: &Stage) -> Result<()> {
    let domain = stage.group().default_domain().context("the group has no default domain")?;
    Ok(domain.map(stage.machine().physical_memory(), BUFFER, KERNEL_PAGE, PAGE, Access::ReadWrite)?)
}

fn user_domain(stage: &Stage) -> Result<Arc<Domain>> {
    let domain = stage.group().allocate_paging()?;
    domain.map(stage.machine().physical_memory(), BUFFER, USER_PAGE, PAGE, Access::ReadWrite)?;
    Ok(domain)
}

fn vfio(stage: &Stage) -> Result<()> {
    stage.title("VFIO wants function 0, for the group as a whole");
    rebind(stage, CARD[0], "vfio-pci")?;
    let file = stage.machine().open_group(CARD[0])?;
    let container = stage.machine().vfio().open_container();
    let refusal = file.set_container(&container).err().context("VFIO was not refused")?;
    stage.refused("the group is put into a container", refusal.errno(), &refusal);
    stage.note("Linux says \"group is not viable\" and no more; the refusal here names who is in the way");

    unbind(stage, CARD[1])?;
    file.set_container(&container)?;
    stage.done("the group is put into a container", "blocked until the container has an IOMMU");
    stage.dma(CARD[0])?;
    stage.dma(CARD[1])?;

    container.set_iommu(Extension::TYPE1_V2)?;
    container.map(&stage.guest_page(BUFFER)?)?;
    stage.done("the container gets an IOMMU and a page of the guest", "all functions move");
    stage.dma(CARD[0])?;
    stage.dma(CARD[2])?;

    refuse_driver(stage, CARD[1], "e1000")?;
    drop(file);
    stage.done("VFIO's group is closed", "back to the kernel's domain");
    stage.machine().bind(CARD[1], "e1000")?;
    stage.done("e1000 binds to function 1 again", "");
    stage.dma(CARD[1])
}

fn iommufd(stage: &Stage) -> Result<()> {
    stage.title("An iommufd wants two functions, each for itself: its claims nest");
    rebind(stage, CARD[1], "vfio-pci")?;
    let context = stage.machine().open_iommufd("iommufd of a VMM");
    let bound0 = context.bind(&stage.machine().member(CARD[0])?)?;
    stage.done("the iommufd binds function 0", "");
    let bound1 = context.bind(&stage.machine().member(CARD[1])?)?;
    stage.done("the iommufd binds function 1", "");

    let stranger = stage.machine().open_iommufd("another iommufd");
    let refusal = stranger.bind(&stage.machine().member(CARD[1])?).err().context("the stranger was let in")?;
    stage.refused("another iommufd binds function 1", refusal.errno(), &refusal);

    let domain = user_domain(stage)?;
    bound0.claim().attach(&domain)?;
    stage.done("function 0 is attached to the guest's page", "function 1 comes along");
    stage.dma(CARD[1])?;

    drop(bound0);
    stage.done("the iommufd lets function 0 go", "the group stays owned");
    unbind(stage, CARD[0])?;
    refuse_driver(stage, CARD[0], "e1000")?;
    drop(bound1);
    stage.done("the iommufd lets function 1 go", "that was the last claim");
    stage.machine().bind(CARD[0], "e1000")?;
    stage.done("e1000 binds to function 0", "");
    stage.dma(CARD[0])
}

fn both(stage: &Stage) -> Result<()> {
    stage.title("VFIO and an iommufd meet on one group");
    rebind(stage, CARD[0], "vfio-pci")?;
    let file = stage.machine().open_group(CARD[0])?;
    let container = stage.machine().vfio().open_container();
    file.set_container(&container)?;
    stage.done("VFIO puts the group into a container", "");

    let context = stage.machine().open_iommufd("iommufd of a VMM");
    let device = stage.machine().open_device(CARD[1])?;
    let refusal = device.bind_iommufd(&context).err().context("the iommufd got a device of VFIO's group")?;
    stage.refused("the iommufd binds function 1 by its file", refusal.errno(), &refusal);
    let refusal = context.bind(&stage.machine().member(CARD[1])?).err().context("the iommufd got VFIO's group")?;
    stage.refused("it binds function 1 without a file", refusal.errno(), &refusal);
    stage.note("the first refusal is VFIO's, the second that of the group: neither relies on the other");

    drop((file, container));
    stage.done("VFIO closes the group", "");
    device.bind_iommufd(&context)?;
    stage.done("the iommufd binds function 1 by its file", "");
    match stage.machine().open_group(CARD[0]) {
        Err(MachineError::OpenGroup(refusal)) => {
            stage.refused("VFIO opens the group", refusal.errno(), &refusal);
        }
        other => return Err(anyhow!("VFIO was not refused: {other:?}")),
    }
    drop(device);
    stage.done("the iommufd lets function 1 go", "");
    Ok(())
}

fn unbind(stage: &Stage, device: &str) -> Result<()> {
    let driver = stage.machine().driver(device).context("no driver to unbind")?;
    stage.machine().unbind(device)?.wait();
    stage.done(&format!("{driver} is unbound from {}", stage::short(device)), "");
    Ok(())
}

fn rebind(stage: &Stage, device: &str, driver: &str) -> Result<()> {
    unbind(stage, device)?;
    stage.machine().bind(device, driver)?;
    stage.done(&format!("{driver} is bound to {}", stage::short(device)), "it manages its own DMA: no kernel use");
    Ok(())
}

fn refuse_driver(stage: &Stage, device: &str, driver: &str) -> Result<()> {
    match stage.machine().bind(device, driver) {
        Err(MachineError::Bind(error)) if error.errno() == Errno::EBUSY => {
            let reason = anyhow!(error);
            stage.refused(&format!("{driver} wants {} back", stage::short(device)), Errno::EBUSY, &reason.root_cause());
            Ok(())
        }
        other => Err(anyhow!("{driver} was not refused: {other:?}")),
    }
}
