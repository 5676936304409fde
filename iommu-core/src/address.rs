//! Addresses on the two sides of an IOMMU, and what mappings permit.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// Creates an address; every value is valid.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// Returns the number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// Returns this address plus `bytes`, or `None` past the end of the 64-bit space.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// Returns whether this is a multiple of `size`, a power of two.
            pub const fn is_aligned(self, size: u64) -> bool {
                self.0 & size.wrapping_sub(1) == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
    };
}

address! {
    /// An I/O virtual address: what a device puts on its bus.
    Iova
}

address! {
    /// A physical address.
    PhysAddr
}

address! {
    /// An address in the memory of a user-space process.
    UserAddr
}

/// Memory that is contiguous in physical addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhysRun {
    /// The first address.
    pub phys: PhysAddr,
    /// The length in bytes.
    pub bytes: u64,
}

impl PhysRun {
    /// Returns the address behind it, or `None` if that is past the end of the 64-bit space.
    pub const fn end(self) -> Option<PhysAddr> {
        self.phys.checked_add(self.bytes)
    }
}

/// The smallest page of a CPU in bytes: the unit of pins, mappings and processes.
pub const PAGE_SIZE: u64 = 0x1000;

/// I/O virtual addresses from a first to a last one, both inclusive. Never empty; may be all 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IovaRange {
    first: Iova,
    last: Iova,
}

impl IovaRange {
    /// The whole 64-bit space.
    pub const ALL: Self = Self { first: Iova::new(0), last: Iova::new(u64::MAX) };

    /// Creates the range from `first` to `last`, or `None` if `last` is lower.
    pub const fn new(first: Iova, last: Iova) -> Option<Self> {
        if first.get() <= last.get() { Some(Self { first, last }) } else { None }
    }

    /// Creates the range of `bytes` bytes from `first` on, or `None` for no byte or past the end of the 64-bit space.
    pub const fn sized(first: Iova, bytes: u64) -> Option<Self> {
        let Some(after_first) = bytes.checked_sub(1) else { return None };
        match first.checked_add(after_first) {
            Some(last) => Some(Self { first, last }),
            None => None,
        }
    }

    /// Returns the lowest address.
    pub const fn first(self) -> Iova {
        self.first
    }

    /// Returns the highest address.
    pub const fn last(self) -> Iova {
        self.last
    }

    /// Returns the number of bytes; 2^64 - 1 for the whole space, which has one more.
    pub const fn bytes(self) -> u64 {
        (self.last.get() - self.first.get()).saturating_add(1)
    }

    /// Returns whether `iova` is one of its addresses.
    pub const fn contains(self, iova: Iova) -> bool {
        self.first.get() <= iova.get() && iova.get() <= self.last.get()
    }

    /// Returns whether all of `inner` is in it.
    pub const fn covers(self, inner: Self) -> bool {
        self.contains(inner.first) && self.contains(inner.last)
    }

    /// Returns the addresses that both have, if any.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last))
    }

    /// Returns what is left of it without some holes, ascending.
    pub fn without(self, holes: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut left = vec![self];
        holes.into_iter().for_each(|hole| Self::cut_out(&mut left, hole));
        left
    }

    /// Removes a hole from some ranges, which are ascending and have no address in common.
    pub fn cut_out(ranges: &mut Vec<Self>, hole: Self) {
        let start = ranges.partition_point(|range| range.last < hole.first);
        let end = ranges.partition_point(|range| range.first <= hole.last);
        let overlapped = ranges.get(start..end).unwrap_or_default();
        let Some((lowest, highest)) = overlapped.first().zip(overlapped.last()) else { return };
        let before = hole.first.get().checked_sub(1).and_then(|last| Self::new(lowest.first, Iova::new(last)));
        let behind = hole.last.checked_add(1).and_then(|first| Self::new(first, highest.last));
        ranges.splice(start..end, before.into_iter().chain(behind));
    }

    /// Returns whether both have an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.intersection(other).is_some()
    }
}

impl fmt::Display for IovaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl fmt::Debug for IovaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Directions of an access: what a device does, or what memory is used for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// The device reads memory.
    Read,
    /// The device writes memory.
    Write,
    /// Both.
    ReadWrite,
}

impl Access {
    /// Returns whether what permits `self` lets an access pass that needs `wanted`.
    pub const fn permits(self, wanted: Self) -> bool {
        matches!((self, wanted), (Self::ReadWrite, _) | (Self::Read, Self::Read) | (Self::Write, Self::Write))
    }
}

bitflags::bitflags! {
    /// What a mapping permits, and how accesses through it behave.
    ///
    /// An [`Access`] converts into the flags [`READ`](Self::READ), [`WRITE`](Self::WRITE), or both.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Protection: u32 {
        /// The device may read.
        const READ = 1 << 0;
        /// The device may write.
        const WRITE = 1 << 1;
        /// Accesses are coherent with CPU caches.
        const CACHE = 1 << 2;
        /// The device may not fetch instructions.
        const NOEXEC = 1 << 3;
        /// What is mapped is not memory, but registers of a device.
        const MMIO = 1 << 4;
        /// Only privileged accesses of the device pass.
        const PRIV = 1 << 5;
    }
}

impl Protection {
    /// Returns whether a plain access passes.
    pub const fn permits(self, wanted: Access) -> bool {
        self.contains(Self::of(wanted))
    }

    const fn of(access: Access) -> Self {
        match access {
            Access::Read => Self::READ,
            Access::Write => Self::WRITE,
            Access::ReadWrite => Self::READ.union(Self::WRITE),
        }
    }
}

impl From<Access> for Protection {
    fn from(access: Access) -> Self {
        Self::of(access)
    }
}

/// The page sizes that a domain can map, each a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageSizes(u64);

impl PageSizes {
    /// 4 KiB, 2 MiB and 1 GiB: x86 with every size.
    pub const X86: Self = Self(1 << 12 | 1 << 21 | 1 << 30);

    /// Creates the set of the sizes whose bits are set, or `None` for no size at all.
    pub const fn from_bitmap(bitmap: u64) -> Option<Self> {
        if bitmap == 0 { None } else { Some(Self(bitmap)) }
    }

    /// Returns one bit for each size.
    pub const fn bitmap(self) -> u64 {
        self.0
    }

    /// Returns the smallest size in bytes: addresses and lengths must be multiples of it.
    pub const fn smallest(self) -> u64 {
        1 << self.0.trailing_zeros()
    }

    /// Splits off the first part of a range that is mapped in pages of one size: returns the largest size that the low bits
    /// of `addresses` and `bytes` allow, and how many pages of it come before a larger one fits.
    ///
    /// `offsets` are the bits in which the two addresses of a mapping differ, 0 for a single address. `bytes` is a
    /// multiple of the smallest size, and not 0.
    #[inline]
    pub(crate) fn first_run(self, addresses: u64, offsets: u64, bytes: u64) -> (u64, usize) {
        // What most are: one page.
        if self.0 & bytes == bytes && bytes.is_power_of_two() && addresses & (bytes - 1) == 0 {
            return (bytes, 1);
        }
        self.first_of_many(addresses, offsets, bytes)
    }

    /// As [`first_run`](Self::first_run). Not inline, for its callers are short else.
    #[inline(never)]
    fn first_of_many(self, addresses: u64, offsets: u64, bytes: u64) -> (u64, usize) {
        let aligned = addresses ^ addresses.wrapping_sub(1);
        let short_enough = u64::MAX.checked_shr(bytes.leading_zeros()).unwrap_or(0);
        let size = highest(self.0 & aligned & short_enough).unwrap_or(self.smallest());
        let above = self.0 & !(size | (size - 1));
        let larger = (above != 0).then(|| 1 << above.trailing_zeros());
        let until_larger =
            larger.filter(|larger| offsets & (larger - 1) == 0).map(|larger: u64| larger - (addresses & (larger - 1)));
        // No detour for a larger page that does not fit behind.
        let run = match (until_larger, larger) {
            (Some(before), Some(larger)) if before < bytes && larger <= bytes - before => before,
            _ => bytes,
        };
        (size, usize::try_from(run >> size.trailing_zeros()).unwrap_or(usize::MAX))
    }

    /// Returns the sizes, largest first.
    pub fn largest_first(self) -> impl Iterator<Item = u64> {
        (0..u64::BITS).rev().map(|bit| 1 << bit).filter(move |size| self.0 & size != 0)
    }
}

/// The highest bit that is set.
fn highest(bits: u64) -> Option<u64> {
    Some(1 << bits.checked_ilog2()?)
}

impl fmt::Debug for PageSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.largest_first()).finish()
    }
}

/// What addresses a domain translates, and in what pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Page sizes that can be mapped.
    pub page_sizes: PageSizes,
    /// Lowest address that can be mapped.
    pub first: Iova,
    /// Highest address that can be mapped, inclusive.
    pub last: Iova,
}

#[cfg(feature = "software")]
impl Geometry {
    /// A single page at address 0: what is left of tables that are not there.
    pub(crate) const NOTHING: Self =
        Self { page_sizes: PageSizes(PAGE_SIZE), first: Iova::new(0), last: Iova::new(PAGE_SIZE - 1) };
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against every single address, at both ends of the space as well.
        #[test]
        fn what_is_left_without_holes_is_in_none(
            base in prop::sample::select(vec![0, 1 << 20, u64::MAX - 63]),
            ends in (0..64_u64, 0..64_u64), holes in prop::collection::vec((0..64_u64, 0..64_u64), 0..8),
        ) {
            let range = |(a, b): (u64, u64)| IovaRange::new(Iova::new(base + a.min(b)), Iova::new(base + a.max(b))).unwrap();
            let (whole, holes) = (range(ends), holes.into_iter().map(range).collect::<Vec<_>>());
            let left = whole.without(holes.iter().copied());
            for at in (0..64).map(|at| Iova::new(base + at)) {
                let is_left = whole.contains(at) && !holes.iter().any(|hole| hole.contains(at));
                prop_assert_eq!(left.iter().filter(|range| range.contains(at)).count(), usize::from(is_left));
            }
            prop_assert!(left.is_sorted_by_key(|range| range.first()));
        }

        /// Run after run, a range is covered from its start to its end in pages that are aligned on both sides, and no run
        /// ends where a larger page would have begun before.
        #[test]
        fn runs_cover_a_range_in_the_largest_pages(
            bitmap in prop::sample::select(vec![1_u64 << 12, 1 << 12 | 1 << 21, 1 << 12 | 1 << 21 | 1 << 30, 1 << 14 | 1 << 25]),
            iova in 0..1_u64 << 22, phys in 0..1_u64 << 22, apart in any::<bool>(), pages in 1..1_u64 << 20,
        ) {
            let sizes = PageSizes::from_bitmap(bitmap).unwrap();
            let granule = sizes.smallest();
            let (iova, bytes) = (iova * granule, pages * granule);
            let phys = if apart { phys * granule } else { iova + (1 << 40) };
            let (mut done, mut runs) = (0, 0);
            while done < bytes {
                let (at, to) = (iova + done, phys + done);
                let (page, count) = sizes.first_run(at | to, at ^ to, bytes - done);
                let run = page * count as u64;
                prop_assert!(bitmap & page != 0 && (at | to) & (page - 1) == 0);
                prop_assert!(count > 0 && run <= bytes - done);
                let larger = |n: u64| sizes.largest_first().find(|size| ((at + n) | (to + n)) & (size - 1) == 0 && *size <= bytes - done - n);
                prop_assert_eq!(larger(0), Some(page), "the largest page");
                // Sampled, for a range has many pages.
                for n in [1, 2, count as u64 / 2, count as u64 - 1].into_iter().filter(|n| *n < count as u64) {
                    prop_assert!(larger(n * page).is_some_and(|size| size <= page), "no larger page inside a run");
                }
                done += run;
                runs += 1;
            }
            prop_assert!(runs <= 2 * bitmap.count_ones(), "{} runs", runs);
        }
    }
}
