//! VFIO groups and their files: one `/dev/vfio/N` for each IOMMU group with a registered device.

use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::device_model::sync::{LockClass, Mutex};
use iommu_core::{Group, GroupId, Owner};

use crate::container::Container;
use crate::device::VfioDevice;
#[cfg(feature = "iommufd")]
use crate::error::BindIommufdError;
use crate::error::{GetDeviceError, GroupGone, OpenGroupError, SetContainerError, UnsetContainerError};
use crate::open_device::OpenDevice;

const VFIO_GROUP: LockClass = LockClass::new("VFIO group", 400);

/// An IOMMU group with registered devices. Exists while it has devices or an open file; a device that is registered
/// after the last one has left gets a new one.
// V17.
#[derive(Debug)]
pub(crate) struct VfioGroup {
    group: Arc<Group>,
    /// The owner of DMA that this group is while it has a container.
    // V39.
    owner: Owner,
    /// Leaf lock: registered devices whose users are not waited for.
    devices: Mutex<Vec<Arc<VfioDevice>>>,
    /// The VFIO group lock: taken inside the group list lock, outside those of device sets and containers.
    pub(crate) state: Mutex<GroupState>,
}

#[derive(Debug)]
pub(crate) struct GroupState {
    life: Life,
    file: File,
    pub(crate) attachment: Option<Attachment>,
    /// Devices that are in use through their own files.
    // V37.
    #[cfg(feature = "iommufd")]
    device_files: Vec<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Devices are registered.
    Alive,
    /// The last one has left; only an open file is.
    Gone,
}

/// The one open file that a group may have.
// V19.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    Closed,
    Open,
}

/// What a group is put into.
#[derive(Debug)]
pub(crate) enum Attachment {
    Container {
        container: Container,
        /// Whose clones the devices have that are open through it.
        // V4.
        in_use: InUse,
    },
    /// Claims nothing: each device is claimed when it is opened.
    // V21.
    #[cfg(feature = "iommufd")]
    Iommufd(iommufd_owner::Context),
}

impl VfioGroup {
    pub(crate) fn new(group: Arc<Group>) -> Self {
        let owner = Owner::new(format!("VFIO group {}", group.id()));
        let state = GroupState {
            life: Life::Alive,
            file: File::Closed,
            attachment: None,
            #[cfg(feature = "iommufd")]
            device_files: Vec::new(),
        };
        Self { group, owner, devices: Mutex::default(), state: Mutex::of(VFIO_GROUP, state) }
    }

    pub(crate) fn id(&self) -> GroupId {
        self.group.id()
    }

    pub(crate) fn device(&self, name: &str) -> Option<Arc<VfioDevice>> {
        self.devices.lock().iter().find(|device| **device.name() == *name).cloned()
    }

    pub(crate) fn add(&self, device: Arc<VfioDevice>) {
        self.devices.lock().push(device);
    }

    pub(crate) fn forget(&self, device: &Arc<VfioDevice>) {
        self.devices.lock().retain(|known| !Arc::ptr_eq(known, device));
    }

    /// The last device has left: nothing can be done through an open file any more.
    // V16, V17.
    pub(crate) fn close_down(&self) {
        let mut state = self.state.lock();
        if matches!(state.attachment, Some(Attachment::Container { .. })) {
            self.detach(&mut state);
        }
        state.life = Life::Gone;
    }

    fn detach(&self, state: &mut GroupState) {
        match state.attachment.take() {
            Some(Attachment::Container { container, .. }) => container.detach(&self.group),
            // Devices that are open through it have claims of their own (V22).
            #[cfg(feature = "iommufd")]
            Some(Attachment::Iommufd(_)) => {}
            None => {}
        }
    }

    /// Keeps the group's file from being opened while a device is in use through its own.
    // V37.
    #[cfg(feature = "iommufd")]
    pub(crate) fn use_device_file(self: &Arc<Self>, device: &Arc<str>) -> Result<DeviceFileUse, BindIommufdError> {
        let mut state = self.state.lock();
        // Vt11.4.
        if state.file == File::Open {
            return Err(BindIommufdError::GroupOpen { group: self.id() });
        }
        state.device_files.push(device.clone());
        Ok(DeviceFileUse { group: self.clone(), device: device.clone() })
    }

    fn may_attach(&self, state: &GroupState) -> Result<(), SetContainerError> {
        if state.attachment.is_some() {
            return Err(SetContainerError::Attached { group: self.id() });
        }
        Ok(self.gone(state)?)
    }

    fn gone(&self, state: &GroupState) -> Result<(), GroupGone> {
        match state.life {
            Life::Alive => Ok(()),
            Life::Gone => Err(GroupGone { group: self.id() }),
        }
    }
}

/// A clone stands for a device that is open through a group in a container.
#[derive(Debug, Clone, Default)]
pub(crate) struct InUse(Arc<()>);

impl InUse {
    /// How many clones there are besides this one.
    fn devices(&self) -> u32 {
        u32::try_from(Arc::strong_count(&self.0) - 1).unwrap_or(u32::MAX)
    }
}

/// A device of the group that is in use through its own file, until this is dropped.
#[cfg(feature = "iommufd")]
#[derive(Debug)]
pub(crate) struct DeviceFileUse {
    group: Arc<VfioGroup>,
    device: Arc<str>,
}

#[cfg(feature = "iommufd")]
impl Drop for DeviceFileUse {
    fn drop(&mut self) {
        let mut state = self.group.state.lock();
        if let Some(place) = state.device_files.iter().position(|device| *device == self.device) {
            state.device_files.swap_remove(place);
        }
    }
}

/// The open file of a group. Dropping it takes the group out of its container.
// V56.
#[derive(Debug)]
pub(crate) struct OpenGroup(pub(crate) Arc<VfioGroup>);

impl Drop for OpenGroup {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        self.0.detach(&mut state);
        state.file = File::Closed;
    }
}

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
    pub(crate) fn open(group: &Arc<VfioGroup>) -> Result<Self, OpenGroupError> {
        let mut state = group.state.lock();
        group.gone(&state)?;
        #[cfg(feature = "iommufd")]
        if let Some(device) = state.device_files.first() {
            return Err(OpenGroupError::DeviceFileInUse { group: group.id(), device: device.clone() });
        }
        if state.file == File::Open {
            return Err(OpenGroupError::Open { group: group.id() });
        }
        state.file = File::Open;
        drop(state);
        Ok(Self(Arc::new(OpenGroup(group.clone()))))
    }

    fn group(&self) -> &VfioGroup {
        &self.0.0
    }

    pub(crate) fn is_of(&self, group: &Arc<VfioGroup>) -> bool {
        Arc::ptr_eq(&self.0.0, group)
    }

    /// Returns the number of the group.
    pub fn id(&self) -> GroupId {
        self.group().id()
    }

    /// Returns the IOMMU group, which names the devices that prevent a claim.
    pub fn iommu_group(&self) -> &Arc<Group> {
        &self.group().group
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
            None if group.group.ownership().is_held() => GroupStatus::NotViable,
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

    /// Claims the group and puts it into `container`: `VFIO_GROUP_SET_CONTAINER`. From now on its devices are blocked
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
        container.attach(&group.group, &group.owner)?;
        state.attachment = Some(Attachment::Container { container: container.clone(), in_use: InUse::default() });
        Ok(())
    }

    /// Sets an iommufd as the container: `VFIO_GROUP_SET_CONTAINER` with an iommufd. Claims nothing yet. Creates the
    /// context's compatibility address space, if it has none.
    ///
    /// # Errors
    /// Fails if the group is in a container, its last device has been unregistered, or the context is full.
    // Vt4.5, V40.
    #[cfg(feature = "iommufd")]
    pub fn set_iommufd(&self, context: &iommufd_owner::Context) -> Result<(), SetContainerError> {
        let group = self.group();
        let mut state = group.state.lock();
        group.may_attach(&state)?;
        context.ensure_compat_ioas().map_err(SetContainerError::Ioas)?;
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
            Some(Attachment::Container { in_use, .. }) if in_use.devices() > 0 => {
                Err(UnsetContainerError::DevicesOpen { group: group.id(), devices: in_use.devices() })
            }
            Some(_) => {
                group.detach(&mut state);
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
        let devices = group.devices.lock().clone();
        for device in devices {
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
