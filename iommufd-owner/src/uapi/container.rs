//! Calls of a VFIO container that an iommufd serves.
// F96 to F98.

use alloc::sync::Arc;

use iommu_core::{Access, Extension, Iova, MapRequest, UserAddr};

use super::frame;
use super::structures::{
    CapabilityHeader, ContainerInfo, ContainerInfoHead, DmaAvail, DmaMap, DmaUnmap, IovaRanges, Range, Structure,
};
use super::table::{DONE, Outcome};
use super::{CallError, Caller, Capability, Reply};
use crate::compat::{CompatError, CompatInfo, Protection};
use crate::context::Context;

/// `VFIO_API_VERSION`.
pub(super) const API_VERSION: u32 = 0;

/// `VFIO_DMA_MAP_FLAG_READ`.
const MAP_READ: u32 = 1 << 0;
/// `VFIO_DMA_MAP_FLAG_WRITE`.
const MAP_WRITE: u32 = 1 << 1;
const MAP_READ_WRITE: u32 = MAP_READ | MAP_WRITE;

/// `VFIO_DMA_UNMAP_FLAG_ALL`.
const UNMAP_ALL: u32 = 1 << 1;

/// `VFIO_IOMMU_INFO_PGSIZES` and `VFIO_IOMMU_INFO_CAPS`.
const INFO_FLAGS: u32 = 1 << 0 | 1 << 1;

/// `VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL`.
const DMA_AVAIL: u16 = 3;
/// `VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE`.
const IOVA_RANGE: u16 = 1;

/// The extension of this number, if it is one.
fn extension(argument: u64) -> Option<Extension> {
    u32::try_from(argument).ok().map(Extension::new)
}

// Table Ft21.
pub(super) fn check_extension(context: &Context, argument: u64, _: &dyn Caller) -> Outcome {
    let is_there = extension(argument).map(|extension| context.compat_check_extension(extension));
    Ok(Reply::Value(u32::from(is_there.transpose()? == Some(true))))
}

// F97.
pub(super) fn set_iommu(context: &Context, argument: u64, caller: &dyn Caller) -> Outcome {
    let kind = extension(argument).ok_or(CompatError::WrongType)?;
    let capability = Capability::SysRawio;
    let is_raw = kind == Extension::NO_IOMMU && context.protection() == Protection::None;
    if is_raw && !caller.has(capability) {
        return Err(CallError::NotCapable { capability });
    }
    context.compat_set_iommu(kind)?;
    DONE
}

/// Reads a structure, or its fixed head, before its size is looked at.
// F96a.
fn head<T: Structure>(caller: &dyn Caller, argument: u64, argsz: fn(&T) -> u32) -> Result<T, CallError> {
    let head = frame::read(caller, UserAddr::new(argument))?;
    let (size, least) = (argsz(&head), size_of::<T>());
    if usize::try_from(size).is_ok_and(|size| size < least) {
        return Err(CallError::TooShort { size, least });
    }
    Ok(head)
}

// F98.
pub(super) fn get_info(context: &Context, argument: u64, caller: &dyn Caller) -> Outcome {
    let ContainerInfoHead { argsz, .. } = head(caller, argument, |head: &ContainerInfoHead| head.argsz)?;
    let CompatInfo { page_sizes, ranges } = context.compat_info()?;
    let answer = Info { caller, at: UserAddr::new(argument), argsz };
    let ranges_end = RANGES + HEADER + ranges.len() as u64 * RANGE;
    let capabilities = if answer.has_room(ranges_end) { FIRST_CAPABILITY } else { 0 };
    let info = ContainerInfo {
        argsz: clamp(ranges_end),
        flags: INFO_FLAGS,
        iova_pgsizes: page_sizes,
        cap_offset: clamp(capabilities),
        pad: 0,
    };
    frame::reply(caller, answer.at, argsz, &info)?;
    let next = if answer.has_room(RANGES) { clamp(RANGES) } else { 0 };
    let header = CapabilityHeader { id: DMA_AVAIL, version: 1, next };
    answer.put(FIRST_CAPABILITY, &DmaAvail { header, avail: u32::MAX })?;
    for (range, number) in ranges.iter().zip(0..) {
        let range = Range { start: range.first().get(), last: range.last().get() };
        answer.put(RANGES + HEADER + number * RANGE, &range)?;
    }
    if answer.has_room(ranges_end) {
        let header = CapabilityHeader { id: IOVA_RANGE, version: 1, next: 0 };
        answer.put(RANGES, &IovaRanges { header, nr_iovas: clamp(ranges.len() as u64), reserved: 0 })?;
    }
    DONE
}

/// Where the first capability lies.
const FIRST_CAPABILITY: u64 = size_of::<ContainerInfo>() as u64;
/// Where the capability of the ranges lies.
const RANGES: u64 = FIRST_CAPABILITY + (size_of::<DmaAvail>() as u64).next_multiple_of(8);
const HEADER: u64 = size_of::<IovaRanges>() as u64;
const RANGE: u64 = size_of::<Range>() as u64;

/// An answer that is as long as the caller has room for: what does not fit as a whole is left out, piece by piece.
// F98b.
struct Info<'a> {
    caller: &'a dyn Caller,
    at: UserAddr,
    argsz: u32,
}

impl Info<'_> {
    fn has_room(&self, end: u64) -> bool {
        u64::from(self.argsz) >= end
    }

    fn put<T: Structure>(&self, offset: u64, piece: &T) -> Result<(), CallError> {
        if !self.has_room(offset + size_of::<T>() as u64) {
            return Ok(());
        }
        frame::write(self.caller, frame::plus(self.at, offset)?, piece)
    }
}

fn clamp(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

// F96b, Ft12.7.
pub(super) fn map_dma(context: &Context, argument: u64, caller: &dyn Caller) -> Outcome {
    let DmaMap { flags, vaddr, iova, size, .. } = head(caller, argument, |map: &DmaMap| map.argsz)?;
    let access = match flags {
        0 => None,
        MAP_READ => Some(Access::Read),
        MAP_WRITE => Some(Access::Write),
        MAP_READ_WRITE => Some(Access::ReadWrite),
        _ => return Err(CallError::ContainerFlags { flags }),
    };
    let request = MapRequest {
        iova: Iova::new(iova),
        bytes: size,
        process: Arc::clone(caller.memory()),
        addr: UserAddr::new(vaddr),
        access: access.unwrap_or(Access::Read),
    };
    match access {
        Some(_) => context.compat_map(request)?,
        None => context.compat_map_inaccessible(request)?,
    }
    DONE
}

// F96c, F96d, Ft12.8.
pub(super) fn unmap_dma(context: &Context, argument: u64, caller: &dyn Caller) -> Outcome {
    let unmap: DmaUnmap = head(caller, argument, |unmap: &DmaUnmap| unmap.argsz)?;
    let DmaUnmap { flags, iova, size, .. } = unmap;
    let unmapped = match flags {
        0 => context.compat_unmap(Iova::new(iova), size),
        UNMAP_ALL => {
            // That there is no address space is told first.
            let ioas = context.compat_ioas().ok_or(CompatError::NoIoas);
            if ioas.is_ok() && (iova, size) != (0, 0) {
                return Err(CallError::ContainerFlags { flags });
            }
            ioas.and_then(|_| context.compat_unmap_all())
        }
        _ => return Err(CallError::ContainerFlags { flags }),
    };
    // How much was unmapped is told also on an error of the removal itself.
    let size = match &unmapped {
        Ok(unmapped) | Err(CompatError::Unmap { unmapped, .. }) => Some(*unmapped),
        Err(_) => None,
    };
    if let Some(size) = size {
        frame::write(caller, UserAddr::new(argument), &DmaUnmap { size, ..unmap })?;
    }
    unmapped?;
    DONE
}
