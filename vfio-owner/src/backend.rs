//! Backends: the IOMMU types that a container can be set to.

mod attach;
mod dirty;
mod map;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use iommu_core::address::PageSizes;
use iommu_core::{Claim, Iova, IovaRange};
pub use iommu_core::{DirtyRequest, Extension, MapRequest};

pub use attach::AttachGroupError;
pub(crate) use dirty::MAX_BITMAP_BYTES;
pub use dirty::{DirtyBitmap, DirtyError, DirtySink, UserBitmap};
pub(crate) use map::cut_by;
pub use map::{MapDmaError, UnmapDmaError};

use crate::container::SetIommuError;

/// An IOMMU type that containers can be set to.
///
/// Called with a container's lock held.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Returns the answer to `VFIO_CHECK_EXTENSION` while the container has no IOMMU: 0 for no.
    fn check_extension(&self, extension: Extension) -> u32;

    /// Creates an IOMMU for one container. Called only for an extension that [`check_extension`](Self::check_extension)
    /// supports.
    ///
    /// # Errors
    /// Fails if the extension is not an IOMMU type.
    // Vt8.2, V45.
    fn open(&self, kind: Extension) -> Result<Box<dyn ContainerIommu>, SetIommuError>;
}

/// The IOMMU of one container; dropped with its last group, after everything was unmapped.
///
/// Called with the container's lock held, which serializes the calls. Takes the group lock through the claim, and the
/// locks of the user's memory.
// Vt9.5.
pub trait ContainerIommu: Send + fmt::Debug {
    /// Returns the answer to `VFIO_CHECK_EXTENSION`: 0 for no.
    fn check_extension(&self, extension: Extension) -> u32;

    /// Attaches a group, which is on its blocking domain, and makes all mappings for it.
    ///
    /// # Errors
    /// Fails if the group is not compatible with the container or its mappings. It is on its blocking domain again, and
    /// nothing else has changed.
    // Table Vt14, V46.
    fn attach_group(&mut self, claim: &Claim) -> Result<(), AttachGroupError>;

    /// Detaches a group, which returns to its blocking domain. With the last group all mappings are dropped.
    // V47.
    fn detach_group(&mut self, claim: &Claim);

    /// Maps memory of a process: `VFIO_IOMMU_MAP_DMA`.
    ///
    /// # Errors
    /// Fails for the causes of [`MapDmaError`]. Nothing was mapped.
    // Table Vt15.
    fn map(&mut self, request: &MapRequest) -> Result<(), MapDmaError>;

    /// Unmaps memory: `VFIO_IOMMU_UNMAP_DMA`. Returns how many bytes were unmapped.
    ///
    /// # Errors
    /// Fails if the range is misaligned or would split a mapping. Nothing was unmapped.
    // Table Vt16.
    fn unmap(&mut self, what: Unmap) -> Result<u64, UnmapDmaError>;

    /// Unmaps memory and reports its dirty pages: `VFIO_IOMMU_UNMAP_DMA` with a bitmap.
    ///
    /// # Errors
    /// Fails as [`unmap`](Self::unmap) does, or if dirty tracking is off or not supported: nothing was unmapped. Or the
    /// pages of a mapping cannot be reported: it stays, and those above it.
    // Vt16.6.
    fn unmap_dirty(&mut self, request: DirtyRequest, into: &mut dyn DirtySink) -> Result<u64, UnmapDmaError>;

    /// Invalidates the vaddr of mappings: `VFIO_IOMMU_UNMAP_DMA` with `VADDR`. Devices keep access to the memory.
    /// Returns how many bytes are concerned.
    ///
    /// # Errors
    /// Fails as [`unmap`](Self::unmap) does, or if a vaddr is already invalid. Nothing has changed.
    // Vt16.2, Vt16.11.
    fn invalidate_vaddr(&mut self, what: Unmap) -> Result<u64, UnmapDmaError>;

    /// Updates the vaddr of a mapping, perhaps to that of another process: `VFIO_IOMMU_MAP_DMA` with `VADDR`.
    ///
    /// # Errors
    /// Fails if the range is not exactly one mapping whose vaddr is invalid. Nothing has changed.
    // Vt15.6.
    fn update_vaddr(&mut self, request: &MapRequest) -> Result<(), MapDmaError>;

    /// Returns the limits of this IOMMU: `VFIO_IOMMU_GET_INFO`.
    fn info(&self) -> IommuInfo;

    /// Checks whether this IOMMU can track dirty pages.
    ///
    /// # Errors
    /// It cannot.
    fn tracks_dirty(&self) -> Result<(), DirtyError>;

    /// Starts or stops dirty tracking: `VFIO_IOMMU_DIRTY_PAGES` with `START` or `STOP`.
    ///
    /// # Errors
    /// Fails if this IOMMU does not track dirty pages.
    // V51.
    fn track_dirty(&mut self, tracking: DirtyTracking) -> Result<(), DirtyError>;

    /// Reports the pages that were written since the last call: `VFIO_IOMMU_DIRTY_PAGES` with `GET`.
    ///
    /// # Errors
    /// Fails if dirty tracking is off, the range does not consist of whole mappings and pages, or the pages of a mapping
    /// cannot be reported.
    // V51.
    fn dirty_pages(&mut self, request: DirtyRequest, into: &mut dyn DirtySink) -> Result<(), DirtyError>;
}

/// Arguments of `VFIO_IOMMU_UNMAP_DMA`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmap {
    /// All mappings in a range.
    Range {
        /// First IOVA of the range.
        iova: Iova,
        /// Size in bytes.
        bytes: u64,
    },
    /// All mappings of the container.
    All,
}

/// Answer of `VFIO_IOMMU_GET_INFO`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IommuInfo {
    /// Page sizes that can be mapped.
    pub page_sizes: PageSizes,
    /// IOVA ranges that can be mapped, ascending.
    pub ranges: Vec<IovaRange>,
    /// How many more mappings can be made.
    pub mappings_left: u32,
    /// How dirty pages are tracked, if they are.
    pub migration: Option<Migration>,
}

/// How a container's IOMMU tracks dirty pages: the migration capability of `VFIO_IOMMU_GET_INFO`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Migration {
    /// Sizes of the pages that are tracked.
    pub page_sizes: PageSizes,
    /// The largest bitmap, in bytes.
    pub max_bitmap_bytes: u64,
}

/// Whether dirty pages are tracked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirtyTracking {
    /// Dirty pages are tracked.
    On,
    /// Dirty pages are not tracked.
    Off,
}
