//! Regions of a device file.

use core::fmt;

use iommu_core::device_model::Errno;

/// Where the offset within a region ends, and the region's index begins.
const INDEX_SHIFT: u32 = 40;

/// The number of a region. The names are those of PCI devices.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionIndex(u32);

impl RegionIndex {
    /// The window of the first base address register; those of the other five follow.
    pub const BAR0: Self = Self(0);
    /// Of the second.
    pub const BAR1: Self = Self(1);
    /// Of the third.
    pub const BAR2: Self = Self(2);
    /// Of the fourth.
    pub const BAR3: Self = Self(3);
    /// Of the fifth.
    pub const BAR4: Self = Self(4);
    /// Of the sixth.
    pub const BAR5: Self = Self(5);
    /// The expansion ROM.
    pub const ROM: Self = Self(6);
    /// The configuration space.
    pub const CONFIG: Self = Self(7);
    /// The legacy ranges of VGA.
    pub const VGA: Self = Self(8);
    /// How many there are of a PCI device.
    pub const PCI_COUNT: u32 = 9;

    /// The region of this number, whether a device has it or not.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Where it begins in the device file: `index << 40`, as vfio-pci lays it out. What goes beyond 64 bits is cut off;
    /// no device has so many.
    pub const fn offset(self) -> u64 {
        (self.0 as u64) << INDEX_SHIFT
    }

    /// The region at this offset of the device file, and the offset within it.
    pub const fn at(offset: u64) -> (Self, u64) {
        (Self((offset >> INDEX_SHIFT) as u32), offset & ((1 << INDEX_SHIFT) - 1))
    }
}

impl fmt::Display for RegionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {}", self.0)
    }
}

impl fmt::Debug for RegionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegionIndex({})", self.0)
    }
}

/// What a region is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionInfo {
    /// Its length in bytes; 0 if there is nothing.
    pub size: u64,
    /// Where it begins in the device file.
    pub offset: u64,
    /// Whether it can be read.
    pub readable: bool,
    /// Whether it can be written.
    pub writable: bool,
    /// Whether the kernel would let it be mapped into memory. Nothing here maps it.
    pub mappable: bool,
}

/// Why nothing was read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The device has no such region, or it is empty.
    #[error("the device has no {index}")]
    NoSuchRegion {
        /// Which.
        index: RegionIndex,
    },
    /// The region ends before.
    #[error("{index} has {size:#x} bytes, so none at {offset:#x}")]
    BeyondEnd {
        /// Which.
        index: RegionIndex,
        /// Where the access was to begin.
        offset: u64,
        /// The region's length.
        size: u64,
    },
    /// The region can only be read.
    #[error("{index} cannot be written")]
    ReadOnly {
        /// Which.
        index: RegionIndex,
    },
    /// The device does not answer there: its command register has memory off.
    #[error("{index} does not answer while memory is off in the command register")]
    MemoryOff {
        /// Which.
        index: RegionIndex,
    },
}

impl RegionError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoSuchRegion { .. } | Self::BeyondEnd { .. } | Self::ReadOnly { .. } => Errno::EINVAL,
            Self::MemoryOff { .. } => Errno::EIO,
        }
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_offset_of_the_file_is_a_region_and_an_offset_within(index in 0_u32..1 << 24, within in 0_u64..1 << 40) {
            let index = RegionIndex::new(index);
            prop_assert_eq!(RegionIndex::at(index.offset() | within), (index, within));
        }
    }
}
