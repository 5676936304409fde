//! Addresses on the two sides of an IOMMU, and what a mapping permits.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// The address as a type of its own; every value is valid.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The bare number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// This address plus `bytes`, or `None` past the end of the 64-bit space.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// Whether this is a multiple of `size`, a power of two.
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
    /// A physical address: what memory answers to.
    PhysAddr
}

address! {
    /// An address in the memory of a user-space process.
    UserAddr
}

/// What pins, mappings and processes count in: the smallest page of a CPU, in bytes.
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

    /// From `first` to `last`, or `None` when that is nothing.
    pub const fn new(first: Iova, last: Iova) -> Option<Self> {
        if first.get() <= last.get() { Some(Self { first, last }) } else { None }
    }

    /// `bytes` bytes from `first` on, or `None` for no byte or past the end of the 64-bit space.
    pub const fn sized(first: Iova, bytes: u64) -> Option<Self> {
        let Some(after_first) = bytes.checked_sub(1) else { return None };
        match first.checked_add(after_first) {
            Some(last) => Some(Self { first, last }),
            None => None,
        }
    }

    /// Its lowest address.
    pub const fn first(self) -> Iova {
        self.first
    }

    /// Its highest address.
    pub const fn last(self) -> Iova {
        self.last
    }

    /// How many bytes it has; 2^64 - 1 for the whole space, which has one more.
    pub const fn bytes(self) -> u64 {
        (self.last.get() - self.first.get()).saturating_add(1)
    }

    /// Whether `iova` is one of its addresses.
    pub const fn contains(self, iova: Iova) -> bool {
        self.first.get() <= iova.get() && iova.get() <= self.last.get()
    }

    /// Whether all of `inner` is in it.
    pub const fn covers(self, inner: Self) -> bool {
        self.contains(inner.first) && self.contains(inner.last)
    }

    /// What both have, if anything.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last))
    }

    /// What is left of it without some holes, ascending.
    pub fn without(self, holes: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut left = vec![self];
        for hole in holes {
            left = left.into_iter().flat_map(|range| range.split(hole)).flatten().collect();
        }
        left
    }

    /// The part before a hole, and the part behind it.
    fn split(self, hole: Self) -> [Option<Self>; 2] {
        if !self.overlaps(hole) {
            return [Some(self), None];
        }
        let before = hole.first.get().checked_sub(1).map(Iova::new);
        let behind = hole.last.checked_add(1);
        [before.and_then(|last| Self::new(self.first, last)), behind.and_then(|first| Self::new(first, self.last))]
    }

    /// Whether both have an address.
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

    /// The set of the sizes whose bits are set, or `None` for no size at all.
    pub const fn from_bitmap(bitmap: u64) -> Option<Self> {
        if bitmap == 0 { None } else { Some(Self(bitmap)) }
    }

    /// One bit for each size.
    pub const fn bitmap(self) -> u64 {
        self.0
    }

    /// The smallest size in bytes: what addresses and lengths must be multiples of.
    pub const fn smallest(self) -> u64 {
        1 << self.0.trailing_zeros()
    }

    /// Splits off the first part of a range that is mapped in pages of one size: returns the largest size that the low bits
    /// of `addresses` and `bytes` allow, and how many pages of it come before a larger one fits.
    ///
    /// `offsets` are the bits in which the two addresses of a mapping differ, 0 for a single address. `bytes` is a
    /// multiple of the smallest size, and not 0.
    pub(crate) fn first_run(self, addresses: u64, offsets: u64, bytes: u64) -> (u64, usize) {
        let fits = |size: &u64| addresses & (size - 1) == 0 && *size <= bytes;
        let size = self.largest_first().find(fits).unwrap_or(self.smallest());
        let larger = self.largest_first().take_while(|larger| *larger > size).last();
        let until_larger =
            larger.filter(|larger| offsets & (larger - 1) == 0).map(|larger| larger - (addresses & (larger - 1)));
        // No detour for a larger page that does not fit behind.
        let run = match (until_larger, larger) {
            (Some(before), Some(larger)) if before < bytes && larger <= bytes - before => before,
            _ => bytes,
        };
        (size, usize::try_from(run / size).unwrap_or(usize::MAX))
    }

    /// The sizes, largest first.
    pub fn largest_first(self) -> impl Iterator<Item = u64> {
        (0..u64::BITS).rev().map(|bit| 1 << bit).filter(move |size| self.0 & size != 0)
    }
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

impl Geometry {
    /// A single page at address 0: what is left of tables that are not there.
    pub(crate) const NOTHING: Self =
        Self { page_sizes: PageSizes(PAGE_SIZE), first: Iova::new(0), last: Iova::new(PAGE_SIZE - 1) };
}
