//! Entry point of VFIO: registers devices, opens containers, groups and devices.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::device_model::sync::{LockClass, Mutex};
use iommu_core::device_model::{Bus, Device, DmaConfigure, Errno, Removal};
use iommu_core::hardware::Capabilities;
use iommu_core::{GroupId, Member, MemberSlot};

use crate::backend::Backend;
use crate::container::Container;
use crate::device::{DeviceSetId, DeviceSets, VfioDevice};
#[cfg(feature = "iommufd")]
use crate::device_file::{DeviceFile, OpenDeviceError};
use crate::device_ops::DeviceOps;
use crate::group::VfioGroup;
use crate::group_file::{GroupFile, OpenGroupError};
use crate::isolation::{GroupKey, Isolation, NoIommuMode};

const GROUP_LIST: LockClass = LockClass::new("VFIO group list", 300);

/// VFIO of one machine: what `/dev/vfio` is to user space, and where drivers register devices.
///
/// A clone is another handle to the same machine.
#[derive(Clone, Debug)]
pub struct Vfio(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    backends: Arc<[Arc<dyn Backend>]>,
    no_iommu: NoIommuMode,
    /// The group list lock: taken inside device locks, before every other lock of this crate.
    registry: Mutex<Registry>,
    sets: DeviceSets,
}

#[derive(Debug, Default)]
struct Registry {
    groups: BTreeMap<GroupKey, Registered>,
    /// Of groups without an IOMMU.
    no_iommu_numbers: Numbers,
    /// By name, while they can be opened.
    devices: BTreeMap<Arc<str>, Arc<VfioDevice>>,
    group_numbers: Numbers,
    device_numbers: Numbers,
}

impl Registry {
    /// The group that a device joins: that of its IOMMU group, or a new one without an IOMMU.
    fn group_of(&mut self, name: &Arc<str>, member: Option<&Arc<Member>>) -> Result<Arc<VfioGroup>, RegisterError> {
        let Some(member) = member else {
            let id = GroupId::new(self.no_iommu_numbers.take());
            return Ok(Arc::new(VfioGroup::new(Isolation::None { id })));
        };
        let known = self.groups.get(&GroupKey::Iommu(member.group().id())).map(|known| known.group.clone());
        if known.as_ref().is_some_and(|group| group.device(name).is_some()) {
            return Err(RegisterError::Registered { device: name.clone() });
        }
        if !member.capabilities().contains(Capabilities::CACHE_COHERENCY) {
            return Err(RegisterError::NotCoherent { device: name.clone() });
        }
        Ok(known.unwrap_or_else(|| Arc::new(VfioGroup::new(Isolation::by(member.group().clone())))))
    }
}

/// A group with registered devices.
#[derive(Debug)]
struct Registered {
    group: Arc<VfioGroup>,
    number: u32,
    /// How many devices are registered, those included whose users are waited for.
    drivers: usize,
}

/// The numbers of files that are there. The lowest free one is given out.
#[derive(Debug, Default)]
struct Numbers {
    /// Those from here on were never given out.
    next: u32,
    free: BTreeSet<u32>,
}

impl Numbers {
    fn take(&mut self) -> u32 {
        self.free.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    fn give_back(&mut self, number: u32) {
        self.free.insert(number);
    }
}

/// The file of a group, `/dev/vfio/N` for group N.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupNode {
    /// The group.
    pub group: GroupId,
    /// The minor number of the file, which is not the group's number.
    pub minor: u32,
}

/// The file of a device, `/dev/vfio/devices/vfioX`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceNode {
    /// The name of the device.
    pub device: Arc<str>,
    /// The X of its name, and the minor number of the file.
    pub number: u32,
}

impl Vfio {
    /// Creates VFIO whose containers accept the IOMMU types of `backends`, which are asked in this order.
    // Vt8.2.
    pub fn new(backends: impl IntoIterator<Item = Arc<dyn Backend>>) -> Self {
        Self::with_no_iommu_mode(backends, NoIommuMode::Disabled)
    }

    /// Creates VFIO as [`new`](Self::new) does, with what becomes of devices that are in no IOMMU group.
    pub fn with_no_iommu_mode(backends: impl IntoIterator<Item = Arc<dyn Backend>>, no_iommu: NoIommuMode) -> Self {
        let backends = backends.into_iter().collect::<Vec<_>>().into();
        Self(Arc::new(Shared {
            backends,
            no_iommu,
            registry: Mutex::of(GROUP_LIST, Registry::default()),
            sets: DeviceSets::default(),
        }))
    }

    /// Opens `/dev/vfio/vfio`: a container without groups.
    pub fn open_container(&self) -> Container {
        Container::new(self.0.backends.clone(), self.0.no_iommu)
    }

    /// Opens `/dev/vfio/N`, which exists while a device of the group is registered.
    ///
    /// # Errors
    /// Fails if there is no such file, it is open already, or a device of the group is in use through its own file.
    pub fn open_group(&self, id: GroupId) -> Result<GroupFile, OpenGroupError> {
        self.open(GroupKey::Iommu(id))
    }

    /// Opens `/dev/vfio/noiommu-N`, which exists while a device without an IOMMU is registered in
    /// [no-IOMMU mode](NoIommuMode). That the caller may (`CAP_SYS_RAWIO`) was checked before.
    ///
    /// # Errors
    /// Fails if there is no such file, or it is open already.
    pub fn open_no_iommu_group(&self, id: GroupId) -> Result<GroupFile, OpenGroupError> {
        self.open(GroupKey::NoIommu(id))
    }

    fn open(&self, key: GroupKey) -> Result<GroupFile, OpenGroupError> {
        let group = self.0.registry.lock().groups.get(&key).map(|registered| registered.group.clone());
        GroupFile::open(group.ok_or(OpenGroupError::NoFile { group: key.id() })?)
    }

    /// Opens the file of a device, `/dev/vfio/devices/vfioX`. May be opened any number of times; gives access once it
    /// is bound to an iommufd.
    ///
    /// # Errors
    /// Fails if no device of this name is registered.
    // V58.
    #[cfg(feature = "iommufd")]
    pub fn open_device(&self, name: &str) -> Result<DeviceFile, OpenDeviceError> {
        let device = self.0.registry.lock().devices.get(name).cloned();
        let missing = || OpenDeviceError::NoFile { device: name.into() };
        let device = device.ok_or_else(missing)?;
        let user = device.users().enter().ok_or_else(missing)?;
        Ok(DeviceFile::open(device, user))
    }

    /// Returns the IOMMU group of a device that is registered: its link `iommu_group`.
    pub fn group_of(&self, device: &str) -> Option<GroupId> {
        self.0.registry.lock().devices.get(device).map(|device| device.group().id())
    }

    /// Returns the files of groups that are there, by group.
    pub fn group_nodes(&self) -> Vec<GroupNode> {
        let registry = self.0.registry.lock();
        let node = |(key, registered): (&GroupKey, &Registered)| match key {
            GroupKey::Iommu(group) => Some(GroupNode { group: *group, minor: registered.number }),
            GroupKey::NoIommu(_) => None,
        };
        registry.groups.iter().filter_map(node).collect()
    }

    /// Returns the numbers of the groups without an IOMMU whose files can be opened.
    pub fn no_iommu_groups(&self) -> Vec<GroupId> {
        let registry = self.0.registry.lock();
        let id = |key: &GroupKey| matches!(key, GroupKey::NoIommu(_)).then(|| key.id());
        registry.groups.keys().filter_map(id).collect()
    }

    /// Returns the files of devices that are there, by the name of the device. A device whose users are waited for has
    /// none any more.
    pub fn device_nodes(&self) -> Vec<DeviceNode> {
        let registry = self.0.registry.lock();
        let node = |device: &Arc<VfioDevice>| DeviceNode { device: device.name().clone(), number: device.number() };
        registry.devices.values().map(node).collect()
    }

    /// Registers `dev`; with the first device of a group the group's file appears. Takes no DMA ownership. Called by
    /// the driver that binds `dev`, with the device lock held; `set` names the devices that are reset together.
    ///
    /// # Errors
    /// Fails if the device has no group and [no-IOMMU mode](NoIommuMode) is disabled, is registered already, or its DMA
    /// is not coherent with CPU caches.
    // Table Vt1, V11, V54.
    pub fn register<B: Bus>(
        &self,
        dev: &Device<B>,
        set: &DeviceSetId,
        ops: Arc<dyn DeviceOps>,
    ) -> Result<Registration, RegisterError>
    where
        B::Dma: DmaConfigure<B::Device, Slot = MemberSlot>,
    {
        let name = dev.name();
        let member = dev.dma_slot().member();
        if member.is_none() && self.0.no_iommu == NoIommuMode::Disabled {
            return Err(RegisterError::NoGroup { device: name.clone() });
        }
        let mut registry = self.0.registry.lock();
        let group = registry.group_of(name, member.as_ref())?;
        let Registry { groups, devices, group_numbers, device_numbers, .. } = &mut *registry;
        let number = device_numbers.take();
        let (set, has_file) = (self.0.sets.join(set), member.is_some());
        let device = VfioDevice::new(number, (name.clone(), dev.id()), member, group.clone(), set, ops);
        let device = Arc::new(device);
        let new = || Registered { group: group.clone(), number: group_numbers.take(), drivers: 0 };
        groups.entry(group.key()).or_insert_with(new).drivers += 1;
        // Vt1.8.
        if has_file {
            devices.insert(name.clone(), device.clone());
        }
        group.add(device.clone());
        device.lock_set().enrol(&device);
        Ok(Registration { vfio: self.clone(), device, stage: Stage::Registered })
    }

    /// Removes the device's own file.
    fn hide(&self, device: &Arc<VfioDevice>) {
        let mut registry = self.0.registry.lock();
        if registry.devices.get(device.name()).is_some_and(|known| Arc::ptr_eq(known, device)) {
            registry.devices.remove(device.name());
        }
    }

    /// Removes the group's file with its last device, and frees the number of the device's file.
    fn leave(&self, device: &VfioDevice) {
        let key = device.group().key();
        let mut registry = self.0.registry.lock();
        registry.device_numbers.give_back(device.number());
        let Some(registered) = registry.groups.get_mut(&key) else { return };
        registered.drivers -= 1;
        if registered.drivers == 0
            && let Some(last) = registry.groups.remove(&key)
        {
            registry.group_numbers.give_back(last.number);
            if let GroupKey::NoIommu(id) = key {
                registry.no_iommu_numbers.give_back(id.get());
            }
            last.group.close_down();
        }
    }
}

/// The registration of a device with VFIO.
///
/// The driver keeps it while it is bound, and calls [`unregister`](Self::unregister) from its `remove`. Dropping it
/// instead revokes the device from its users at once: with the last device of a group the group leaves its container,
/// which ends its DMA.
#[derive(Debug)]
#[must_use = "dropping it unregisters the device"]
pub struct Registration {
    vfio: Vfio,
    device: Arc<VfioDevice>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Registered,
    /// No user comes in any more.
    // V12, steps 1 to 4.
    Closed,
    /// The group is left.
    // V12, step 6.
    Left,
}

impl Registration {
    /// Returns the number N of the device's file, `/dev/vfio/devices/vfioN`: the lowest that was free.
    pub fn number(&self) -> u32 {
        self.device.number()
    }

    /// Unregisters the device: no new users are admitted, and the present ones are asked to close it, for the
    /// `attempt`th time. Returned from [`Driver::remove`], which is called with the `attempt`; the caller waits for the
    /// users.
    ///
    /// An open group file does not delay it, with or without a container.
    ///
    /// [`Driver::remove`]: iommu_core::device_model::Driver::remove
    // V12, V13, V15.
    pub fn unregister(&mut self, attempt: u32) -> Removal {
        self.close_door();
        let users = self.device.users();
        if users.inside() > 0 {
            let ops = self.device.ops().clone();
            users.ask_with(move || ops.request(attempt));
            return Removal::Waiting(users.clone());
        }
        self.leave();
        Removal::Done
    }

    fn close_door(&mut self) {
        if self.stage == Stage::Registered {
            self.vfio.hide(&self.device);
            self.device.group().forget(&self.device);
            self.device.users().close();
            self.stage = Stage::Closed;
        }
    }

    fn leave(&mut self) {
        if self.stage == Stage::Closed {
            self.stage = Stage::Left;
            // V88: reset with the others until it has left.
            self.device.lock_set().dismiss(&self.device);
            self.vfio.leave(&self.device);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.close_door();
        self.leave();
    }
}

/// Why a device was not registered with VFIO.
// Table Vt1.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The device is in no IOMMU group, and no-IOMMU mode is disabled.
    #[error("{device} is in no IOMMU group, so nothing would keep its DMA in bounds")]
    NoGroup {
        /// The device.
        device: Arc<str>,
    },
    /// The device is registered already.
    #[error("{device} is registered with VFIO already")]
    Registered {
        /// The device.
        device: Arc<str>,
    },
    /// The IOMMU cannot make DMA of the device coherent with CPU caches.
    #[error("the IOMMU cannot keep DMA of {device} coherent with CPU caches")]
    NotCoherent {
        /// The device.
        device: Arc<str>,
    },
}

impl RegisterError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}
