//! Calls on a device file, bound to an iommufd or not yet.

use iommu_core::device_model::Errno;
use iommufd_owner::ObjectId;

use super::argument::{Argument, check_size};
use super::caller::Reply;
use super::numbers::{self, Served, served};
use super::{device, wire};
use crate::device_file::BindIommufdError;
use crate::{BoundDeviceFile, DeviceFile};

/// What is answered before the file is bound.
pub(super) static CALLS_TO_BIND: &[Served<DeviceFile>] = &[served("VFIO_DEVICE_BIND_IOMMUFD", 18, bind_iommufd)];

/// What is answered besides once it is bound.
pub(super) static CALLS: &[Served<BoundDeviceFile>] = &[
    served("VFIO_DEVICE_ATTACH_IOMMUFD_PT", 19, attach_iommufd_pt),
    served("VFIO_DEVICE_DETACH_IOMMUFD_PT", 20, detach_iommufd_pt),
];

// V70.
pub(super) fn ioctl(file: &DeviceFile, number: u32, argument: Argument<'_>) -> Result<Reply, Errno> {
    if let Some(answer) = numbers::serve(CALLS_TO_BIND, file, number, argument) {
        return answer;
    }
    let bound = file.bound().map_err(|error| argument.refuse(error.errno(), &error))?;
    numbers::serve(CALLS, &bound, number, argument).unwrap_or_else(|| device::serve(&bound, number, argument))
}

// Table Vt11.
fn bind_iommufd(file: &DeviceFile, argument: Argument<'_>) -> Result<Reply, Errno> {
    let bind = read_bind(argument)?;
    let refused = |error: BindIommufdError| argument.refuse(error.errno(), &error);
    let binding = file.begin_bind().map_err(refused)?;
    let iommufd = argument.caller.file(bind.iommufd).ok_or(Errno::EBADF)?;
    let context = iommufd.iommufd().ok_or(Errno::EBADFD)?;
    let bound = binding.to(context).map_err(refused)?;
    let reply = wire::BindIommufd { out_devid: bound.iommufd_id().get(), ..bind };
    if let Err(fault) = argument.write(&reply) {
        file.undo_bind(bound);
        return Err(fault);
    }
    Ok(Reply::Value(0))
}

// Vt11.1, Vt11.2.
pub(super) fn read_bind(argument: Argument<'_>) -> Result<wire::BindIommufd, Errno> {
    let bind: wire::BindIommufd = argument.read()?;
    check_size(bind.argsz, size_of::<wire::BindIommufd>())?;
    if bind.flags != 0 || bind.iommufd < 0 { Err(Errno::EINVAL) } else { Ok(bind) }
}

// Table Vt12.
fn attach_iommufd_pt(bound: &BoundDeviceFile, argument: Argument<'_>) -> Result<Reply, Errno> {
    let attach: wire::AttachPt = argument.read()?;
    check_size(attach.argsz, size_of::<wire::AttachPt>())?;
    if attach.flags != 0 {
        return Err(Errno::EINVAL);
    }
    let attached = bound.attach_iommufd_pt(ObjectId::new(attach.pt_id));
    let pt_id = attached.map_err(|error| argument.refuse(error.errno(), &error))?.get();
    argument.put(size_of::<wire::Head>() as u64, &pt_id.to_ne_bytes()).inspect_err(|_| bound.detach_iommufd_pt())?;
    Ok(Reply::Value(0))
}

// V59.
fn detach_iommufd_pt(bound: &BoundDeviceFile, argument: Argument<'_>) -> Result<Reply, Errno> {
    let head: wire::Head = argument.read()?;
    check_size(head.argsz, size_of::<wire::Head>())?;
    if head.flags != 0 {
        return Err(Errno::EINVAL);
    }
    bound.detach_iommufd_pt();
    Ok(Reply::Value(0))
}
