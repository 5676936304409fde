//! The file of a group, `/dev/vfio/N`.

use alloc::string::ToString;
use alloc::sync::Arc;

use iommu_core::device_model::Errno;
use iommu_core::{ClaimError, Group, GroupId};

use crate::backend::AttachGroupError;
use crate::container::Container;
use crate::group::{Attachment, GroupGone, OpenGroup, VfioGroup};
use crate::open_device::{GetDeviceError, OpenDevice};

/// Answer of `VFIO_GROUP_GET_STATUS`.
// Table Vt3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupStatus {
    /// The group has another owner, or is used by kernel drivers.
    NotViable,
    /// The group has no owner: setting a container claims it, unless another owner is faster.
    // V20.
    Viable,
    /// The group is in a container, and so viable.
    InContainer,
}

/// An open `/dev/vfio/N`.
///
/// A group has one open file at a time; a clone is the same open file. Dropping the last clone closes it: the group
/// leaves its container and is released. Open devices keep the file open until the last of them is closed.
// V19, V7.
#[derive(Clone, Debug)]
pub struct GroupFile(Arc<OpenGroup>);

impl GroupFile {
    pub(crate) fn open(group: Arc<VfioGroup>) -> Result<Self, OpenGroupError> {
        Ok(Self(Arc::new(OpenGroup::of(group)?)))
    }

    fn group(&self) -> &VfioGroup {
        self.0.group()
    }

    pub(crate) fn is_of(&self, group: &Arc<VfioGroup>) -> bool {
        Arc::ptr_eq(self.0.group(), group)
    }

    /// Returns the number of the group.
    pub fn id(&self) -> GroupId {
        self.group().id()
    }

    /// Returns the IOMMU group, which names the devices that prevent a claim; `None` in no-IOMMU mode.
    pub fn iommu_group(&self) -> Option<&Arc<Group>> {
        self.group().iommu_group()
    }

    /// Returns whether the group is viable: `VFIO_GROUP_GET_STATUS`. The answer may be stale at once; to act on it, set
    /// the container.
    ///
    /// # Errors
    /// The last device of the group has been unregistered.
    pub fn status(&self) -> Result<GroupStatus, GroupGone> {
        let group = self.group();
        let state = group.state.lock();
        group.gone(&state)?;
        Ok(match &state.attachment {
            Some(_) => GroupStatus::InContainer,
            None if group.iommu_group().is_some_and(|group| group.ownership().is_held()) => GroupStatus::NotViable,
            None => GroupStatus::Viable,
        })
    }

    /// Checks what [`set_container`](Self::set_container) checks first.
    ///
    /// # Errors
    /// The group is in a container, or its last device has been unregistered.
    // Vt4.2, Vt4.3.
    pub fn may_set_container(&self) -> Result<(), SetContainerError> {
        self.group().may_attach(&self.group().state.lock())
    }

    /// Claims the group and puts it into `container`: `VFIO_GROUP_SET_CONTAINER`. A group without an IOMMU claims nothing;
    /// that the caller may use it (`CAP_SYS_RAWIO`) was checked before. From now on its devices are blocked
    /// from DMA until the container maps memory. Takes no device lock, so a driver of the group may be bound or unbound
    /// meanwhile.
    ///
    /// # Errors
    /// Fails if the group is in a container, its last device has been unregistered, it has another owner or is used by
    /// kernel drivers (the error names them), or the container's IOMMU does not accept it. Nothing has changed.
    // Tables Vt4, Vt7.
    pub fn set_container(&self, container: &Container) -> Result<(), SetContainerError> {
        let group = self.group();
        let mut state = group.state.lock();
        group.may_attach(&state)?;
        state.attachment = Some(Attachment::Container(container.attach(group.isolation())?));
        Ok(())
    }

    /// Sets an iommufd as the container: `VFIO_GROUP_SET_CONTAINER` with an iommufd. Claims nothing yet. Creates the
    /// context's compatibility address space, if it has none; for a group without an IOMMU, the context enters no-IOMMU
    /// mode instead.
    ///
    /// # Errors
    /// Fails if the group is in a container, its last device has been unregistered, the context is full, or it is used for
    /// the other kind of groups.
    // Vt4.5, V40.
    #[cfg(feature = "iommufd")]
    pub fn set_iommufd(&self, context: &iommufd_owner::Context) -> Result<(), SetContainerError> {
        let group = self.group();
        let mut state = group.state.lock();
        group.may_attach(&state)?;
        match group.iommu_group() {
            Some(_) => _ = context.ensure_compat_ioas().map_err(SetContainerError::Ioas)?,
            None => context.enter_no_iommu_mode().map_err(SetContainerError::NoIommuMode)?,
        }
        state.attachment = Some(Attachment::Iommufd(context.clone()));
        Ok(())
    }

    /// Takes the group out of its container and releases it: `VFIO_GROUP_UNSET_CONTAINER`.
    ///
    /// # Errors
    /// Fails if the group has no container, or devices are open.
    // Table Vt5.
    pub fn unset_container(&self) -> Result<(), UnsetContainerError> {
        let group = self.group();
        let mut state = group.state.lock();
        match &state.attachment {
            None => Err(UnsetContainerError::NotAttached { group: group.id() }),
            Some(Attachment::Container(_)) if group.in_use.devices() > 0 => {
                Err(UnsetContainerError::DevicesOpen { group: group.id(), devices: group.in_use.devices() })
            }
            Some(_) => {
                state.detach();
                Ok(())
            }
        }
    }

    /// Opens the device of this name: `VFIO_GROUP_GET_DEVICE_FD`. A device may be opened more than once. What follows the
    /// name is for the driver: vfio-pci takes `"0000:01:00.0 vf_token=UUID"`.
    ///
    /// # Errors
    /// Fails if no such device is registered, the group has no container or no IOMMU, or the driver refuses. Nothing
    /// has changed.
    // Table Vt6, V9.
    pub fn device(&self, name: &str) -> Result<OpenDevice, GetDeviceError> {
        let group = self.group();
        // Vt6.2, Vt6.3: asked with no lock held.
        // First the one that is called so, which need not be looked for.
        let called = group.device(name);
        let others = core::iter::once_with(|| group.devices()).flatten();
        for device in called.into_iter().chain(others) {
            let unacceptable = |errno| GetDeviceError::Name { device: device.name().clone(), errno };
            if device.ops().matches(device.name(), name).map_err(unacceptable)?
                && let Some(user) = device.users().enter()
            {
                return OpenDevice::through_group(&self.0, &device, user);
            }
        }
        Err(GetDeviceError::NoDevice { group: group.id(), device: name.to_string() })
    }
}

/// Why the file of a group could not be opened.
// Table Vt2.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenGroupError {
    /// No device of the group is bound to a VFIO driver, so there is no file.
    #[error("no device of group {group} is bound to a VFIO driver")]
    NoFile {
        /// The group.
        group: GroupId,
    },
    /// A device of the group is in use through its own file.
    #[error("group {group} is in use through the device file of {device}")]
    DeviceFileInUse {
        /// The group.
        group: GroupId,
        /// The device whose file it is.
        device: Arc<str>,
    },
    /// The last device of the group has been unregistered meanwhile.
    #[error(transparent)]
    Gone(#[from] GroupGone),
    /// The file is open already.
    #[error("the file of group {group} is open already")]
    Open {
        /// The group.
        group: GroupId,
    },
}

impl OpenGroupError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoFile { .. } => Errno::ENOENT,
            Self::Gone(error) => error.errno(),
            Self::DeviceFileInUse { .. } | Self::Open { .. } => Errno::EBUSY,
        }
    }
}

/// Why a group was not put into a container.
// Tables Vt4, Vt7.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetContainerError {
    /// The group is in a container already.
    #[error("group {group} has a container already")]
    Attached {
        /// The group.
        group: GroupId,
    },
    /// The last device of the group has been unregistered.
    #[error(transparent)]
    Gone(#[from] GroupGone),
    /// The file is neither a container nor an iommufd.
    #[error("group {group} can be put into a container or an iommufd only")]
    WrongFile {
        /// The group.
        group: GroupId,
    },
    /// The group has another owner or is used by kernel drivers; the error names them.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The iommufd could not allocate its compatibility address space.
    #[cfg(feature = "iommufd")]
    #[error(transparent)]
    Ioas(iommufd_owner::IoasError),
    /// The iommufd has a compatibility address space, so it cannot enter no-IOMMU mode.
    #[cfg(feature = "iommufd")]
    #[error(transparent)]
    NoIommuMode(iommufd_owner::compat::CompatError),
    /// Groups with and without an IOMMU do not share a container.
    // Vt7.2.
    #[error("group {group} cannot share a container: only one of them has an IOMMU")]
    Mixed {
        /// The group.
        group: GroupId,
    },
    /// The container's IOMMU does not accept the group.
    #[error(transparent)]
    Attach(#[from] AttachGroupError),
}

impl SetContainerError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Attached { .. } => Errno::EINVAL,
            Self::WrongFile { .. } => Errno::EBADFD,
            Self::Gone(error) => error.errno(),
            Self::Claim(error) => error.errno(),
            #[cfg(feature = "iommufd")]
            Self::Ioas(error) => error.errno(),
            #[cfg(feature = "iommufd")]
            Self::NoIommuMode(error) => error.errno(),
            Self::Mixed { .. } => Errno::EPERM,
            Self::Attach(error) => error.errno(),
        }
    }
}

/// Why a group was not taken out of its container.
// Table Vt5.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnsetContainerError {
    /// The group has no container.
    #[error("group {group} has no container")]
    NotAttached {
        /// The group.
        group: GroupId,
    },
    /// Devices are open.
    #[error("group {group} has {devices} open devices")]
    DevicesOpen {
        /// The group.
        group: GroupId,
        /// How many.
        devices: u32,
    },
}

impl UnsetContainerError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotAttached { .. } => Errno::EINVAL,
            Self::DevicesOpen { .. } => Errno::EBUSY,
        }
    }
}
