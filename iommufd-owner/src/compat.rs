//! VFIO compatibility: container ioctls on an iommufd.
// Table Ft12.

use alloc::sync::{Arc, Weak};

use iommu_core::device_model::Errno;
use iommu_core::{Access, Iova, IovaRange, UserAddr, UserMemory};

use crate::context::Context;
use crate::io_page_table::{LargePages, MapError, UnmapError};
use crate::ioas::{Ioas, IoasError, IovaRanges, MapRequest, Place};
use crate::object::Object;
use crate::object_id::{NoObjectError, ObjectId};
use crate::object_table::Use;

/// What VFIO's calls are about, in a context.
#[derive(Debug, Default)]
pub(crate) struct Compat {
    /// With its id; forgotten once it was destroyed.
    // F8.
    ioas: Option<(ObjectId, Weak<Ioas>)>,
    protection: Protection,
}

/// Whether an IOMMU stands between the devices of a context and memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protection {
    /// An IOMMU does.
    #[default]
    Iommu,
    /// No IOMMU: VFIO's no-IOMMU mode.
    None,
}

/// What `VFIO_CHECK_EXTENSION` asks for on an iommufd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extension {
    /// Version 1: an unmap may split mappings.
    Type1,
    /// Version 2: an unmap must not split mappings.
    Type1v2,
    /// Unmapping of everything.
    UnmapAll,
    /// Whether all DMA is coherent with CPU caches.
    DmaCoherent,
    /// Devices without an IOMMU.
    NoIommu,
    /// Anything else: nesting, changes of the virtual address, other types.
    Other,
}

/// What `VFIO_SET_IOMMU` chooses: how mappings are unmapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompatType {
    /// There are none: no-IOMMU mode. That the caller may (`CAP_SYS_RAWIO`) was checked before.
    NoIommu,
    /// An unmap may split mappings.
    Type1,
    /// An unmap must not split mappings.
    Type1v2,
}

/// Why a call of VFIO was refused on an iommufd.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompatError {
    /// The context has no compatibility address space: no group was put into it.
    #[error("the context has no compatibility address space")]
    NoIoas,
    /// The type is not the one that a context has with an IOMMU, or without one.
    #[error("the context cannot have that type of IOMMU")]
    WrongType,
    /// There is an address space and an IOMMU, or no IOMMU, and the other was asked for.
    #[error("devices with and without an IOMMU do not share a context")]
    WrongProtection,
    /// The address space refused.
    #[error(transparent)]
    Ioas(#[from] IoasError),
    /// Nothing was mapped.
    #[error(transparent)]
    Map(#[from] MapError),
    /// Nothing was unmapped, or not all.
    #[error(transparent)]
    Unmap(#[from] UnmapError),
}

impl CompatError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoIoas => Errno::ENODEV,
            Self::WrongType | Self::WrongProtection => Errno::EINVAL,
            Self::Ioas(error) => error.errno(),
            Self::Map(error) => error.errno(),
            Self::Unmap(error) => error.errno(),
        }
    }
}

/// Arguments of `VFIO_IOMMU_MAP_DMA` on an iommufd: always at a fixed IOVA.
#[derive(Clone, Debug)]
pub struct CompatMap {
    /// IOVA of the mapping.
    pub iova: Iova,
    /// Size in bytes.
    pub bytes: u64,
    /// The process whose memory is mapped.
    pub process: Arc<dyn UserMemory>,
    /// Address of the memory in the process.
    pub addr: UserAddr,
    /// Access that devices get.
    pub access: Access,
}

impl Context {
    /// Returns the address space that VFIO's calls are about (`IOMMU_VFIO_IOAS`, `GET`), unless it was destroyed.
    pub fn compat_ioas(&self) -> Option<ObjectId> {
        self.live_compat(&self.compat())
    }

    fn live_compat(&self, compat: &Compat) -> Option<ObjectId> {
        let (id, known) = compat.ioas.as_ref()?;
        // Another one may have got its id.
        let is_known = |object: &Object| matches!(object, Object::Ioas(ioas) if Arc::as_ptr(ioas) == known.as_ptr());
        self.objects().peek(*id, is_known)?.then_some(*id)
    }

    /// Sets the address space that VFIO's calls are about (`IOMMU_VFIO_IOAS`, `SET`).
    ///
    /// # Errors
    /// There is no such address space.
    pub fn set_compat_ioas(&self, id: ObjectId) -> Result<(), NoObjectError> {
        let (ioas, _used) = self.ioas(id)?;
        self.compat().ioas = Some((id, Arc::downgrade(&ioas)));
        Ok(())
    }

    /// Makes VFIO's calls find no address space any more (`IOMMU_VFIO_IOAS`, `CLEAR`). The address space stays.
    pub fn clear_compat_ioas(&self) {
        self.compat().ioas = None;
    }

    /// Returns the compatibility address space, which is made if there is none.
    ///
    /// # Errors
    /// There is no id left, or the context is in no-IOMMU mode.
    pub fn ensure_compat_ioas(&self) -> Result<ObjectId, IoasError> {
        let mut compat = self.compat();
        if compat.protection == Protection::None {
            return Err(IoasError::NoIommuMode);
        }
        if let Some(known) = self.live_compat(&compat) {
            return Ok(known);
        }
        let (made, ioas) = self.ioas_make()?;
        compat.ioas = Some((made, Arc::downgrade(&ioas)));
        Ok(made)
    }

    /// Makes the context one for devices without an IOMMU.
    ///
    /// # Errors
    /// It has a compatibility address space.
    pub fn enter_no_iommu_mode(&self) -> Result<(), CompatError> {
        let mut compat = self.compat();
        if self.live_compat(&compat).is_some() {
            return Err(CompatError::WrongProtection);
        }
        compat.protection = Protection::None;
        Ok(())
    }

    /// Returns whether an IOMMU protects memory from the devices of the context.
    pub fn protection(&self) -> Protection {
        self.compat().protection
    }

    /// Returns whether an extension is supported (`VFIO_CHECK_EXTENSION`).
    ///
    /// # Errors
    /// Coherency is asked for, and there is no compatibility address space.
    pub fn compat_check_extension(&self, extension: Extension) -> Result<bool, CompatError> {
        match extension {
            Extension::Type1 | Extension::Type1v2 | Extension::UnmapAll => Ok(self.protection() == Protection::Iommu),
            Extension::DmaCoherent => self.compat_coherent(),
            Extension::NoIommu => Ok(true),
            Extension::Other => Ok(false),
        }
    }

    fn find_compat(&self) -> Result<(Arc<Ioas>, Use), CompatError> {
        let (id, known) = self.compat().ioas.clone().ok_or(CompatError::NoIoas)?;
        let found = self.ioas(id).ok().filter(|(ioas, _)| Arc::as_ptr(ioas) == known.as_ptr());
        found.ok_or(CompatError::NoIoas)
    }

    /// Returns whether all DMA into the compatibility address space is coherent with CPU caches (`VFIO_DMA_CC_IOMMU`): so it is where
    /// nothing is attached.
    ///
    /// # Errors
    /// There is no compatibility address space.
    pub fn compat_coherent(&self) -> Result<bool, CompatError> {
        let (ioas, _used) = self.find_compat()?;
        let coherent = ioas.lock_table().is_coherent();
        Ok(coherent)
    }

    /// Chooses how mappings are unmapped (`VFIO_SET_IOMMU`); may be repeated.
    ///
    /// # Errors
    /// The type does not fit the context, there is no compatibility address space, or [`CompatType::Type1`] comes too late for
    /// mappings that are there.
    pub fn compat_set_iommu(&self, kind: CompatType) -> Result<(), CompatError> {
        match (self.protection(), kind) {
            (Protection::None, CompatType::NoIommu) => return Ok(()),
            (Protection::None, _) | (_, CompatType::NoIommu) => return Err(CompatError::WrongType),
            (Protection::Iommu, CompatType::Type1 | CompatType::Type1v2) => {}
        }
        let (ioas, _used) = self.find_compat()?;
        if kind == CompatType::Type1 {
            ioas.set_large_pages(LargePages::Disabled)?;
        }
        Ok(())
    }

    /// Maps memory at a fixed place (`VFIO_IOMMU_MAP_DMA`).
    ///
    /// # Errors
    /// There is no compatibility address space, or as for [`ioas_map`](Self::ioas_map).
    pub fn compat_map(&self, request: CompatMap) -> Result<(), CompatError> {
        let (ioas, _used) = self.find_compat()?;
        let CompatMap { iova, bytes, process, addr, access } = request;
        let request = MapRequest { place: Place::Fixed(iova), bytes, process, addr, access };
        request.check()?;
        ioas.map(request, self.account())?;
        Ok(())
    }

    /// Unmaps a range (`VFIO_IOMMU_UNMAP_DMA`), and returns how many bytes were unmapped: 0 where nothing was mapped.
    ///
    /// # Errors
    /// There is no compatibility address space, or a mapping exceeds the range and cannot be split.
    pub fn compat_unmap(&self, iova: Iova, bytes: u64) -> Result<u64, CompatError> {
        let (ioas, _used) = self.find_compat()?;
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
            Err(UnmapError::NotMapped { .. }) => Ok(0),
            other => Ok(other?),
        }
    }

    /// Unmaps everything (`VFIO_IOMMU_UNMAP_DMA` with `ALL`).
    ///
    /// # Errors
    /// There is no compatibility address space.
    pub fn compat_unmap_all(&self) -> Result<u64, CompatError> {
        let (ioas, _used) = self.find_compat()?;
        Ok(ioas.unmap(Iova::new(0), u64::MAX)?)
    }

    /// Returns what can be mapped (`VFIO_IOMMU_GET_INFO`).
    ///
    /// # Errors
    /// There is no compatibility address space.
    pub fn compat_info(&self) -> Result<IovaRanges, CompatError> {
        let (ioas, _used) = self.find_compat()?;
        Ok(ioas.iova_ranges())
    }
}
