//! Dirty tracking.
// F57, F58.

use alloc::sync::Arc;

use iommu_core::device_model::Errno;
use iommu_core::hardware::{DirtyFlags, HardwareError, PagingFlags};
use iommu_core::{DirtyRequest, Domain, IovaRange};

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

    /// Reads which pages are dirty (`IOMMU_HWPT_GET_DIRTY_BITMAP`). Reading clears dirty bits, unless `flags` say otherwise. The
    /// first address that is not mapped ends it, as does an error of the IOMMU driver.
    ///
    /// Calls `write` with those bytes of the bitmap in which bits are set, ascending, and with where they begin: bit n is bit
    /// `n % 8`, counted from the lowest, of byte `n / 8`. [`set_user_bits`](iommu_core::set_user_bits) sets them in user memory.
    /// The page size need not be a power of two; its lowest bit counts.
    ///
    /// # Errors
    /// The range is not aligned, or the page table was not made to track dirty pages. `write` was not called.
    pub fn hwpt_read_dirty(
        &self,
        hwpt: ObjectId,
        request: DirtyRequest,
        flags: DirtyFlags,
        write: impl FnMut(u64, &[u8]),
    ) -> Result<(), DirtyError> {
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
        if let Some(mapped) = table.mapped_from(range) {
            // F58: what the IOMMU driver refuses is not told.
            let _ = hwpt.domain.read_dirty_bitmap(mapped, shift, flags, write);
        }
        Ok(())
    }

    /// Sets the bit of each page that is dirty in a bitmap; other bits stay as they are. See
    /// [`hwpt_read_dirty`](Self::hwpt_read_dirty).
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
        self.hwpt_read_dirty(hwpt, request, flags, |first, bits| {
            let to = usize::try_from(first).ok().and_then(|first| bitmap.get_mut(first..)).unwrap_or_default();
            to.iter_mut().zip(bits).for_each(|(byte, bits)| *byte |= bits);
        })
    }
}

fn tracked(hwpt: &Hwpt) -> Result<(), DirtyError> {
    if hwpt.flags.contains(PagingFlags::DIRTY_TRACKING) {
        Ok(())
    } else {
        Err(DirtyError::NotTracked { hwpt: hwpt.id })
    }
}
