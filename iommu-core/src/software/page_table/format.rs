//! How many levels page tables have, and at which of them pages may lie.

use crate::address::{Geometry, Iova, PageSizes};

const PAGE_SHIFT: u32 = 12;
const INDEX_BITS: u32 = 9;

const KIB4: u64 = coverage(0);
const MIB2: u64 = coverage(1);
const GIB1: u64 = coverage(2);

/// How many bytes one entry of a table of `level` covers; the lowest level is 0.
pub(super) const fn coverage(level: u32) -> u64 {
    1 << shift(level)
}

/// The bits of an address that say which table of `level` it leads to.
pub(super) fn above(level: u32) -> u64 {
    u64::MAX.checked_shl(shift(level + 1)).unwrap_or(0)
}

/// The entry for `iova` in a table of `level`.
pub(super) const fn index(iova: u64, level: u32) -> usize {
    (iova >> shift(level) & 511) as usize
}

const fn shift(level: u32) -> u32 {
    PAGE_SHIFT + INDEX_BITS * level
}

/// The shape of page tables: the width of addresses, hence the number of levels, and the sizes of pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableFormat {
    address_bits: u32,
    page_sizes: PageSizes,
}

impl TableFormat {
    /// 39 bits of address in three levels, pages of 4 KiB, 2 MiB and 1 GiB.
    pub const X86_39: Self = Self { address_bits: 39, page_sizes: PageSizes::X86 };

    /// 48 bits of address in four levels, pages of 4 KiB, 2 MiB and 1 GiB.
    pub const X86_48: Self = Self { address_bits: 48, page_sizes: PageSizes::X86 };

    /// Creates a format of `address_bits` bits, 13 to 64, translated in as many levels of 9 bits as that takes.
    ///
    /// Returns `None` for another width, for a page size other than 4 KiB, 2 MiB and 1 GiB, and for one that no level has: 2 MiB
    /// takes at least 22 bits, 1 GiB at least 31.
    pub const fn new(address_bits: u32, page_sizes: PageSizes) -> Option<Self> {
        let format = Self { address_bits, page_sizes };
        if address_bits <= PAGE_SHIFT || address_bits > u64::BITS {
            return None;
        }
        let known = page_sizes.bitmap() & !PageSizes::X86.bitmap() == 0;
        let largest = u64::BITS - 1 - page_sizes.bitmap().leading_zeros();
        if known && largest <= shift(format.levels() - 1) { Some(format) } else { None }
    }

    /// Returns how many tables a walk passes at most.
    pub const fn levels(self) -> u32 {
        (self.address_bits - PAGE_SHIFT).div_ceil(INDEX_BITS)
    }

    /// Returns the sizes of pages.
    pub const fn page_sizes(self) -> PageSizes {
        self.page_sizes
    }

    /// Returns the highest address that can be mapped.
    pub const fn last(self) -> Iova {
        Iova::new(u64::MAX >> (u64::BITS - self.address_bits))
    }

    /// Returns what a domain with such tables can map.
    pub const fn geometry(self) -> Geometry {
        Geometry { page_sizes: self.page_sizes, first: Iova::new(0), last: self.last() }
    }

    /// The level at which pages of this size lie, if there are any.
    #[inline]
    pub(super) const fn level_of(self, page_size: u64) -> Option<u32> {
        if page_size & self.page_sizes.bitmap() != page_size {
            return None;
        }
        match page_size {
            KIB4 => Some(0),
            MIB2 => Some(1),
            GIB1 => Some(2),
            _ => None,
        }
    }
}
