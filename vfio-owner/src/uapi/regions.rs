//! Regions of a device, read, written and mapped at `index << 40`.

use alloc::vec;

use iommu_core::device_model::Errno;

use super::argument::Argument;
use crate::OpenDevice;
use crate::device_ops::{RegionError, RegionIndex};

/// What a mapping of a device file makes visible.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mappable {
    /// The region.
    pub region: RegionIndex,
    /// Offset in the region, in bytes.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// How much of an access of `bytes` bytes at `at` there is in a region.
// V96, table Vt30.
fn clip(device: &OpenDevice, index: RegionIndex, at: u64, bytes: u64) -> Result<u64, RegionError> {
    let region = device.region(index).ok_or(RegionError::NoSuchRegion { index })?;
    index.clip(region.size, at, bytes)
}

/// How much is copied at a time.
const PIECE: u64 = 4096;

/// The piece that begins `done` bytes into an access of `bytes` bytes, in bytes.
fn piece(bytes: u64, done: u64) -> usize {
    usize::try_from((bytes - done).min(PIECE)).unwrap_or(0)
}

fn refused(argument: Argument<'_>, error: RegionError) -> Errno {
    argument.refuse(error.errno(), &error)
}

// V96, table Vt30: an error in the middle is the answer to all of it.
pub(super) fn read(device: &OpenDevice, offset: u64, into: Argument<'_>, bytes: u64) -> Result<u64, Errno> {
    let (index, at) = RegionIndex::at(offset);
    if bytes == 0 {
        return Ok(0);
    }
    let bytes = clip(device, index, at, bytes).map_err(|error| refused(into, error))?;
    let mut done = 0;
    while done < bytes {
        let mut buffer = vec![0; piece(bytes, done)];
        let read = device.read(index, at + done, &mut buffer).map_err(|error| refused(into, error))?;
        into.put(done, buffer.get(..read).unwrap_or_default())?;
        if read == 0 {
            break;
        }
        done += read as u64;
    }
    Ok(done)
}

pub(super) fn write(device: &OpenDevice, offset: u64, from: Argument<'_>, bytes: u64) -> Result<u64, Errno> {
    let (index, at) = RegionIndex::at(offset);
    if bytes == 0 {
        return Ok(0);
    }
    let bytes = clip(device, index, at, bytes).map_err(|error| refused(from, error))?;
    let mut done = 0;
    while done < bytes {
        let mut buffer = vec![0; piece(bytes, done)];
        from.fill(done, &mut buffer)?;
        let written = device.write(index, at + done, &buffer).map_err(|error| refused(from, error))?;
        if written == 0 {
            break;
        }
        done += written as u64;
    }
    Ok(done)
}

const PAGE: u64 = 4096;

// Table Vt32.
pub(super) fn mappable(device: &OpenDevice, offset: u64, bytes: u64) -> Result<Mappable, Errno> {
    let (region, offset) = RegionIndex::at(offset);
    let info = device.region(region).filter(|info| info.mappable).ok_or(Errno::EINVAL)?;
    let end = offset.checked_add(bytes).ok_or(Errno::EINVAL)?;
    if end > info.size.next_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    Ok(Mappable { region, offset, bytes })
}
