//! Devices that are registered with VFIO, and the sets in which they are reset.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use iommu_core::Member;
use iommu_core::device_model::DeviceId;
use iommu_core::device_model::sync::{LockClass, Mutex, MutexGuard, Users};

use crate::device_ops::DeviceOps;
use crate::group::{OpenGroup, VfioGroup};

const DEVICE_SET: LockClass = LockClass::new("device set", 500);

/// A registered device.
#[derive(Debug)]
pub(crate) struct VfioDevice {
    member: Arc<Member>,
    group: Arc<VfioGroup>,
    set: Arc<DeviceSet>,
    ops: Arc<dyn DeviceOps>,
    /// One user inside for each open file of the device (V6).
    users: Arc<Users>,
}

impl VfioDevice {
    pub(crate) fn new(
        member: Arc<Member>,
        group: Arc<VfioGroup>,
        set: Arc<DeviceSet>,
        ops: Arc<dyn DeviceOps>,
    ) -> Self {
        Self { member, group, set, ops, users: Arc::new(Users::new()) }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        self.member.name()
    }

    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    pub(crate) fn group(&self) -> &Arc<VfioGroup> {
        &self.group
    }

    pub(crate) fn ops(&self) -> &Arc<dyn DeviceOps> {
        &self.ops
    }

    pub(crate) fn users(&self) -> &Arc<Users> {
        &self.users
    }

    pub(crate) fn lock_set(&self) -> MutexGuard<'_, OpenDevices> {
        self.set.open.lock()
    }
}

/// Which devices are reset together (V54).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DeviceSetId {
    /// The device alone.
    Alone,
    /// With all whose set has this name.
    Named(Arc<str>),
}

/// Devices that are reset together. Its lock makes opening and closing them one at a time (V63).
#[derive(Debug)]
pub(crate) struct DeviceSet {
    /// The device set lock: taken inside that of a group, outside that of a container.
    open: Mutex<OpenDevices>,
}

impl Default for DeviceSet {
    fn default() -> Self {
        Self { open: Mutex::of(DEVICE_SET, OpenDevices::default()) }
    }
}

/// The registered devices of a set, and which of them are open.
#[derive(Debug, Default)]
pub(crate) struct OpenDevices {
    members: Vec<Weak<VfioDevice>>,
    open: BTreeMap<DeviceId, Open>,
}

/// A device that is open.
#[derive(Debug)]
pub(crate) struct Open {
    /// How many files (V9).
    pub(crate) count: usize,
    pub(crate) through: Through,
}

/// What a device was opened through first.
#[derive(Debug)]
pub(crate) enum Through {
    /// A group in a container. The group's file stays open with the device (V7).
    Container { _keeps: Arc<OpenGroup> },
}

impl OpenDevices {
    pub(crate) fn members(&self) -> impl Iterator<Item = Arc<VfioDevice>> {
        self.members.iter().filter_map(Weak::upgrade)
    }

    pub(crate) fn enrol(&mut self, device: &Arc<VfioDevice>) {
        self.members.push(Arc::downgrade(device));
    }

    pub(crate) fn dismiss(&mut self, device: &Arc<VfioDevice>) {
        self.members.retain(|known| !core::ptr::eq(known.as_ptr(), Arc::as_ptr(device)));
    }

    pub(crate) fn get_mut(&mut self, device: &VfioDevice) -> Option<&mut Open> {
        self.open.get_mut(&device.member.device())
    }

    pub(crate) fn add(&mut self, device: &VfioDevice, through: Through) {
        self.open.insert(device.member.device(), Open { count: 1, through });
    }

    /// One file less; what it was open through, if it was the last.
    pub(crate) fn close(&mut self, device: &VfioDevice) -> Option<Through> {
        let open = self.get_mut(device)?;
        open.count -= 1;
        if open.count > 0 {
            return None;
        }
        self.open.remove(&device.member.device()).map(|open| open.through)
    }
}

/// All sets that have a device.
#[derive(Debug, Default)]
pub(crate) struct DeviceSets(Mutex<BTreeMap<Arc<str>, Weak<DeviceSet>>>);

impl DeviceSets {
    /// The set of a device that is being registered. Leaf lock.
    pub(crate) fn join(&self, id: &DeviceSetId) -> Arc<DeviceSet> {
        let DeviceSetId::Named(name) = id else { return Arc::default() };
        let mut sets = self.0.lock();
        if let Some(set) = sets.get(name).and_then(Weak::upgrade) {
            return set;
        }
        sets.retain(|_, set| set.strong_count() > 0);
        let set = Arc::<DeviceSet>::default();
        sets.insert(name.clone(), Arc::downgrade(&set));
        set
    }
}
