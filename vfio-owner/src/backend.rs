//! What stands behind a container: the kind of IOMMU that its groups are put under.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use iommu_core::address::PageSizes;
use iommu_core::{Access, Claim, Iova, IovaRange, UserAddr, UserMemory};

use crate::error::{AttachGroupError, DirtyError, MapDmaError, SetIommuError, UnmapDmaError};

/// What `VFIO_CHECK_EXTENSION` asks for and `VFIO_SET_IOMMU` sets: the kinds of IOMMU and what they can do share one
/// space of numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extension(u32);

macro_rules! extensions {
    ($($name:ident = $number:literal, $word:literal, $text:literal;)*) => {
        impl Extension {
            $(#[doc = $text] pub const $name: Self = Self($number);)*

            const fn word(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some($word),)*
                    _ => None,
                }
            }
        }
    };
}

extensions! {
    TYPE1 = 1, "type1", "The IOMMU of x86 and ARM; unmaps whole mappings, whatever was asked for.";
    SPAPR = 2, "spapr", "The IOMMU of POWER.";
    TYPE1_V2 = 3, "type1v2", "[`TYPE1`](Self::TYPE1) whose unmaps never cut a mapping.";
    DMA_CC = 4, "dma-cc", "All DMA of the container is coherent with CPU caches.";
    EEH = 5, "eeh", "Error recovery of POWER.";
    NESTING = 6, "nesting", "Two stages of translation.";
    SPAPR_V2 = 7, "spaprv2", "[`SPAPR`](Self::SPAPR) with memory registered beforehand.";
    NO_IOMMU = 8, "noiommu", "No IOMMU at all: unsafe.";
    UNMAP_ALL = 9, "unmap-all", "One call can unmap everything.";
    UPDATE_VADDR = 10, "update-vaddr", "Mappings can move to another process.";
}

impl Extension {
    /// The extension of this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.word() {
            Some(word) => f.write_str(word),
            None => write!(f, "extension {}", self.0),
        }
    }
}

impl fmt::Debug for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A kind of IOMMU that containers can be set to.
///
/// Called with a container's lock held.
pub trait Backend: Send + Sync + fmt::Debug {
    /// The answer to `VFIO_CHECK_EXTENSION` while the container has no IOMMU: 0 for no.
    fn check_extension(&self, extension: Extension) -> u32;

    /// A new IOMMU for one container. Asked only for what [`check_extension`](Self::check_extension) affirms.
    ///
    /// # Errors
    /// It is no kind of IOMMU.
    // Vt8.2, V45.
    fn open(&self, kind: Extension) -> Result<Box<dyn ContainerIommu>, SetIommuError>;
}

/// The IOMMU of one container; dropped with its last group, everything unmapped before.
///
/// Called with the container's lock held, which makes one call at a time. It takes the group lock through the claim, and
/// locks of the user's memory.
// Vt9.5.
pub trait ContainerIommu: Send + fmt::Debug {
    /// The answer to `VFIO_CHECK_EXTENSION`: 0 for no.
    fn check_extension(&self, extension: Extension) -> u32;

    /// Brings a group under this IOMMU, with everything that is mapped. The group is on its blocking domain.
    ///
    /// # Errors
    /// The group does not fit in. It is on its blocking domain again, and nothing else has changed.
    // Table Vt14, V46.
    fn attach_group(&mut self, claim: &Claim) -> Result<(), AttachGroupError>;

    /// Takes a group out, back to its blocking domain. With the last group all mappings go.
    // V47.
    fn detach_group(&mut self, claim: &Claim);

    /// `VFIO_IOMMU_MAP_DMA`.
    ///
    /// # Errors
    /// Nothing was mapped.
    // Table Vt15.
    fn map(&mut self, request: MapDma) -> Result<(), MapDmaError>;

    /// `VFIO_IOMMU_UNMAP_DMA`; how many bytes were unmapped.
    ///
    /// # Errors
    /// Nothing was unmapped.
    // Table Vt16.
    fn unmap(&mut self, what: Unmap) -> Result<u64, UnmapDmaError>;

    /// `VFIO_IOMMU_UNMAP_DMA` with the pages that were written; bitmap of pages of `page_bytes`.
    ///
    /// # Errors
    /// Nothing was unmapped.
    // Vt16.6.
    fn unmap_dirty(&mut self, iova: Iova, bytes: u64, page_bytes: u64) -> Result<(u64, DirtyBitmap), UnmapDmaError>;

    /// `VFIO_IOMMU_UNMAP_DMA` with `VADDR`: the memory of these mappings goes away for a while; devices keep reaching it
    ///. How many bytes are concerned.
    ///
    /// # Errors
    /// Nothing has changed.
    // Vt16.2, Vt16.11.
    fn invalidate_vaddr(&mut self, what: Unmap) -> Result<u64, UnmapDmaError>;

    /// `VFIO_IOMMU_MAP_DMA` with `VADDR`: the same memory is at another address, perhaps in another process.
    ///
    /// # Errors
    /// Nothing has changed.
    // Vt15.6.
    fn update_vaddr(&mut self, request: MapDma) -> Result<(), MapDmaError>;

    /// `VFIO_IOMMU_GET_INFO`.
    fn info(&self) -> IommuInfo;

    /// `VFIO_IOMMU_DIRTY_PAGES`, `START` and `STOP`.
    ///
    /// # Errors
    /// This IOMMU does not track.
    // V51.
    fn track_dirty(&mut self, tracking: DirtyTracking) -> Result<(), DirtyError>;

    /// `VFIO_IOMMU_DIRTY_PAGES`, `GET`: the pages written since the last time.
    ///
    /// # Errors
    /// Tracking is off, or the range does not fit.
    // V51.
    fn dirty_pages(&mut self, iova: Iova, bytes: u64, page_bytes: u64) -> Result<DirtyBitmap, DirtyError>;
}

/// What `VFIO_IOMMU_MAP_DMA` is asked for.
#[derive(Clone, Debug)]
pub struct MapDma {
    /// Where devices see it.
    pub iova: Iova,
    /// How much, in bytes.
    pub bytes: u64,
    /// Whose memory: that of the process that asks.
    pub process: Arc<dyn UserMemory>,
    /// Where the process sees it.
    pub addr: UserAddr,
    /// What devices may do.
    pub access: Access,
}

/// What `VFIO_IOMMU_UNMAP_DMA` is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmap {
    /// The mappings in a range.
    Range {
        /// Where it begins.
        iova: Iova,
        /// How long it is, in bytes.
        bytes: u64,
    },
    /// All.
    All,
}

/// What `VFIO_IOMMU_GET_INFO` tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IommuInfo {
    /// Pages that can be mapped.
    pub page_sizes: PageSizes,
    /// Where can be mapped, ascending.
    pub ranges: Vec<IovaRange>,
    /// How many mappings more can be made.
    pub mappings_left: u32,
}

/// Whether written pages are noted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirtyTracking {
    /// They are.
    On,
    /// They are not.
    Off,
}

/// One bit for each page of a range, lowest page in the lowest bit of the first word; set for a page that was written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DirtyBitmap(pub Vec<u64>);
