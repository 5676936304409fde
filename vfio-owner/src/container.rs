//! Containers: groups that share an I/O address space.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::device_model::sync::{LockClass, Mutex};
use iommu_core::{Claim, Group, Iova, Owner};

use crate::backend::{Backend, ContainerIommu, DirtyBitmap, DirtyTracking, Extension, IommuInfo, MapRequest, Unmap};
use crate::error::{AttachGroupError, DirtyError, MapDmaError, SetContainerError, SetIommuError, UnmapDmaError};

const CONTAINER_LOCK: LockClass = LockClass::new("container", 600);

/// An open `/dev/vfio/vfio`.
///
/// Groups are put into it through their files. A group is claimed when it is added, even before the container has an
/// IOMMU, and released when it is removed. A clone is the same open file. Closing it, by dropping the last clone,
/// leaves mappings in place while it has a group: they live until the last group is removed.
// V24, V8.
#[derive(Clone, Debug)]
pub struct Container(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    backends: Arc<[Arc<dyn Backend>]>,
    /// The container lock: taken inside those of groups and device sets, outside the group lock of an IOMMU group.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// One claim for each group.
    groups: Vec<Claim>,
    iommu: Option<Box<dyn ContainerIommu>>,
}

impl Container {
    pub(crate) fn new(backends: Arc<[Arc<dyn Backend>]>) -> Self {
        Self(Arc::new(Shared { backends, state: Mutex::of(CONTAINER_LOCK, State::default()) }))
    }

    /// Returns whether an extension is supported, 0 for no: `VFIO_CHECK_EXTENSION`. Covers all IOMMU types that are
    /// available, or only the container's once it is set.
    // V57.
    pub fn check_extension(&self, extension: Extension) -> u32 {
        if let Some(iommu) = &self.0.state.lock().iommu {
            return iommu.check_extension(extension);
        }
        let answers = self.0.backends.iter().map(|backend| backend.check_extension(extension));
        answers.into_iter().find(|answer| *answer > 0).unwrap_or(0)
    }

    /// Sets the container's IOMMU and attaches its groups: `VFIO_SET_IOMMU`. It stays until the last group is removed.
    ///
    /// # Errors
    /// Fails if the container has no group or has an IOMMU already, if this type is not available, or if a group cannot
    /// be attached. Every group is on its blocking domain then.
    // Table Vt8, V26.
    pub fn set_iommu(&self, kind: Extension) -> Result<(), SetIommuError> {
        let mut state = self.0.state.lock();
        if state.groups.is_empty() {
            return Err(SetIommuError::NoGroup);
        }
        if state.iommu.is_some() {
            return Err(SetIommuError::AlreadySet);
        }
        let mut refusal = SetIommuError::Unsupported { kind };
        for backend in self.0.backends.iter().filter(|backend| backend.check_extension(kind) > 0) {
            match backend.open(kind).and_then(|iommu| state.attach_all(iommu)) {
                Ok(()) => return Ok(()),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// Maps memory of a process: `VFIO_IOMMU_MAP_DMA`.
    ///
    /// # Errors
    /// Fails if the container has no IOMMU; the range is misaligned, wraps, overlaps a mapping or is not in the allowed
    /// IOVA list; the memory does not exist or cannot be locked; or the IOMMU refuses. Nothing was mapped.
    // Table Vt15.
    pub fn map(&self, request: MapRequest) -> Result<(), MapDmaError> {
        self.iommu(MapDmaError::NoIommu, |iommu| iommu.map(request))
    }

    /// Unmaps memory: `VFIO_IOMMU_UNMAP_DMA`. Returns how many bytes were unmapped.
    ///
    /// # Errors
    /// Fails if the container has no IOMMU, or the range is misaligned or would split a mapping. Nothing was unmapped.
    // Table Vt16.
    pub fn unmap(&self, what: Unmap) -> Result<u64, UnmapDmaError> {
        self.iommu(UnmapDmaError::NoIommu, |iommu| iommu.unmap(what))
    }

    /// Unmaps memory as [`unmap`](Self::unmap) does, and returns which of its pages are dirty.
    ///
    /// # Errors
    /// Fails as [`unmap`](Self::unmap) does, or if dirty tracking is off or not supported.
    // Vt16.6.
    pub fn unmap_dirty(&self, iova: Iova, bytes: u64, page_bytes: u64) -> Result<(u64, DirtyBitmap), UnmapDmaError> {
        self.iommu(UnmapDmaError::NoIommu, |iommu| iommu.unmap_dirty(iova, bytes, page_bytes))
    }

    /// Invalidates the vaddr of mappings: `VFIO_IOMMU_UNMAP_DMA` with `VADDR`. Devices keep access to the memory.
    /// Returns how many bytes are concerned.
    ///
    /// # Errors
    /// Fails as [`unmap`](Self::unmap) does, or if a vaddr is already invalid. Nothing has changed.
    pub fn invalidate_vaddr(&self, what: Unmap) -> Result<u64, UnmapDmaError> {
        self.iommu(UnmapDmaError::NoIommu, |iommu| iommu.invalidate_vaddr(what))
    }

    /// Updates the vaddr of a mapping: `VFIO_IOMMU_MAP_DMA` with `VADDR`.
    ///
    /// # Errors
    /// Fails if the range is not exactly one mapping whose vaddr is invalid. Nothing has changed.
    // Vt15.6.
    pub fn update_vaddr(&self, request: MapRequest) -> Result<(), MapDmaError> {
        self.iommu(MapDmaError::NoIommu, |iommu| iommu.update_vaddr(request))
    }

    /// Returns the limits of the container's IOMMU, or `None` without one (`EINVAL`): `VFIO_IOMMU_GET_INFO`.
    pub fn info(&self) -> Option<IommuInfo> {
        self.0.state.lock().iommu.as_ref().map(|iommu| iommu.info())
    }

    /// Starts or stops dirty tracking: `VFIO_IOMMU_DIRTY_PAGES`.
    ///
    /// # Errors
    /// Fails if the container has no IOMMU, or its type does not track dirty pages.
    // V51.
    pub fn track_dirty(&self, tracking: DirtyTracking) -> Result<(), DirtyError> {
        self.iommu(DirtyError::NoIommu, |iommu| iommu.track_dirty(tracking))
    }

    /// Returns the pages that were written since the last call: `VFIO_IOMMU_DIRTY_PAGES`.
    ///
    /// # Errors
    /// Fails if the container has no IOMMU, dirty tracking is off, or the range does not consist of whole mappings and
    /// pages.
    // V51.
    pub fn dirty_pages(&self, iova: Iova, bytes: u64, page_bytes: u64) -> Result<DirtyBitmap, DirtyError> {
        self.iommu(DirtyError::NoIommu, |iommu| iommu.dirty_pages(iova, bytes, page_bytes))
    }

    fn iommu<T, E>(&self, missing: E, call: impl FnOnce(&mut dyn ContainerIommu) -> Result<T, E>) -> Result<T, E> {
        match &mut self.0.state.lock().iommu {
            Some(iommu) => call(&mut **iommu),
            None => Err(missing),
        }
    }

    /// Claims `group`, and attaches it to the IOMMU if there is one.
    pub(crate) fn attach(&self, group: &Arc<Group>, owner: &Owner) -> Result<(), SetContainerError> {
        let mut state = self.0.state.lock();
        let claim = group.claim(owner)?;
        if let Some(iommu) = &mut state.iommu {
            iommu.attach_group(&claim)?;
        }
        state.groups.push(claim);
        Ok(())
    }

    /// Removes and releases `group`; drops the IOMMU with the last one.
    pub(crate) fn detach(&self, group: &Arc<Group>) {
        let mut state = self.0.state.lock();
        let Some(place) = state.groups.iter().position(|claim| Arc::ptr_eq(claim.group(), group)) else { return };
        let claim = state.groups.remove(place);
        if let Some(iommu) = &mut state.iommu {
            iommu.detach_group(&claim);
        }
        drop(claim);
        if state.groups.is_empty() {
            state.iommu = None;
        }
    }

    /// Whether devices can be opened through its groups.
    // Vt6.8.
    pub(crate) fn has_iommu(&self) -> bool {
        self.0.state.lock().iommu.is_some()
    }
}

impl State {
    /// Every group, or none.
    fn attach_all(&mut self, mut iommu: Box<dyn ContainerIommu>) -> Result<(), SetIommuError> {
        for (attached, claim) in self.groups.iter().enumerate() {
            let refused: Result<(), AttachGroupError> = iommu.attach_group(claim);
            if let Err(error) = refused {
                self.groups.iter().take(attached).rev().for_each(|claim| iommu.detach_group(claim));
                return Err(error.into());
            }
        }
        self.iommu = Some(iommu);
        Ok(())
    }
}
