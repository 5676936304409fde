//! Where dirty pages are reported.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use iommu_core::address::PageSizes;
use iommu_core::device_model::Errno;
use iommu_core::user_memory::BadAddress;
use iommu_core::{DirtyBits, UserAddr, UserMemory, set_user_bits};

use crate::container::NoBackend;

/// The largest bitmap in user memory, in bytes.
// V51, F99.
pub(crate) const MAX_BITMAP_BYTES: u64 = 0x1000_0000;

/// Bitmaps in user memory consist of words of this many bytes.
const WORD: u64 = 8;
const WORD_BITS: u64 = 64;

/// Where dirty pages of a range are reported, mapping by mapping in ascending order.
pub trait DirtySink {
    /// Reports pages, counted from the first page of the range, all of one mapping.
    ///
    /// # Errors
    /// The pages cannot be noted. Nothing more is reported.
    fn report(&mut self, pages: Range<u64>) -> Result<(), BadAddress>;

    /// Ends a call that reported pages: none of them may be kept back. Does nothing unless an implementation says otherwise.
    ///
    /// # Errors
    /// As for [`report`](Self::report).
    fn finish(&mut self) -> Result<(), BadAddress> {
        Ok(())
    }
}

/// One bit for each page of a range, lowest page in the lowest bit of the first word; set for a dirty page. Ends with the
/// last dirty page.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DirtyBitmap(pub Vec<u64>);

impl DirtySink for DirtyBitmap {
    fn report(&mut self, pages: Range<u64>) -> Result<(), BadAddress> {
        let words = usize::try_from(pages.end.div_ceil(WORD_BITS)).unwrap_or(usize::MAX);
        if words > self.0.len() && self.0.try_reserve(words - self.0.len()).is_ok() {
            self.0.resize(words, 0);
        }
        set_bits(&mut self.0, pages);
        Ok(())
    }
}

/// Sets these bits, as far as there are such.
fn set_bits(words: &mut [u64], bits: Range<u64>) {
    let first = usize::try_from(bits.start / WORD_BITS).unwrap_or(usize::MAX);
    for (word, start) in words.iter_mut().skip(first).zip((bits.start / WORD_BITS * WORD_BITS..bits.end).step_by(64)) {
        let from = bits.start.saturating_sub(start);
        let upto = (bits.end - start).min(WORD_BITS);
        *word |= u64::MAX << from & u64::MAX >> (WORD_BITS - upto);
    }
}

/// A bitmap in the memory of a process, as `VFIO_IOMMU_DIRTY_PAGES` fills it: one bit for each page, in words of 64 bits.
/// Only what a mapping touches is written.
#[derive(Clone, Debug)]
pub struct UserBitmap {
    process: Arc<dyn UserMemory>,
    addr: UserAddr,
    page_size: u64,
    /// What is yet to be written.
    pending: DirtyBits,
}

impl UserBitmap {
    /// Describes a bitmap of `bytes` bytes at `addr`, in which a bit stands for a page of `page_size`, for a range of
    /// `range` bytes.
    ///
    /// # Errors
    /// The bitmap is too small for the range, or larger than 256 MiB; or the range has no page.
    // Vt16.1, V51.
    pub fn new(
        process: Arc<dyn UserMemory>,
        addr: UserAddr,
        bytes: u64,
        page_size: u64,
        range: u64,
    ) -> Result<Self, DirtyError> {
        let pages = range >> page_size.trailing_zeros().min(u64::BITS - 1);
        let fits = (pages.div_ceil(WORD_BITS) * WORD..=MAX_BITMAP_BYTES).contains(&bytes);
        let is_user = addr.checked_add(bytes).is_some_and(|end| i64::try_from(end.get()).is_ok());
        if pages == 0 || !fits || !is_user {
            return Err(DirtyError::Bitmap { pages, bytes });
        }
        Ok(Self { process, addr, page_size, pending: DirtyBits::new() })
    }

    /// Returns what a bit stands for, in bytes.
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// Writes what is pending, and goes on with the part that has `bit`.
    fn turn(&mut self, bit: u64) -> Result<(), BadAddress> {
        let Self { process, addr, pending, .. } = self;
        pending.turn(bit, |first, bits| {
            let at = addr.checked_add(first).ok_or(BadAddress { at: *addr })?;
            set_user_bits(&**process, at, bits)
        })
    }
}

impl DirtySink for UserBitmap {
    fn report(&mut self, pages: Range<u64>) -> Result<(), BadAddress> {
        let mut left = pages;
        while !left.is_empty() {
            if !self.pending.bits().contains(&left.start) {
                self.turn(left.start)?;
            }
            self.pending.set(left.clone());
            left.start = self.pending.bits().end.min(left.end);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BadAddress> {
        self.turn(0)
    }
}

/// Why dirty pages could not be reported.
// V51.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirtyError {
    /// The container has no IOMMU.
    #[error("the container has no IOMMU set")]
    NoIommu,
    /// The container was set to no-IOMMU mode.
    #[error("nothing is mapped for devices without an IOMMU")]
    Unserved,
    /// Version 1 of type1 does not track dirty pages.
    #[error("type1 does not track dirty pages; type1v2 does")]
    NotTracked,
    /// Dirty tracking is off.
    #[error("dirty tracking is off")]
    Off,
    /// The bitmap is too small for the pages, or larger than 256 MiB; or there are no pages.
    #[error("a bitmap of {bytes} bytes is not what {pages} pages need")]
    Bitmap {
        /// How many pages the range has.
        pages: u64,
        /// Size of the bitmap.
        bytes: u64,
    },
    /// The bitmap is not in memory that the process can write.
    #[error(transparent)]
    BadAddress(#[from] BadAddress),
    /// The range is no whole number of pages, the pages are not the smallest ones, or the range cuts a mapping.
    #[error("the range must be of pages of {:#x} bytes and cut no mapping", page_sizes.smallest())]
    Range {
        /// Pages that can be mapped.
        page_sizes: PageSizes,
    },
}

impl From<NoBackend> for DirtyError {
    fn from(none: NoBackend) -> Self {
        match none {
            NoBackend::Unset => Self::NoIommu,
            NoBackend::NoIommuMode => Self::Unserved,
        }
    }
}

impl DirtyError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotTracked => Errno::EACCES,
            Self::Unserved => Errno::ENOTTY,
            Self::NoIommu | Self::Off | Self::Range { .. } | Self::Bitmap { .. } => Errno::EINVAL,
            Self::BadAddress(error) => error.errno(),
        }
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;

    #[test]
    fn a_report_sets_exactly_its_bits() {
        for start in 0..200_u64 {
            for end in start + 1..200 {
                let mut bitmap = DirtyBitmap::default();
                bitmap.report(start..end).unwrap();
                let bit =
                    |at: u64| bitmap.0.get(usize::try_from(at / 64).unwrap()).is_some_and(|w| w >> (at % 64) & 1 == 1);
                assert!((0..256).all(|at| bit(at) == (start..end).contains(&at)), "{start}..{end}");
            }
        }
    }
}
