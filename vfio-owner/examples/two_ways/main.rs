//! One card of three functions in one IOMMU group, given to a VMM in the two ways that Linux knows, in equal steps: VFIO
//! claims the group, an iommufd claims each device. Then the two meet on the group.
//! `cargo run -p vfio-owner --features testbed --example two_ways`.

mod stage;

use stage::{CARD, Result, Stage, refused};
use vfio_owner::backend::Extension;

fn main() -> Result {
    let stage = Stage::new()?;
    group_centric(&stage)?;
    device_centric(&stage)?;
    both(&stage)
}

/// VFIO: one claim, of the group.
fn group_centric(stage: &Stage) -> Result {
    println!("VFIO");
    let machine = &stage.machine;
    let (group, container) = (machine.open_group(CARD[0])?, machine.vfio().open_container());
    refused(1, "claim, with a driver on function 1", group.set_container(&container), "0000:00:04.1 (e1000)")?;
    stage.rebind(CARD[1], "vfio-pci")?;
    group.set_container(&container)?;
    stage.step(2, "claim the group, for function 0", 1)?;
    stage.step(3, "function 1 comes with it", 1)?;
    refused(4, "a stranger claims function 1", stage.stranger()?, "VFIO group 3")?;
    refused(5, "e1000 binds to function 2", machine.bind(CARD[2], "e1000"), "VFIO group 3")?;
    stage.dma(6, CARD[0], "nothing")?;
    container.set_iommu(Extension::TYPE1_V2)?;
    stage.step(7, "address space: the one of the container", 1)?;
    container.map(&stage.map_dma(stage.first))?;
    stage.step(8, "map a page: the whole group reaches it", 1)?;
    let [open0, open1] = [group.device(CARD[0])?, group.device(CARD[1])?];
    stage.step(9, "open functions 0 and 1", 1)?;
    stage.dma(10, CARD[0], "first")?;
    stage.dma(11, CARD[2], "first")?;

    // Out of the container only with every device closed; until it is claimed again, the group is anybody's.
    drop((open0, open1));
    group.unset_container()?;
    let container = machine.vfio().open_container();
    group.set_container(&container)?;
    container.set_iommu(Extension::TYPE1_V2)?;
    container.map(&stage.map_dma(stage.other))?;
    let [open0, open1] = [group.device(CARD[0])?, group.device(CARD[1])?];
    stage.step(12, "move: close, leave, claim again, open", 1)?;
    stage.dma(13, CARD[0], "other")?;
    drop(open0);
    stage.step(14, "close function 0: the claim stays", 1)?;
    drop((open1, container, group));
    stage.step(15, "close function 1 and the group", 0)?;
    stage.rebind(CARD[1], "e1000")
}

/// An iommufd: one claim for each device.
fn device_centric(stage: &Stage) -> Result {
    println!("\niommufd");
    let machine = &stage.machine;
    let (file0, context) = (machine.open_device(CARD[0])?, machine.open_iommufd("iommufd of the VMM"));
    refused(1, "claim, with a driver on function 1", file0.bind_iommufd(&context), "0000:00:04.1 (e1000)")?;
    stage.rebind(CARD[1], "vfio-pci")?;
    let (bound0, file1) = (file0.bind_iommufd(&context)?, machine.open_device(CARD[1])?);
    stage.step(2, "claim function 0", 1)?;
    let bound1 = file1.bind_iommufd(&context)?;
    stage.step(3, "claim function 1", 2)?;
    refused(4, "a stranger claims function 1", stage.stranger()?, "iommufd of the VMM")?;
    refused(5, "e1000 binds to function 2", machine.bind(CARD[2], "e1000"), "iommufd of the VMM")?;
    stage.dma(6, CARD[0], "nothing")?;
    let [first, other] = [context.ioas_alloc()?, context.ioas_alloc()?];
    stage.step(7, "address spaces: as many as one likes", 2)?;
    context.ioas_map(first, stage.map_request(stage.first))?;
    context.ioas_map(other, stage.map_request(stage.other))?;
    stage.step(8, "map a page in each: nobody reaches it yet", 2)?;
    bound0.attach_iommufd_pt(first)?; // moves the group
    bound1.attach_iommufd_pt(first)?; // joins
    stage.step(9, "attach functions 0 and 1", 2)?;
    stage.dma(10, CARD[0], "first")?;
    stage.dma(11, CARD[2], "first")?;

    // Both move at once, and never by way of nothing.
    bound0.attach_iommufd_pt(other)?;
    stage.step(12, "move: replace, while the devices run", 2)?;
    stage.dma(13, CARD[0], "other")?;
    drop((bound0, file0));
    stage.step(14, "close function 0: its claim goes", 1)?;
    drop((bound1, file1, context));
    stage.step(15, "close function 1", 0)?;
    stage.rebind(CARD[1], "e1000")
}

/// Both on one group: whoever comes second is refused, and told of the first.
fn both(stage: &Stage) -> Result {
    println!("\nVFIO and an iommufd meet");
    let machine = &stage.machine;
    stage.rebind(CARD[1], "vfio-pci")?;
    let (group, container) = (machine.open_group(CARD[0])?, machine.vfio().open_container());
    group.set_container(&container)?;
    stage.step(1, "VFIO claims the group", 1)?;
    let (file, context) = (machine.open_device(CARD[1])?, machine.open_iommufd("iommufd of the VMM"));
    refused(2, "the iommufd binds the file of function 1", file.bind_iommufd(&context), "file of group 3")?;
    refused(3, "a stranger claims function 1", stage.stranger()?, "VFIO group 3")?;
    drop((group, container));
    let bound = file.bind_iommufd(&context)?;
    stage.step(4, "VFIO closes, the iommufd binds", 1)?;
    refused(5, "VFIO opens the group", machine.open_group(CARD[0]), "device file of 0000:00:04.1")?;
    drop((bound, file));
    stage.step(6, "the iommufd closes", 0)
}
