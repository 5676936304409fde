//! Calls on a device: what it is, and its regions.

use iommu_core::device_model::Errno;

use super::argument::{Argument, check_size};
use super::caller::Reply;
use super::numbers::{self, Served, served};
use super::{capabilities, device_file, feature, hot_reset, interrupts, wire};
use crate::OpenDevice;
use crate::device_ops::{DeviceKind, RegionIndex};

pub(super) static CALLS: &[Served<OpenDevice>] = &[
    served("VFIO_DEVICE_GET_INFO", 7, get_info),
    served("VFIO_DEVICE_GET_REGION_INFO", 8, get_region_info),
    served("VFIO_DEVICE_GET_IRQ_INFO", 9, interrupts::get_irq_info),
    served("VFIO_DEVICE_SET_IRQS", 10, interrupts::set_irqs),
    served("VFIO_DEVICE_RESET", 11, reset),
    served("VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", 12, hot_reset::get_info),
    served("VFIO_DEVICE_PCI_HOT_RESET", 13, hot_reset::hot_reset),
    served("VFIO_DEVICE_IOEVENTFD", 16, interrupts::ioeventfd),
    served("VFIO_DEVICE_FEATURE", 17, feature::feature),
];

/// What is answered besides on a device that was opened through its group.
pub(super) static CALLS_THROUGH_GROUP: &[Served<OpenDevice>] =
    &[served("VFIO_DEVICE_BIND_IOMMUFD", 18, |_, argument| device_file::read_bind(argument).and(Err(Errno::EINVAL)))];

// V70, Vt11.3.
pub(super) fn ioctl(device: &OpenDevice, number: u32, argument: Argument<'_>) -> Result<Reply, Errno> {
    numbers::serve(CALLS_THROUGH_GROUP, device, number, argument).unwrap_or_else(|| serve(device, number, argument))
}

/// Serves the calls that do not depend on how the device was opened.
pub(super) fn serve(device: &OpenDevice, number: u32, argument: Argument<'_>) -> Result<Reply, Errno> {
    numbers::serve(CALLS, device, number, argument).unwrap_or(Err(Errno::ENOTTY))
}

const FLAG_RESET: u32 = 1 << 0;
const FLAG_CAPS: u32 = 1 << 7;

const fn flag_of(kind: DeviceKind) -> u32 {
    match kind {
        DeviceKind::Unspecified => 0,
        DeviceKind::Pci => 1 << 1,
        DeviceKind::Platform => 1 << 2,
    }
}

// V73.
fn get_info(device: &OpenDevice, argument: Argument<'_>) -> Result<Reply, Errno> {
    let [mut argsz, ..]: [u32; 4] = argument.read()?;
    check_size(argsz, size_of::<[u32; 4]>())?;
    let room = argsz;
    let info = device.info();
    let chain = capabilities::of_device(&info);
    let caps = if chain.is_empty() { 0 } else { FLAG_CAPS };
    let mut cap_offset = 0;
    chain.place(argument, &mut argsz, &mut cap_offset)?;
    let reset = if info.resettable { FLAG_RESET } else { 0 };
    let reply = wire::DeviceInfo {
        argsz,
        flags: flag_of(info.kind) | reset | caps,
        num_regions: info.regions,
        num_irqs: info.irqs,
        cap_offset,
        pad: 0,
    };
    argument.write_first(&reply, room)?;
    Ok(Reply::Value(0))
}

const REGION_READ: u32 = 1 << 0;
const REGION_WRITE: u32 = 1 << 1;
const REGION_MMAP: u32 = 1 << 2;
const REGION_CAPS: u32 = 1 << 3;

// V76, table Vt20.
fn get_region_info(device: &OpenDevice, argument: Argument<'_>) -> Result<Reply, Errno> {
    let mut reply: wire::RegionInfo = argument.read()?;
    check_size(reply.argsz, size_of::<wire::RegionInfo>())?;
    let region = device.region(RegionIndex::new(reply.index)).ok_or(Errno::EINVAL)?;
    let chain = capabilities::of_region(&region.capabilities);
    let flags = [
        (region.readable, REGION_READ),
        (region.writable, REGION_WRITE),
        (region.mappable, REGION_MMAP),
        (!chain.is_empty(), REGION_CAPS),
    ];
    reply.flags = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
    (reply.size, reply.offset) = (region.size, region.offset);
    chain.place(argument, &mut reply.argsz, &mut reply.cap_offset)?;
    argument.write(&reply)?;
    Ok(Reply::Value(0))
}

// V86.
fn reset(device: &OpenDevice, argument: Argument<'_>) -> Result<Reply, Errno> {
    device.reset().map_err(|error| argument.refuse(error.errno(), &error))?;
    Ok(Reply::Value(0))
}
