//! VFIO groups: one `/dev/vfio/N` for each IOMMU group with a registered device.

use alloc::collections::BTreeMap;
#[cfg(feature = "iommufd")]
use alloc::collections::btree_map::Entry;
use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::{LockClass, Mutex};
use iommu_core::{Group, GroupId};

use crate::container::Contained;
use crate::device::VfioDevice;
#[cfg(feature = "iommufd")]
use crate::device_file::BindIommufdError;
use crate::group_file::{OpenGroupError, SetContainerError};
use crate::isolation::{GroupKey, Isolation};

const VFIO_GROUP: LockClass = LockClass::new("VFIO group", 400);

/// A group with registered devices, behind an IOMMU or without one. Exists while it has devices or an open file; a
/// device that is registered after the last one has left gets a new one.
// V17.
#[derive(Debug)]
pub(crate) struct VfioGroup {
    isolation: Isolation,
    /// Leaf lock: registered devices whose users are not waited for, by name.
    devices: Mutex<BTreeMap<Arc<str>, Arc<VfioDevice>>>,
    /// Whose clones the devices have that are open through it, while it is in a container.
    // V4.
    pub(crate) in_use: InUse,
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
    device_files: BTreeMap<Arc<str>, u32>,
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
    Container(Contained),
    /// Claims nothing: each device is claimed when it is opened.
    // V21.
    #[cfg(feature = "iommufd")]
    Iommufd(iommufd_owner::Context),
}

impl VfioGroup {
    pub(crate) fn new(isolation: Isolation) -> Self {
        let state = GroupState {
            life: Life::Alive,
            file: File::Closed,
            attachment: None,
            #[cfg(feature = "iommufd")]
            device_files: BTreeMap::new(),
        };
        Self { isolation, devices: Mutex::default(), in_use: InUse::default(), state: Mutex::of(VFIO_GROUP, state) }
    }

    pub(crate) fn id(&self) -> GroupId {
        self.key().id()
    }

    pub(crate) fn key(&self) -> GroupKey {
        self.isolation.key()
    }

    pub(crate) fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    pub(crate) fn iommu_group(&self) -> Option<&Arc<Group>> {
        self.isolation.group()
    }

    pub(crate) fn devices(&self) -> Vec<Arc<VfioDevice>> {
        self.devices.lock().values().cloned().collect()
    }

    pub(crate) fn device(&self, name: &str) -> Option<Arc<VfioDevice>> {
        self.devices.lock().get(name).cloned()
    }

    pub(crate) fn add(&self, device: Arc<VfioDevice>) {
        self.devices.lock().insert(device.name().clone(), device);
    }

    pub(crate) fn forget(&self, device: &Arc<VfioDevice>) {
        let mut devices = self.devices.lock();
        if devices.get(device.name()).is_some_and(|known| Arc::ptr_eq(known, device)) {
            devices.remove(device.name());
        }
    }

    /// The last device has left: nothing can be done through an open file any more.
    // V16, V17.
    pub(crate) fn close_down(&self) {
        let mut state = self.state.lock();
        if matches!(state.attachment, Some(Attachment::Container(_))) {
            state.detach();
        }
        state.life = Life::Gone;
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
        *state.device_files.entry(device.clone()).or_default() += 1;
        Ok(DeviceFileUse { group: self.clone(), device: device.clone() })
    }

    pub(crate) fn may_attach(&self, state: &GroupState) -> Result<(), SetContainerError> {
        if state.attachment.is_some() {
            return Err(SetContainerError::Attached { group: self.id() });
        }
        Ok(self.gone(state)?)
    }

    pub(crate) fn gone(&self, state: &GroupState) -> Result<(), GroupGone> {
        match state.life {
            Life::Alive => Ok(()),
            Life::Gone => Err(GroupGone { group: self.id() }),
        }
    }
}

impl GroupState {
    /// Takes the group out of what it is in.
    pub(crate) fn detach(&mut self) {
        match self.attachment.take() {
            Some(Attachment::Container(contained)) => contained.detach(),
            // Devices that are open through it have claims of their own (V22).
            #[cfg(feature = "iommufd")]
            Some(Attachment::Iommufd(_)) => {}
            None => {}
        }
    }
}

/// A clone stands for a device that is open through a group in a container.
#[derive(Debug, Clone, Default)]
pub(crate) struct InUse(Arc<()>);

impl InUse {
    /// How many clones there are besides this one.
    pub(crate) fn devices(&self) -> u32 {
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
        if let Entry::Occupied(mut uses) = state.device_files.entry(self.device.clone()) {
            *uses.get_mut() -= 1;
            if *uses.get() == 0 {
                uses.remove();
            }
        }
    }
}

/// The open file of a group. Dropping it takes the group out of its container.
// V56.
#[derive(Debug)]
pub(crate) struct OpenGroup(Arc<VfioGroup>);

impl OpenGroup {
    // Table Vt2.
    pub(crate) fn of(group: Arc<VfioGroup>) -> Result<Self, OpenGroupError> {
        let mut state = group.state.lock();
        group.gone(&state)?;
        #[cfg(feature = "iommufd")]
        if let Some((device, _)) = state.device_files.first_key_value() {
            return Err(OpenGroupError::DeviceFileInUse { group: group.id(), device: device.clone() });
        }
        if state.file == File::Open {
            return Err(OpenGroupError::Open { group: group.id() });
        }
        state.file = File::Open;
        drop(state);
        Ok(Self(group))
    }

    pub(crate) fn group(&self) -> &Arc<VfioGroup> {
        &self.0
    }
}

impl Drop for OpenGroup {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.detach();
        state.file = File::Closed;
    }
}

/// The last device of the group has left VFIO while its file was open.
// V17.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the last device of group {group} has left VFIO")]
pub struct GroupGone {
    /// The group.
    pub group: GroupId,
}

impl GroupGone {
    /// Returns `ENODEV`.
    pub const fn errno(&self) -> Errno {
        Errno::ENODEV
    }
}
