//! Calls on all devices that are reset together.

use alloc::vec;
use alloc::vec::Vec;

use iommu_core::device_model::Errno;
use zerocopy::IntoBytes;

use super::File;
use super::argument::{Argument, check_size};
use super::caller::Reply;
use super::wire;
use crate::device_ops::AffectedFunction;
use crate::open_device::HotResetError;
use crate::{AffectedOwner, GroupFile, HotResetProof, OpenDevice};

/// Owners are told as ids of an iommufd.
const FLAG_DEV_ID: u32 = 1 << 0;
/// The caller owns all of them.
const FLAG_DEV_ID_OWNED: u32 = 1 << 1;

const DEVID_OWNED: u32 = 0;
const DEVID_NOT_OWNED: u32 = u32::MAX;

// Table Vt26.
pub(super) fn get_info(device: &OpenDevice, argument: Argument<'_>) -> Result<Reply, Errno> {
    let head: wire::HotReset = argument.read()?;
    check_size(head.argsz, size_of::<wire::HotReset>())?;
    let refused = |error: HotResetError| argument.refuse(error.errno(), &error);
    let functions = device.hot_reset_functions().map_err(refused)?;
    let count = u32::try_from(functions.len()).unwrap_or(u32::MAX);
    let entry = size_of::<wire::DependentDevice>();
    let room = usize::try_from(head.argsz).unwrap_or(usize::MAX).saturating_sub(size_of::<wire::HotReset>()) / entry;
    if room < functions.len() {
        argument.write(&wire::HotReset { argsz: head.argsz, flags: 0, count })?;
        return Err(Errno::ENOSPC);
    }
    let info = device.hot_reset_info().map_err(refused)?;
    let entries: Vec<_> = info.functions.iter().zip(&info.owners).map(|(of, owner)| describe(of, *owner)).collect();
    let all_owned = !info.owners.contains(&AffectedOwner::NotOwned);
    let flags = match (info.proof, all_owned) {
        (HotResetProof::Groups, _) => 0,
        (HotResetProof::Iommufd, true) => FLAG_DEV_ID | FLAG_DEV_ID_OWNED,
        (HotResetProof::Iommufd, false) => FLAG_DEV_ID,
    };
    argument.put(size_of::<wire::HotReset>() as u64, entries.as_bytes())?;
    argument.write(&wire::HotReset { argsz: head.argsz, flags, count })?;
    Ok(Reply::Value(0))
}

fn describe(function: &AffectedFunction, owner: AffectedOwner) -> wire::DependentDevice {
    let id = match owner {
        AffectedOwner::Group(group) => group.get(),
        AffectedOwner::Object(object) => object.get(),
        AffectedOwner::Owned => DEVID_OWNED,
        AffectedOwner::NotOwned => DEVID_NOT_OWNED,
    };
    let address = function.address;
    let segment = u16::try_from(address.domain()).unwrap_or(u16::MAX);
    wire::DependentDevice { id, segment, bus: address.bus(), devfn: address.devfn().byte() }
}

// Table Vt27.
pub(super) fn hot_reset(device: &OpenDevice, argument: Argument<'_>) -> Result<Reply, Errno> {
    let head: wire::HotReset = argument.read()?;
    check_size(head.argsz, size_of::<wire::HotReset>())?;
    if head.flags != 0 {
        return Err(Errno::EINVAL);
    }
    let refused = |error: HotResetError| argument.refuse(error.errno(), &error);
    let files = usize::try_from(head.count).unwrap_or(usize::MAX);
    device.may_hot_reset(files).map_err(refused)?;
    let mut descriptors = vec![0_i32; files];
    argument.fill(size_of::<wire::HotReset>() as u64, descriptors.as_mut_bytes())?;
    let group = |descriptor| match argument.caller.file(descriptor) {
        Some(File::Group(group)) => Ok(group),
        Some(_) => Err(Errno::EINVAL),
        None => Err(Errno::EBADF),
    };
    let groups = descriptors.into_iter().map(group).collect::<Result<Vec<GroupFile>, Errno>>()?;
    device.hot_reset(&groups.iter().collect::<Vec<_>>()).map_err(refused)?;
    Ok(Reply::Value(0))
}
