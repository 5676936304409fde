//! VFIO compatibility: container ioctls on an iommufd.
// Table Ft12.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use iommu_core::device_model::Errno;
use iommu_core::{Access, Extension, Iova, IovaRange, MapRequest};

use crate::context::Context;
use crate::io_page_table::{LargePages, MapError, UnmapError};
use crate::ioas::{Ioas, IoasError, Place};
use crate::object::Object;
use crate::object_id::{NoObjectError, ObjectId};

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
    /// A mapping was not split: nothing was unmapped.
    #[error(transparent)]
    Cut(UnmapError),
    /// Nothing was unmapped, or not all.
    #[error("only {unmapped:#x} bytes were unmapped")]
    Unmap {
        /// How many bytes were unmapped before; it is told to user space.
        // F96d.
        unmapped: u64,
        /// Why no more.
        #[source]
        cause: UnmapError,
    },
}

impl CompatError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoIoas => Errno::ENODEV,
            Self::WrongType | Self::WrongProtection => Errno::EINVAL,
            Self::Ioas(error) => error.errno(),
            Self::Map(error) => error.errno(),
            Self::Cut(error) | Self::Unmap { cause: error, .. } => error.errno(),
        }
    }
}

/// What `VFIO_IOMMU_GET_INFO` tells on an iommufd.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompatInfo {
    /// Page sizes that can be mapped, a bit for each.
    pub page_sizes: u64,
    /// IOVA ranges that can be mapped, ascending.
    pub ranges: Vec<IovaRange>,
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
        let ioas = self.ioas(id)?;
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
        let (made, ioas) = self.new_ioas()?.publish();
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
    // Table Ft21.
    pub fn compat_check_extension(&self, extension: Extension) -> Result<bool, CompatError> {
        match extension {
            Extension::TYPE1 | Extension::TYPE1_V2 | Extension::UNMAP_ALL => Ok(self.protection() == Protection::Iommu),
            Extension::DMA_CC => self.compat_coherent(),
            Extension::NO_IOMMU => Ok(self.protection() == Protection::None),
            _ => Ok(false),
        }
    }

    fn find_compat(&self) -> Result<Arc<Ioas>, CompatError> {
        let (id, known) = self.compat().ioas.clone().ok_or(CompatError::NoIoas)?;
        let found = self.ioas(id).ok().filter(|ioas| Arc::as_ptr(ioas) == known.as_ptr());
        found.ok_or(CompatError::NoIoas)
    }

    /// Returns whether all DMA into the compatibility address space is coherent with CPU caches (`VFIO_DMA_CC_IOMMU`): so it is where
    /// nothing is attached.
    ///
    /// # Errors
    /// There is no compatibility address space.
    pub fn compat_coherent(&self) -> Result<bool, CompatError> {
        let ioas = self.find_compat()?;
        let coherent = ioas.lock_table().is_coherent();
        Ok(coherent)
    }

    /// Chooses how mappings are unmapped (`VFIO_SET_IOMMU`); may be repeated. After [`Extension::TYPE1`] an unmap may split
    /// mappings. That the caller may ask for [`Extension::NO_IOMMU`] (`CAP_SYS_RAWIO`) was checked before.
    ///
    /// # Errors
    /// The type does not fit the context, there is no compatibility address space, or [`Extension::TYPE1`] comes too late for
    /// mappings that are there.
    // F97.
    pub fn compat_set_iommu(&self, kind: Extension) -> Result<(), CompatError> {
        match (self.protection(), kind) {
            (Protection::None, Extension::NO_IOMMU) => return Ok(()),
            (Protection::Iommu, Extension::TYPE1 | Extension::TYPE1_V2) => {}
            _ => return Err(CompatError::WrongType),
        }
        let ioas = self.find_compat()?;
        if kind == Extension::TYPE1 {
            ioas.set_large_pages(LargePages::Disabled)?;
        }
        Ok(())
    }

    /// Maps memory at a fixed place (`VFIO_IOMMU_MAP_DMA`).
    ///
    /// # Errors
    /// There is no compatibility address space, or as for [`ioas_map`](Self::ioas_map).
    pub fn compat_map(&self, request: MapRequest) -> Result<(), CompatError> {
        let permitted = Some(request.access);
        self.compat_map_permitted(request, permitted)
    }

    /// Maps memory so that devices get no access to it (`VFIO_IOMMU_MAP_DMA` without `READ` and `WRITE`). Only an address
    /// space that no device is attached to takes such a mapping.
    ///
    /// # Errors
    /// As for [`compat_map`](Self::compat_map).
    // Ft12.7.
    pub fn compat_map_inaccessible(&self, request: MapRequest) -> Result<(), CompatError> {
        self.compat_map_permitted(request, None)
    }

    fn compat_map_permitted(&self, request: MapRequest, permitted: Option<Access>) -> Result<(), CompatError> {
        let ioas = self.find_compat()?;
        let place = Place::Fixed(request.iova);
        ioas.map(request.at(place), permitted)?;
        Ok(())
    }

    /// Unmaps a range (`VFIO_IOMMU_UNMAP_DMA`), and returns how many bytes were unmapped: 0 where nothing was mapped.
    ///
    /// # Errors
    /// There is no compatibility address space, or a mapping exceeds the range and cannot be split.
    // Ft12.8.
    pub fn compat_unmap(&self, iova: Iova, bytes: u64) -> Result<u64, CompatError> {
        let ioas = self.find_compat()?;
        ioas.cut_ends(iova, bytes).map_err(CompatError::Cut)?;
        unmapped(ioas.unmap_counted(iova, bytes))
    }

    /// Unmaps everything (`VFIO_IOMMU_UNMAP_DMA` with `ALL`), and returns how many bytes were unmapped.
    ///
    /// # Errors
    /// There is no compatibility address space, or an access does not let go of a mapping.
    pub fn compat_unmap_all(&self) -> Result<u64, CompatError> {
        let ioas = self.find_compat()?;
        unmapped(ioas.remove(IovaRange::ALL))
    }

    /// Returns what can be mapped (`VFIO_IOMMU_GET_INFO`).
    ///
    /// # Errors
    /// There is no compatibility address space.
    pub fn compat_info(&self) -> Result<CompatInfo, CompatError> {
        let ioas = self.find_compat()?;
        let table = ioas.lock_table();
        Ok(CompatInfo { page_sizes: table.page_sizes(), ranges: table.usable() })
    }
}

fn unmapped((unmapped, removed): (u64, Result<(), UnmapError>)) -> Result<u64, CompatError> {
    match removed {
        Ok(()) | Err(UnmapError::NotMapped { .. }) => Ok(unmapped),
        Err(cause) => Err(CompatError::Unmap { unmapped, cause }),
    }
}
