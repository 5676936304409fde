//! VFIO's calls on an iommufd that stands in a container's place (table Ft12).

use alloc::sync::Arc;

use iommu_core::device_model::Errno;
use iommu_core::hardware::Capabilities;
use iommu_core::{Access, Iova, IovaRange, UserAddr, UserMemory};

use crate::context::{Context, IovaRanges};
use crate::error::{IoasError, MapErr, NoObject, UnmapErr};
use crate::io_page_table::LargePages;
use crate::ioas::{MapRequest, Place};
use crate::object::{ObjectId, Use};

/// Which rules for unmapping `VFIO_SET_IOMMU` has chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompatType {
    /// Mappings are cut where an unmap ends (Ft12.8).
    Type1,
    /// They are not.
    Type1v2,
}

/// Why a call of VFIO was refused on an iommufd.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompatError {
    /// The context has no address space for VFIO: no group was put into it.
    #[error("the context has no address space for VFIO")]
    NoIoas,
    /// The address space refused.
    #[error(transparent)]
    Ioas(#[from] IoasError),
    /// Nothing was mapped.
    #[error(transparent)]
    Map(#[from] MapErr),
    /// Nothing was unmapped, or not all.
    #[error(transparent)]
    Unmap(#[from] UnmapErr),
}

impl CompatError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoIoas => Errno::ENODEV,
            Self::Ioas(error) => error.errno(),
            Self::Map(error) => error.errno(),
            Self::Unmap(error) => error.errno(),
        }
    }
}

/// What `VFIO_IOMMU_MAP_DMA` is asked for on an iommufd: always at a fixed place.
#[derive(Clone, Debug)]
pub struct CompatMap {
    /// Where devices see it.
    pub iova: Iova,
    /// How much, in bytes.
    pub bytes: u64,
    /// Whose memory.
    pub process: Arc<dyn UserMemory>,
    /// Where the process sees it.
    pub addr: UserAddr,
    /// What devices may do.
    pub access: Access,
}

impl Context {
    /// `IOMMU_VFIO_IOAS`, `GET`: the address space that VFIO's calls are about.
    pub fn compat_ioas(&self) -> Option<ObjectId> {
        self.settings().compatible
    }

    /// `IOMMU_VFIO_IOAS`, `SET`.
    ///
    /// # Errors
    /// There is no such address space.
    pub fn set_compat_ioas(&self, ioas: ObjectId) -> Result<(), NoObject> {
        let _found = self.ioas(ioas)?;
        self.change_settings(|settings| settings.compatible = Some(ioas));
        Ok(())
    }

    /// `IOMMU_VFIO_IOAS`, `CLEAR`: VFIO's calls find none any more; the address space stays.
    pub fn clear_compat_ioas(&self) {
        self.change_settings(|settings| settings.compatible = None);
    }

    /// The address space for VFIO, made if there is none (F63).
    ///
    /// # Errors
    /// There is no id left.
    pub fn ensure_compat_ioas(&self) -> Result<ObjectId, IoasError> {
        if let Some(known) = self.compat_ioas() {
            return Ok(known);
        }
        let made = self.ioas_alloc()?;
        let mut chosen = made;
        self.change_settings(|settings| chosen = *settings.compatible.get_or_insert(made));
        if chosen != made {
            // Another thread was faster; nobody knows this one.
            let _ = self.destroy(made);
        }
        Ok(chosen)
    }

    fn compat(&self) -> Result<(Arc<crate::ioas::Ioas>, Use), CompatError> {
        let id = self.compat_ioas().ok_or(CompatError::NoIoas)?;
        self.ioas(id).map_err(|_| CompatError::NoIoas)
    }

    /// Whether all devices that are attached do DMA coherent with CPU caches (`VFIO_DMA_CC_IOMMU`).
    ///
    /// # Errors
    /// There is no address space for VFIO.
    pub fn compat_coherent(&self) -> Result<bool, CompatError> {
        let (ioas, _used) = self.compat()?;
        let _ = ioas;
        let coherent = |capabilities: Capabilities| capabilities.has(Capabilities::ENFORCED_COHERENCY);
        let incoherent = self
            .objects()
            .any(|object| matches!(object, crate::object::Object::Device(member) if !coherent(member.capabilities())));
        Ok(!incoherent)
    }

    /// `VFIO_SET_IOMMU`; may be repeated (Ft12.6).
    ///
    /// # Errors
    /// There is no address space for VFIO, or [`CompatType::Type1`] comes too late for mappings that are there.
    pub fn compat_set_iommu(&self, kind: CompatType) -> Result<(), CompatError> {
        let (ioas, _used) = self.compat()?;
        if kind == CompatType::Type1 {
            ioas.set_large_pages(LargePages::Disabled)?;
        }
        Ok(())
    }

    /// `VFIO_IOMMU_MAP_DMA` (Ft12.7).
    ///
    /// # Errors
    /// There is no address space for VFIO, or as for [`ioas_map`](Self::ioas_map).
    pub fn compat_map(&self, request: CompatMap) -> Result<(), CompatError> {
        let id = self.compat_ioas().ok_or(CompatError::NoIoas)?;
        let CompatMap { iova, bytes, process, addr, access } = request;
        self.ioas_map(id, MapRequest { place: Place::Fixed(iova), bytes, process, addr, access })?;
        Ok(())
    }

    /// `VFIO_IOMMU_UNMAP_DMA` (Ft12.8); how many bytes were unmapped, 0 where nothing was.
    ///
    /// # Errors
    /// There is no address space for VFIO, or a mapping sticks out of the range and cannot be cut.
    pub fn compat_unmap(&self, iova: Iova, bytes: u64) -> Result<u64, CompatError> {
        let (ioas, _used) = self.compat()?;
        if let Some(range) = IovaRange::sized(iova, bytes) {
            let mut table = ioas.lock_table();
            if table.large_pages == LargePages::Disabled {
                table.cut(range.first())?;
                if let Some(behind) = range.last().checked_add(1) {
                    table.cut(behind)?;
                }
            }
        }
        match ioas.unmap(iova, bytes) {
            Err(UnmapErr::NotMapped { .. }) => Ok(0),
            other => Ok(other?),
        }
    }

    /// `VFIO_IOMMU_UNMAP_DMA` of everything.
    ///
    /// # Errors
    /// There is no address space for VFIO.
    pub fn compat_unmap_all(&self) -> Result<u64, CompatError> {
        let (ioas, _used) = self.compat()?;
        Ok(ioas.unmap(Iova::new(0), u64::MAX)?)
    }

    /// `VFIO_IOMMU_GET_INFO` (Ft12.10).
    ///
    /// # Errors
    /// There is no address space for VFIO.
    pub fn compat_info(&self) -> Result<IovaRanges, CompatError> {
        let id = self.compat_ioas().ok_or(CompatError::NoIoas)?;
        self.ioas_iova_ranges(id).map_err(|_| CompatError::NoIoas)
    }
}
