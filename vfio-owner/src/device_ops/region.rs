//! Regions of a device file.

use alloc::vec::Vec;
use core::fmt;

use iommu_core::device_model::Errno;

/// Where the offset within a region ends, and the region's index begins.
const INDEX_SHIFT: u32 = 40;

/// The number of a region. The names are those of PCI devices.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionIndex(u32);

impl RegionIndex {
    /// BAR 0.
    pub const BAR0: Self = Self(0);
    /// BAR 1.
    pub const BAR1: Self = Self(1);
    /// BAR 2.
    pub const BAR2: Self = Self(2);
    /// BAR 3.
    pub const BAR3: Self = Self(3);
    /// BAR 4.
    pub const BAR4: Self = Self(4);
    /// BAR 5.
    pub const BAR5: Self = Self(5);
    /// Expansion ROM.
    pub const ROM: Self = Self(6);
    /// Configuration space.
    pub const CONFIG: Self = Self(7);
    /// Legacy VGA ranges.
    pub const VGA: Self = Self(8);
    /// Number of regions of a PCI device.
    pub const PCI_COUNT: u32 = 9;

    /// Creates the index of this number, whether a device has it or not.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Returns the offset of the region in the device file, `index << 40`, as in vfio-pci. Bits beyond 64 are cut off;
    /// no device has that many regions.
    pub const fn offset(self) -> u64 {
        (self.0 as u64) << INDEX_SHIFT
    }

    /// Returns the region at this offset of the device file, and the offset within it.
    pub const fn at(offset: u64) -> (Self, u64) {
        (Self((offset >> INDEX_SHIFT) as u32), offset & ((1 << INDEX_SHIFT) - 1))
    }

    /// How much of an access of `bytes` bytes at `offset` there is in the region, which has `size` bytes: of the
    /// configuration space, all or nothing.
    // Vt30.1, Vt30.6.
    pub(crate) fn clip(self, size: u64, offset: u64, bytes: u64) -> Result<u64, RegionError> {
        if self == Self::CONFIG {
            let inside = offset.checked_add(bytes).is_some_and(|end| end <= size);
            return if inside { Ok(bytes) } else { Err(RegionError::BeyondConfig { offset, bytes, size }) };
        }
        match size.checked_sub(offset) {
            None | Some(0) => Err(RegionError::BeyondEnd { index: self, offset, size }),
            Some(rest) => Ok(bytes.min(rest)),
        }
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

/// Description of a region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegionInfo {
    /// Size in bytes; 0 if the region is empty.
    pub size: u64,
    /// Offset in the device file.
    pub offset: u64,
    /// Whether the region can be read.
    pub readable: bool,
    /// Whether the region can be written.
    pub writable: bool,
    /// Whether the region can be mapped (`mmap`).
    pub mappable: bool,
    /// More about the region, in the order of the capability chain.
    pub capabilities: Vec<RegionCapability>,
}

impl RegionInfo {
    /// Creates the description of a region that is not there: of size 0, neither readable nor writable.
    pub const fn empty(index: RegionIndex) -> Self {
        let (readable, writable, mappable) = (false, false, false);
        Self { size: 0, offset: index.offset(), readable, writable, mappable, capabilities: Vec::new() }
    }
}

/// A capability of a region.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RegionCapability {
    /// Only these areas can be mapped: `VFIO_REGION_INFO_CAP_SPARSE_MMAP`.
    SparseMmap(Vec<MappableArea>),
    /// What a device-specific region is: `VFIO_REGION_INFO_CAP_TYPE`.
    Type {
        /// The type: of a vendor if the top bit is set.
        kind: u32,
        /// The subtype.
        subtype: u32,
    },
    /// The MSI-X table can be mapped with the rest: `VFIO_REGION_INFO_CAP_MSIX_MAPPABLE`.
    MsixMappable,
}

/// An area of a region that can be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MappableArea {
    /// Offset in the region, in bytes.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
}

/// Why a region was not read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The device has no such region, or it is empty.
    #[error("the device has no {index}")]
    NoSuchRegion {
        /// The region.
        index: RegionIndex,
    },
    /// The offset is beyond the end of the region.
    #[error("{index} has {size:#x} bytes, so none at {offset:#x}")]
    BeyondEnd {
        /// The region.
        index: RegionIndex,
        /// Offset of the access.
        offset: u64,
        /// Size of the region in bytes.
        size: u64,
    },
    /// The region is read-only.
    #[error("{index} cannot be written")]
    ReadOnly {
        /// The region.
        index: RegionIndex,
    },
    /// The access reaches beyond the end of the configuration space.
    #[error("the configuration space has {size:#x} bytes, so not {bytes} at {offset:#x}")]
    BeyondConfig {
        /// Offset of the access.
        offset: u64,
        /// Length of the access.
        bytes: u64,
        /// Size of the configuration space in bytes.
        size: u64,
    },
    /// The expansion ROM is not found while memory decoding is off, or holds no image.
    #[error("no image is found in the expansion ROM")]
    NoRomImage,
    /// Memory decoding is off in the command register.
    #[error("{index} does not answer while memory decoding is off in the command register")]
    MemoryOff {
        /// The region.
        index: RegionIndex,
    },
}

impl RegionError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoSuchRegion { .. } | Self::BeyondEnd { .. } | Self::ReadOnly { .. } => Errno::EINVAL,
            Self::BeyondConfig { .. } => Errno::EFAULT,
            Self::NoRomImage => Errno::ENOMEM,
            Self::MemoryOff { .. } => Errno::EIO,
        }
    }
}

/// The contents of a region that programs have mapped. Accesses come from any thread and stay within the region.
pub trait RegionMemory: Send + Sync + fmt::Debug {
    /// Fills `into` from `offset` of the region on.
    fn read(&self, offset: u64, into: &mut [u8]);

    /// Stores `from` at `offset` of the region.
    fn write(&self, offset: u64, from: &[u8]);
}

/// Whether a device takes a mapped region from the memory that programs have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Follow {
    /// It does not.
    Ignores,
    /// It does whenever it is polled.
    WhenPolled,
}

/// What polling a device found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Polled {
    /// Nothing to do.
    Idle,
    /// Something, which was done; there may be more.
    Busy,
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
