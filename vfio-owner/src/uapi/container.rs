//! Calls on a container.

use iommu_core::device_model::Errno;
use iommu_core::{Access, Iova, UserAddr};

use super::Capability;
use super::argument::{Argument, check_size};
use super::caller::Reply;
use super::numbers::{self, Served, served};
use super::{capabilities, wire};
use crate::Container;
use crate::backend::{DirtyError, DirtyRequest, DirtyTracking, Extension, MapRequest, Unmap, UserBitmap};
use crate::container::SetIommuError;

const API_VERSION: u32 = 0;

pub(super) static CALLS: &[Served<Container>] = &[
    served("VFIO_GET_API_VERSION", 0, |_, _| Ok(Reply::Value(API_VERSION))),
    served("VFIO_CHECK_EXTENSION", 1, |container, argument| {
        Ok(Reply::Value(container.check_extension(extension(argument))))
    }),
    served("VFIO_SET_IOMMU", 2, set_iommu),
    served("VFIO_IOMMU_GET_INFO", 12, get_info),
    served("VFIO_IOMMU_MAP_DMA", 13, map_dma),
    served("VFIO_IOMMU_UNMAP_DMA", 14, unmap_dma),
    served("VFIO_IOMMU_DIRTY_PAGES", 17, dirty_pages),
];

/// The number of the first call that the container leaves to its IOMMU.
const FIRST_OF_IOMMU: u32 = 3;

pub(super) fn ioctl(container: &Container, number: u32, argument: Argument<'_>) -> Result<Reply, Errno> {
    // V53: without an IOMMU, every call that would be its own is an error, known or not.
    let own = CALLS.iter().take(FIRST_OF_IOMMU as usize).any(|served| served.call.number == number);
    if !own && !container.has_iommu() {
        return Err(Errno::EINVAL);
    }
    if !own && container.serves_nothing() {
        return Err(Errno::ENOTTY);
    }
    numbers::serve(CALLS, container, number, argument).unwrap_or(Err(Errno::ENOTTY))
}

/// What is no 32-bit number is no extension.
fn extension(argument: Argument<'_>) -> Extension {
    Extension::new(u32::try_from(argument.value()).unwrap_or(u32::MAX))
}

// Table Vt8.
fn set_iommu(container: &Container, argument: Argument<'_>) -> Result<Reply, Errno> {
    let (kind, refused) = (extension(argument), |error: SetIommuError| argument.refuse(error.errno(), &error));
    container.may_set_iommu(kind).map_err(refused)?;
    // V28.
    if kind == Extension::NO_IOMMU && !argument.caller.has(Capability::SysRawio) {
        return Err(Errno::EPERM);
    }
    container.set_iommu(kind).map_err(refused)?;
    Ok(Reply::Value(0))
}

const INFO_FLAGS: u32 = INFO_PGSIZES | INFO_CAPS;
const INFO_PGSIZES: u32 = 1 << 0;
const INFO_CAPS: u32 = 1 << 1;

// F98, F99.
fn get_info(container: &Container, argument: Argument<'_>) -> Result<Reply, Errno> {
    // Of what is copied in, only the size is looked at.
    let [mut argsz, ..]: [u32; 4] = argument.read()?;
    check_size(argsz, size_of::<[u32; 4]>())?;
    let room = argsz;
    let info = container.info().ok_or(Errno::EINVAL)?;
    let mut cap_offset = 0;
    capabilities::of_iommu(&info).place(argument, &mut argsz, &mut cap_offset)?;
    let reply =
        wire::Type1Info { argsz, flags: INFO_FLAGS, iova_pgsizes: info.page_sizes.bitmap(), cap_offset, pad: 0 };
    argument.write_first(&reply, room)?;
    Ok(Reply::Value(0))
}

const MAP_READ: u32 = 1 << 0;
const MAP_WRITE: u32 = 1 << 1;
const MAP_VADDR: u32 = 1 << 2;

// Table Vt15.
fn map_dma(container: &Container, argument: Argument<'_>) -> Result<Reply, Errno> {
    let map: wire::DmaMap = argument.read()?;
    check_size(map.argsz, size_of::<wire::DmaMap>())?;
    if map.flags & !(MAP_READ | MAP_WRITE | MAP_VADDR) != 0 {
        return Err(Errno::EINVAL);
    }
    let access = match map.flags & (MAP_READ | MAP_WRITE) {
        0 => None,
        MAP_READ => Some(Access::Read),
        MAP_WRITE => Some(Access::Write),
        _ => Some(Access::ReadWrite),
    };
    let request = |access| MapRequest {
        iova: Iova::new(map.iova),
        bytes: map.size,
        process: argument.caller.memory().clone(),
        addr: UserAddr::new(map.vaddr),
        access,
    };
    match (access, map.flags & MAP_VADDR) {
        (Some(access), 0) => container.map(&request(access)),
        // The access of the mapping stays as it is.
        (None, MAP_VADDR) => container.update_vaddr(&request(Access::ReadWrite)),
        _ => return Err(Errno::EINVAL),
    }
    .map_err(|error| argument.refuse(error.errno(), &error))?;
    Ok(Reply::Value(0))
}

const UNMAP_DIRTY: u32 = 1 << 0;
const UNMAP_ALL: u32 = 1 << 1;
const UNMAP_VADDR: u32 = 1 << 2;
const UNMAP_ALL_VADDR: u32 = UNMAP_ALL | UNMAP_VADDR;

// Table Vt16.
fn unmap_dma(container: &Container, argument: Argument<'_>) -> Result<Reply, Errno> {
    let mut unmap: wire::DmaUnmap = argument.read()?;
    check_size(unmap.argsz, size_of::<wire::DmaUnmap>())?;
    let iova = Iova::new(unmap.iova);
    let what = match unmap.flags {
        0 | UNMAP_DIRTY | UNMAP_VADDR => Unmap::Range { iova, bytes: unmap.size },
        UNMAP_ALL | UNMAP_ALL_VADDR if (unmap.iova, unmap.size) == (0, 0) => Unmap::All,
        _ => return Err(Errno::EINVAL),
    };
    let done = match unmap.flags {
        UNMAP_DIRTY => {
            check_size(unmap.argsz, size_of::<wire::DmaUnmap>() + size_of::<wire::Bitmap>())?;
            let bitmap: wire::Bitmap = argument.read_at(size_of::<wire::DmaUnmap>() as u64)?;
            let mut bitmap = user_bitmap(&bitmap, unmap.size, argument)?;
            let page_size = bitmap.page_size();
            container.unmap_dirty(DirtyRequest { iova, bytes: unmap.size, page_size }, &mut bitmap)
        }
        flags if flags & UNMAP_VADDR != 0 => container.invalidate_vaddr(what),
        _ => container.unmap(what),
    };
    unmap.size = done.map_err(|error| argument.refuse(error.errno(), &error))?;
    argument.write(&unmap)?;
    Ok(Reply::Value(0))
}

fn user_bitmap(bitmap: &wire::Bitmap, range: u64, argument: Argument<'_>) -> Result<UserBitmap, Errno> {
    let (memory, at) = (argument.caller.memory().clone(), UserAddr::new(bitmap.data));
    UserBitmap::new(memory, at, bitmap.size, bitmap.pgsize, range)
        .map_err(|error| argument.refuse(error.errno(), &error))
}

const DIRTY_START: u32 = 1 << 0;
const DIRTY_STOP: u32 = 1 << 1;
const DIRTY_GET: u32 = 1 << 2;

// V51.
fn dirty_pages(container: &Container, argument: Argument<'_>) -> Result<Reply, Errno> {
    let refused = |error: DirtyError| argument.refuse(error.errno(), &error);
    container.tracks_dirty().map_err(refused)?;
    let head: wire::Head = argument.read()?;
    check_size(head.argsz, size_of::<wire::Head>())?;
    match head.flags {
        DIRTY_START => container.track_dirty(DirtyTracking::On).map_err(refused)?,
        DIRTY_STOP => container.track_dirty(DirtyTracking::Off).map_err(refused)?,
        DIRTY_GET => {
            check_size(head.argsz, size_of::<wire::Head>() + size_of::<wire::DirtyGet>())?;
            let get: wire::DirtyGet = argument.read_at(size_of::<wire::Head>() as u64)?;
            let mut bitmap = user_bitmap(&get.bitmap, get.size, argument)?;
            let page_size = bitmap.page_size();
            let request = DirtyRequest { iova: Iova::new(get.iova), bytes: get.size, page_size };
            container.dirty_pages(request, &mut bitmap).map_err(refused)?;
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(Reply::Value(0))
}
