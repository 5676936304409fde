//! Calls on a group.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use iommu_core::device_model::Errno;

use super::argument::{Argument, check_size};
use super::caller::{NewFile, Reply};
use super::numbers::{self, Served, served};
use super::wire;
use super::{Capability, File};
use crate::group_file::SetContainerError;
use crate::{GroupFile, GroupStatus};

pub(super) static CALLS: &[Served<GroupFile>] = &[
    served("VFIO_GROUP_GET_STATUS", 3, get_status),
    served("VFIO_GROUP_SET_CONTAINER", 4, set_container),
    served("VFIO_GROUP_UNSET_CONTAINER", 5, unset_container),
    served("VFIO_GROUP_GET_DEVICE_FD", 6, get_device_fd),
];

pub(super) fn ioctl(group: &GroupFile, number: u32, argument: Argument<'_>) -> Result<Reply, Errno> {
    numbers::serve(CALLS, group, number, argument).unwrap_or(Err(Errno::ENOTTY))
}

const FLAG_VIABLE: u32 = 1 << 0;
const FLAG_CONTAINER_SET: u32 = 1 << 1;

// Table Vt3.
fn get_status(group: &GroupFile, argument: Argument<'_>) -> Result<Reply, Errno> {
    let head: wire::Head = argument.read()?;
    check_size(head.argsz, size_of::<wire::Head>())?;
    let status = group.status().map_err(|error| argument.refuse(error.errno(), &error))?;
    let flags = match status {
        GroupStatus::NotViable => 0,
        GroupStatus::Viable => FLAG_VIABLE,
        GroupStatus::InContainer => FLAG_VIABLE | FLAG_CONTAINER_SET,
    };
    argument.write(&wire::Head { flags, ..head })?;
    Ok(Reply::Value(0))
}

// Tables Vt4, Vt7.
fn set_container(group: &GroupFile, argument: Argument<'_>) -> Result<Reply, Errno> {
    let descriptor: i32 = argument.read()?;
    let file = argument.caller.file(descriptor).ok_or(Errno::EBADF)?;
    group.may_set_container().map_err(|error| argument.refuse(error.errno(), &error))?;
    let set = match &file {
        // Vt7.1.
        File::Container(_) if !may_use(group, argument) => return Err(Errno::EPERM),
        File::Container(container) => group.set_container(container),
        file => match file.iommufd() {
            Some(context) => group.set_iommufd(context),
            None => Err(SetContainerError::WrongFile { group: group.id() }),
        },
    };
    set.map_err(|error| argument.refuse(error.errno(), &error))?;
    Ok(Reply::Value(0))
}

// Table Vt5.
fn unset_container(group: &GroupFile, argument: Argument<'_>) -> Result<Reply, Errno> {
    group.unset_container().map_err(|error| argument.refuse(error.errno(), &error))?;
    Ok(Reply::Value(0))
}

/// How long a name may be, with the zero at its end.
const MAX_NAME: usize = 4096;

// Table Vt6.
fn get_device_fd(group: &GroupFile, argument: Argument<'_>) -> Result<Reply, Errno> {
    let name = read_name(argument)?;
    let device = group.device(&name).map_err(|error| argument.refuse(error.errno(), &error))?;
    // Vt6.6, Vt6.9.
    if !may_use(group, argument) {
        return Err(Errno::EPERM);
    }
    Ok(Reply::File(NewFile::Device(device)))
}

/// Whether the caller may use the group: without an IOMMU, not everybody may.
fn may_use(group: &GroupFile, argument: Argument<'_>) -> bool {
    group.iommu_group().is_some() || argument.caller.has(Capability::SysRawio)
}

/// Copies a string that ends with a zero, piece by piece, none of which crosses a page. What is no UTF-8 is the name of
/// nothing.
fn read_name(argument: Argument<'_>) -> Result<String, Errno> {
    const PIECE: u64 = 64;
    let mut name = Vec::new();
    while name.len() < MAX_NAME {
        let at = argument.value().saturating_add(name.len() as u64);
        let mut piece = vec![0_u8; usize::try_from(PIECE - at % PIECE).unwrap_or(1)];
        argument.fill(name.len() as u64, &mut piece)?;
        if let Some(end) = piece.iter().position(|byte| *byte == 0) {
            name.extend(piece.drain(..end));
            return if name.len() < MAX_NAME {
                Ok(String::from_utf8_lossy(&name).into_owned())
            } else {
                Err(Errno::EINVAL)
            };
        }
        name.append(&mut piece);
    }
    Err(Errno::EINVAL)
}
