//! Dirty tracking.
// F57, F58.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use iommu_core::device_model::Errno;
use iommu_core::hardware::{DirtyFlags, HardwareError, PagingFlags};
use iommu_core::{DirtyRequest, Domain, Iova, IovaRange};

use crate::context::Context;
use crate::hwpt::Hwpt;
use crate::object::Object;
use crate::object_id::{NoObjectError, ObjectId};
use crate::object_table::Use;

/// Why dirty tracking was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirtyError {
    /// There is no such page table, or it is nested.
    #[error(transparent)]
    NoHwpt(#[from] NoObjectError),
    /// The length or the page size is 0, or an end of the range is not a multiple of both the page size and the alignment.
    #[error(
        "a range must be of whole pages of {page_size:#x} bytes, and of the address space's alignment of {alignment:#x}"
    )]
    Misaligned {
        /// The page size that was asked for.
        page_size: u64,
        /// The alignment of the address space.
        alignment: u64,
    },
    /// The range does not fit in 64 bits.
    #[error("addresses do not fit in 64 bits")]
    Overflow,
    /// The page table was not allocated for dirty tracking.
    #[error("page table {hwpt} was not allocated for dirty tracking")]
    NotTracked {
        /// The page table.
        hwpt: ObjectId,
    },
    /// The bitmap is too small for the range.
    #[error("the bitmap needs {wanted} bytes")]
    BitmapTooSmall {
        /// How many bytes.
        wanted: u64,
    },
    /// The IOMMU driver refused.
    #[error("the IOMMU refused")]
    Hardware(#[source] HardwareError),
}

impl DirtyError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoHwpt(error) => error.errno(),
            Self::Misaligned { .. } => Errno::EINVAL,
            Self::Overflow => Errno::EOVERFLOW,
            Self::NotTracked { .. } => Errno::EOPNOTSUPP,
            Self::BitmapTooSmall { .. } => Errno::ENOMEM,
            Self::Hardware(error) => error.errno,
        }
    }
}

impl Context {
    fn paging_hwpt(&self, id: ObjectId) -> Result<(Arc<Hwpt>, Use), NoObjectError> {
        match self.objects().get(id) {
            Some((Object::Hwpt(hwpt), used)) if !hwpt.is_nested() => Ok((hwpt, used)),
            _ => Err(NoObjectError { id, what: "page table of an address space" }),
        }
    }

    /// Starts tracking dirty pages (`IOMMU_HWPT_SET_DIRTY_TRACKING`); none is dirty then.
    ///
    /// # Errors
    /// There is no such page table, or it cannot.
    pub fn hwpt_start_dirty_tracking(&self, hwpt: ObjectId) -> Result<(), DirtyError> {
        self.change_dirty_tracking(hwpt, Domain::start_dirty_tracking)
    }

    /// Stops tracking dirty pages (`IOMMU_HWPT_SET_DIRTY_TRACKING` without `ENABLE`).
    ///
    /// # Errors
    /// As for [`hwpt_start_dirty_tracking`](Self::hwpt_start_dirty_tracking).
    pub fn hwpt_stop_dirty_tracking(&self, hwpt: ObjectId) -> Result<(), DirtyError> {
        self.change_dirty_tracking(hwpt, Domain::stop_dirty_tracking)
    }

    fn change_dirty_tracking(
        &self,
        hwpt: ObjectId,
        change: fn(&Domain) -> Result<(), HardwareError>,
    ) -> Result<(), DirtyError> {
        let (hwpt, _used) = self.paging_hwpt(hwpt)?;
        tracked(&hwpt)?;
        // No mapping comes or goes meanwhile.
        let _table = hwpt.ioas.lock_table();
        change(&hwpt.domain).map_err(DirtyError::Hardware)
    }

    /// Returns which pages are dirty, as runs of bits of a bitmap (`IOMMU_HWPT_GET_DIRTY_BITMAP`). Reading clears dirty bits,
    /// unless `flags` say otherwise. The first address that is not mapped ends it, as does an error of the IOMMU driver.
    ///
    /// The page size need not be a power of two; its lowest bit counts. [`set_user_bits`](iommu_core::set_user_bits) writes
    /// the runs to user memory.
    ///
    /// # Errors
    /// The range is not aligned, or the page table was not made to track dirty pages.
    pub fn hwpt_dirty_bits(
        &self,
        hwpt: ObjectId,
        request: DirtyRequest,
        flags: DirtyFlags,
    ) -> Result<Vec<Range<u64>>, DirtyError> {
        let DirtyRequest { iova, bytes, page_size } = request;
        let (hwpt, _used) = self.paging_hwpt(hwpt)?;
        let table = hwpt.ioas.lock_table();
        let alignment = table.alignment();
        let misaligned = DirtyError::Misaligned { page_size, alignment };
        if bytes == 0 {
            return Err(misaligned);
        }
        let range = IovaRange::sized(iova, bytes).ok_or(DirtyError::Overflow)?;
        // F91: both ends, first for the address space, then for the page size, which need be no power of two.
        let ends = iova.get() | iova.get().wrapping_add(bytes);
        if page_size == 0 || ends & (alignment - 1) != 0 || ends & (page_size - 1) != 0 {
            return Err(misaligned);
        }
        tracked(&hwpt)?;
        // F92: a bit stands for the lowest bit of the page size.
        let shift = page_size.trailing_zeros();
        let mut dirty: Vec<Range<u64>> = Vec::new();
        let set = |at: Iova, size: u64| {
            let page = IovaRange::sized(at, size).and_then(|page| page.intersection(range));
            if let Some(page) = page {
                let bit = |iova: Iova| (iova.get() - range.first().get()) >> shift;
                let (first, end) = (bit(page.first()), bit(page.last()) + 1);
                match dirty.last_mut() {
                    Some(last) if last.end == first => last.end = end,
                    _ => dirty.push(first..end),
                }
            }
        };
        if let Some(mapped) = table.mapped_from(range) {
            // F58: what the IOMMU driver refuses is not told.
            let _ = hwpt.domain.read_dirty(mapped, flags, set);
        }
        Ok(dirty)
    }

    /// Sets the bit of each page that is dirty in a bitmap; other bits stay as they are. See
    /// [`hwpt_dirty_bits`](Self::hwpt_dirty_bits).
    ///
    /// # Errors
    /// As there, or the bitmap is too small. No bit was set.
    pub fn hwpt_get_dirty_bitmap(
        &self,
        hwpt: ObjectId,
        request: DirtyRequest,
        flags: DirtyFlags,
        bitmap: &mut [u8],
    ) -> Result<(), DirtyError> {
        let wanted = (request.bytes >> request.page_size.trailing_zeros().min(63)).div_ceil(8);
        if (bitmap.len() as u64) < wanted {
            return Err(DirtyError::BitmapTooSmall { wanted });
        }
        self.hwpt_dirty_bits(hwpt, request, flags)?.into_iter().for_each(|bits| set_bits(bitmap, bits));
        Ok(())
    }
}

fn tracked(hwpt: &Hwpt) -> Result<(), DirtyError> {
    if hwpt.flags.contains(PagingFlags::DIRTY_TRACKING) {
        Ok(())
    } else {
        Err(DirtyError::NotTracked { hwpt: hwpt.id })
    }
}

/// Sets bits, as far as the bitmap goes.
fn set_bits(bitmap: &mut [u8], bits: Range<u64>) {
    for bit in bits {
        let byte = usize::try_from(bit / 8).ok().and_then(|byte| bitmap.get_mut(byte));
        if let Some(byte) = byte {
            *byte |= 1 << (bit % 8);
        }
    }
}
