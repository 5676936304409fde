//! Containers: groups that share an I/O address space.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::device_model::sync::{LockClass, Mutex};
use iommu_core::{Claim, Group, Iova, Owner};

use crate::backend::{Backend, ContainerIommu, DirtyBitmap, DirtyTracking, Extension, IommuInfo, MapDma, Unmap};
use crate::error::{AttachGroupError, DirtyError, MapDmaError, SetContainerError, SetIommuError, UnmapDmaError};

const CONTAINER_LOCK: LockClass = LockClass::new("container", 600);

/// An open `/dev/vfio/vfio`.
///
/// Groups are put into it through their files. Each is claimed when it comes, before the container has an IOMMU, and
/// released when it goes. A clone is the same open file. Closing it, by dropping the last clone, tears nothing down while
/// a group is inside: mappings live until the last group has left.
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

    /// `VFIO_CHECK_EXTENSION`: 0 for no. Answers for all kinds of IOMMU that there are, until one is set.
    // V57.
    pub fn check_extension(&self, extension: Extension) -> u32 {
        if let Some(iommu) = &self.0.state.lock().iommu {
            return iommu.check_extension(extension);
        }
        let answers = self.0.backends.iter().map(|backend| backend.check_extension(extension));
        answers.into_iter().find(|answer| *answer > 0).unwrap_or(0)
    }

    /// `VFIO_SET_IOMMU`: puts the groups under an IOMMU of this kind. It stays until the last group has left
    ///.
    ///
    /// # Errors
    /// There is no group, or an IOMMU, or none of this kind, or a group does not fit. Every group is on its blocking
    /// domain.
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

    /// `VFIO_IOMMU_MAP_DMA`.
    ///
    /// # Errors
    /// Each says what speaks against it; nothing was mapped.
    // Table Vt15.
    pub fn map(&self, request: MapDma) -> Result<(), MapDmaError> {
        self.iommu(MapDmaError::NoIommu, |iommu| iommu.map(request))
    }

    /// `VFIO_IOMMU_UNMAP_DMA`; how many bytes were unmapped.
    ///
    /// # Errors
    /// The range does not fit, or would cut a mapping; nothing was unmapped.
    // Table Vt16.
    pub fn unmap(&self, what: Unmap) -> Result<u64, UnmapDmaError> {
        self.iommu(UnmapDmaError::NoIommu, |iommu| iommu.unmap(what))
    }

    /// As [`unmap`](Self::unmap), with the pages that were written.
    ///
    /// # Errors
    /// As for [`unmap`](Self::unmap), or written pages are not noted.
    // Vt16.6.
    pub fn unmap_dirty(&self, iova: Iova, bytes: u64, page_bytes: u64) -> Result<(u64, DirtyBitmap), UnmapDmaError> {
        self.iommu(UnmapDmaError::NoIommu, |iommu| iommu.unmap_dirty(iova, bytes, page_bytes))
    }

    /// `VFIO_IOMMU_UNMAP_DMA` with `VADDR`: the process gives the memory of these mappings away; devices keep reaching
    /// it. How many bytes are concerned.
    ///
    /// # Errors
    /// As for [`unmap`](Self::unmap), or it was given away before; nothing has changed.
    pub fn invalidate_vaddr(&self, what: Unmap) -> Result<u64, UnmapDmaError> {
        self.iommu(UnmapDmaError::NoIommu, |iommu| iommu.invalidate_vaddr(what))
    }

    /// `VFIO_IOMMU_MAP_DMA` with `VADDR`: where that memory is now.
    ///
    /// # Errors
    /// It is not exactly one mapping whose memory was given away; nothing has changed.
    // Vt15.6.
    pub fn update_vaddr(&self, request: MapDma) -> Result<(), MapDmaError> {
        self.iommu(MapDmaError::NoIommu, |iommu| iommu.update_vaddr(request))
    }

    /// `VFIO_IOMMU_GET_INFO`; `None` without an IOMMU, where Linux answers `EINVAL`.
    pub fn info(&self) -> Option<IommuInfo> {
        self.0.state.lock().iommu.as_ref().map(|iommu| iommu.info())
    }

    /// `VFIO_IOMMU_DIRTY_PAGES`: begins or ends noting written pages.
    ///
    /// # Errors
    /// There is no IOMMU, or it cannot.
    // V51.
    pub fn track_dirty(&self, tracking: DirtyTracking) -> Result<(), DirtyError> {
        self.iommu(DirtyError::NoIommu, |iommu| iommu.track_dirty(tracking))
    }

    /// `VFIO_IOMMU_DIRTY_PAGES`: the pages written since the last time.
    ///
    /// # Errors
    /// There is no IOMMU, tracking is off, or the range does not fit.
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

    /// Table Vt7: claims `group`, and brings it under the IOMMU if there is one.
    pub(crate) fn attach(&self, group: &Arc<Group>, owner: &Owner) -> Result<(), SetContainerError> {
        let mut state = self.0.state.lock();
        let claim = group.claim(owner)?;
        if let Some(iommu) = &mut state.iommu {
            iommu.attach_group(&claim)?;
        }
        state.groups.push(claim);
        Ok(())
    }

    /// Table Vt9: takes `group` out and releases it; with the last one the IOMMU goes.
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
