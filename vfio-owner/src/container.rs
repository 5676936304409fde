//! Containers: groups that share an I/O address space.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::num::NonZeroU64;

use iommu_core::Claim;
use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::{LockClass, Mutex};

use crate::backend::{AttachGroupError, DirtyError, MapDmaError, UnmapDmaError};
use crate::backend::{
    Backend, ContainerIommu, DirtyRequest, DirtySink, DirtyTracking, Extension, IommuInfo, MapRequest, Unmap,
};
use crate::group_file::SetContainerError;
use crate::isolation::{Isolation, NoIommuMode};
use crate::sparse::Sparse;

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
    no_iommu: NoIommuMode,
    /// The container lock: taken inside those of groups and device sets, outside the group lock of an IOMMU group.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    groups: Groups,
    iommu: Option<Iommu>,
}

/// Tells a group from all others that are in the container with it.
type Number = NonZeroU64;

/// A group's place in a container.
#[derive(Debug)]
pub(crate) struct Contained {
    container: Container,
    /// Of its claim; `None` without an IOMMU.
    number: Option<Number>,
}

/// Groups of one kind.
// Vt7.2.
#[derive(Debug)]
enum Groups {
    /// One claim for each group, in the order in which they came.
    Isolated(Sparse<Number, Claim>),
    /// How many groups: at least one.
    NoIommu(usize),
}

impl Default for Groups {
    fn default() -> Self {
        Self::Isolated(Sparse::default())
    }
}

impl Groups {
    fn is_empty(&self) -> bool {
        match self {
            Self::Isolated(claims) => claims.is_empty(),
            Self::NoIommu(groups) => *groups == 0,
        }
    }
}

/// What a container was set to.
#[derive(Debug)]
enum Iommu {
    Backend(Box<dyn ContainerIommu>),
    /// Nothing, in no-IOMMU mode: no call is served.
    // V28.
    None,
}

impl Container {
    pub(crate) fn new(backends: Arc<[Arc<dyn Backend>]>, no_iommu: NoIommuMode) -> Self {
        Self(Arc::new(Shared { backends, no_iommu, state: Mutex::of(CONTAINER_LOCK, State::default()) }))
    }

    /// Returns whether an extension is supported, 0 for no: `VFIO_CHECK_EXTENSION`. Covers all IOMMU types that are
    /// available, or only the container's once it is set.
    // V57.
    pub fn check_extension(&self, extension: Extension) -> u32 {
        let state = self.0.state.lock();
        let no_iommu = u32::from(self.0.no_iommu == NoIommuMode::Enabled && extension == Extension::NO_IOMMU);
        match (&state.iommu, &state.groups) {
            (Some(Iommu::Backend(iommu)), _) => iommu.check_extension(extension),
            (Some(Iommu::None), _) | (None, Groups::NoIommu(_)) => no_iommu,
            (None, Groups::Isolated(claims)) => {
                let mut answers = self.0.backends.iter().map(|backend| backend.check_extension(extension));
                // What a group has, only backends serve.
                let none = if claims.is_empty() { no_iommu } else { 0 };
                answers.find(|answer| *answer > 0).unwrap_or(none)
            }
        }
    }

    /// Checks of [`set_iommu`](Self::set_iommu) what does not depend on the backends.
    ///
    /// # Errors
    /// The container has no group or has an IOMMU already, or the type is for groups of the other kind.
    pub fn may_set_iommu(&self, kind: Extension) -> Result<(), SetIommuError> {
        self.0.state.lock().may_set_iommu(kind)
    }

    /// Sets the container's IOMMU and attaches its groups: `VFIO_SET_IOMMU`. It stays until the last group is removed.
    /// For [`Extension::NO_IOMMU`], that the caller may (`CAP_SYS_RAWIO`) was checked before.
    ///
    /// # Errors
    /// Fails if the container has no group or has an IOMMU already, if this type is not available, or if a group cannot
    /// be attached. Every group is on its blocking domain then.
    // Table Vt8, V26.
    pub fn set_iommu(&self, kind: Extension) -> Result<(), SetIommuError> {
        let mut state = self.0.state.lock();
        state.may_set_iommu(kind)?;
        if kind == Extension::NO_IOMMU {
            state.iommu = Some(Iommu::None);
            return Ok(());
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
    pub fn map(&self, request: &MapRequest) -> Result<(), MapDmaError> {
        self.0.state.lock().backend()?.map(request)
    }

    /// Unmaps memory: `VFIO_IOMMU_UNMAP_DMA`. Returns how many bytes were unmapped.
    ///
    /// # Errors
    /// Fails if the container has no IOMMU, or the range is misaligned or would split a mapping. Nothing was unmapped.
    // Table Vt16.
    pub fn unmap(&self, what: Unmap) -> Result<u64, UnmapDmaError> {
        self.0.state.lock().backend()?.unmap(what)
    }

    /// Unmaps memory as [`unmap`](Self::unmap) does, and reports which of its pages are dirty: to a
    /// [`DirtyBitmap`](crate::backend::DirtyBitmap), or to a [`UserBitmap`](crate::backend::UserBitmap) in the memory of
    /// the caller. Returns how many bytes were unmapped.
    ///
    /// # Errors
    /// Fails as [`unmap`](Self::unmap) does, or if dirty tracking is off or not supported. Or the pages of a mapping
    /// cannot be reported: it stays, and those above it.
    // Vt16.6.
    pub fn unmap_dirty(&self, request: DirtyRequest, into: &mut dyn DirtySink) -> Result<u64, UnmapDmaError> {
        self.0.state.lock().backend()?.unmap_dirty(request, into)
    }

    /// Invalidates the vaddr of mappings: `VFIO_IOMMU_UNMAP_DMA` with `VADDR`. Devices keep access to the memory.
    /// Returns how many bytes are concerned.
    ///
    /// # Errors
    /// Fails as [`unmap`](Self::unmap) does, or if a vaddr is already invalid. Nothing has changed.
    pub fn invalidate_vaddr(&self, what: Unmap) -> Result<u64, UnmapDmaError> {
        self.0.state.lock().backend()?.invalidate_vaddr(what)
    }

    /// Updates the vaddr of a mapping: `VFIO_IOMMU_MAP_DMA` with `VADDR`.
    ///
    /// # Errors
    /// Fails if the range is not exactly one mapping whose vaddr is invalid. Nothing has changed.
    // Vt15.6.
    pub fn update_vaddr(&self, request: &MapRequest) -> Result<(), MapDmaError> {
        self.0.state.lock().backend()?.update_vaddr(request)
    }

    /// Returns the limits of the container's IOMMU, or `None` without one (`EINVAL`): `VFIO_IOMMU_GET_INFO`.
    pub fn info(&self) -> Option<IommuInfo> {
        match &self.0.state.lock().iommu {
            Some(Iommu::Backend(iommu)) => Some(iommu.info()),
            Some(Iommu::None) | None => None,
        }
    }

    /// Checks whether the container's IOMMU can track dirty pages.
    ///
    /// # Errors
    /// Fails if the container has no IOMMU, or its type does not track dirty pages.
    // V51.
    pub fn tracks_dirty(&self) -> Result<(), DirtyError> {
        self.0.state.lock().backend()?.tracks_dirty()
    }

    /// Starts or stops dirty tracking: `VFIO_IOMMU_DIRTY_PAGES`.
    ///
    /// # Errors
    /// Fails if the container has no IOMMU, or its type does not track dirty pages.
    // V51.
    pub fn track_dirty(&self, tracking: DirtyTracking) -> Result<(), DirtyError> {
        self.0.state.lock().backend()?.track_dirty(tracking)
    }

    /// Reports the pages that were written since the last call: `VFIO_IOMMU_DIRTY_PAGES`.
    ///
    /// # Errors
    /// Fails if the container has no IOMMU, dirty tracking is off, the range does not consist of whole mappings and
    /// pages, or the pages of a mapping cannot be reported.
    // V51.
    pub fn dirty_pages(&self, request: DirtyRequest, into: &mut dyn DirtySink) -> Result<(), DirtyError> {
        self.0.state.lock().backend()?.dirty_pages(request, into)
    }

    /// Claims the group that `isolation` is, and attaches it to the IOMMU if there is one.
    // Table Vt7.
    pub(crate) fn attach(&self, isolation: &Isolation) -> Result<Contained, SetContainerError> {
        let mut state = self.0.state.lock();
        let State { groups, iommu } = &mut *state;
        let number = match (isolation, groups) {
            (Isolation::Iommu { group, owner }, Groups::Isolated(claims)) => {
                let claim = group.claim(owner)?;
                if let Some(Iommu::Backend(iommu)) = iommu {
                    iommu.attach_group(&claim)?;
                }
                let number = claims.last_key().map_or(Number::MIN, |last| last.saturating_add(1));
                claims.insert(number, claim);
                Some(number)
            }
            (Isolation::None { .. }, Groups::NoIommu(groups)) => {
                *groups += 1;
                None
            }
            (Isolation::None { .. }, groups) if groups.is_empty() => {
                *groups = Groups::NoIommu(1);
                None
            }
            _ => return Err(SetContainerError::Mixed { group: isolation.key().id() }),
        };
        Ok(Contained { container: self.clone(), number })
    }

    /// Whether it was set to no-IOMMU mode, in which no call is served.
    // V28.
    #[cfg(feature = "uapi")]
    pub(crate) fn serves_nothing(&self) -> bool {
        matches!(self.0.state.lock().iommu, Some(Iommu::None))
    }

    /// Whether devices can be opened through its groups.
    // Vt6.8.
    pub(crate) fn has_iommu(&self) -> bool {
        self.0.state.lock().iommu.is_some()
    }
}

impl Contained {
    pub(crate) fn container(&self) -> &Container {
        &self.container
    }

    /// Removes and releases the group; drops the IOMMU with the last one.
    pub(crate) fn detach(self) {
        let mut state = self.container.0.state.lock();
        let State { groups, iommu } = &mut *state;
        match (groups, self.number) {
            (Groups::Isolated(claims), Some(number)) => {
                let Some(claim) = claims.remove(number) else { return };
                if let Some(Iommu::Backend(iommu)) = iommu {
                    iommu.detach_group(&claim);
                }
            }
            (Groups::NoIommu(groups), None) => *groups -= 1,
            _ => {}
        }
        if state.groups.is_empty() {
            *state = State::default();
        }
    }
}

/// A container that no backend serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoBackend {
    /// It has no IOMMU.
    Unset,
    /// It was set to no-IOMMU mode.
    NoIommuMode,
}

impl State {
    fn backend(&mut self) -> Result<&mut dyn ContainerIommu, NoBackend> {
        match &mut self.iommu {
            Some(Iommu::Backend(iommu)) => Ok(&mut **iommu),
            Some(Iommu::None) => Err(NoBackend::NoIommuMode),
            None => Err(NoBackend::Unset),
        }
    }

    /// Every group, or none.
    fn attach_all(&mut self, mut iommu: Box<dyn ContainerIommu>) -> Result<(), SetIommuError> {
        let Groups::Isolated(claims) = &self.groups else { return Err(SetIommuError::NoGroup) };
        for (attached, claim) in claims.iter().enumerate() {
            if let Err(error) = iommu.attach_group(claim) {
                claims.iter().rev().skip(claims.len() - attached).for_each(|claim| iommu.detach_group(claim));
                return Err(error.into());
            }
        }
        self.iommu = Some(Iommu::Backend(iommu));
        Ok(())
    }

    // Table Vt8.
    fn may_set_iommu(&self, kind: Extension) -> Result<(), SetIommuError> {
        if self.groups.is_empty() {
            return Err(SetIommuError::NoGroup);
        }
        if self.iommu.is_some() {
            return Err(SetIommuError::AlreadySet);
        }
        let isolated = matches!(self.groups, Groups::Isolated(_));
        if isolated == (kind == Extension::NO_IOMMU) { Err(SetIommuError::Unsupported { kind }) } else { Ok(()) }
    }
}

/// Why a container's IOMMU was not set.
// Table Vt8.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetIommuError {
    /// No group is in the container.
    #[error("the container has no group")]
    NoGroup,
    /// The container has an IOMMU already.
    #[error("the container has an IOMMU already")]
    AlreadySet,
    /// The IOMMU type is not available.
    #[error("the IOMMU type {kind} is not available")]
    Unsupported {
        /// What was asked for.
        kind: Extension,
    },
    /// The extension is a feature, not an IOMMU type.
    #[error("{kind} is not an IOMMU type")]
    NotAKind {
        /// What was asked for.
        kind: Extension,
    },
    /// A group of the container could not be attached.
    #[error(transparent)]
    Attach(#[from] AttachGroupError),
}

impl SetIommuError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoGroup | Self::AlreadySet | Self::NotAKind { .. } => Errno::EINVAL,
            Self::Unsupported { .. } => Errno::ENODEV,
            Self::Attach(error) => error.errno(),
        }
    }
}
