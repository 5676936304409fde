//! Devices that are registered with VFIO, and the sets in which they are reset.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use iommu_core::Member;
use iommu_core::device_model::DeviceId;
use iommu_core::device_model::sync::{Condvar, LockClass, Mutex, MutexGuard, Users};

#[cfg(feature = "iommufd")]
use crate::device_file::DeviceFileWay;
use crate::device_ops::DeviceOps;
use crate::group::VfioGroup;
#[cfg(feature = "iommufd")]
use crate::open_device::Way;
use crate::open_device::{Session, ThroughGroup};

const DEVICE_SET: LockClass = LockClass::new("device set", 500);

/// A registered device.
#[derive(Debug)]
pub(crate) struct VfioDevice {
    /// N of `vfioN`.
    number: u32,
    name: Arc<str>,
    id: DeviceId,
    /// Its place in an IOMMU group; `None` in no-IOMMU mode.
    member: Option<Arc<Member>>,
    group: Arc<VfioGroup>,
    set: Arc<DeviceSet>,
    ops: Arc<dyn DeviceOps>,
    /// One user inside for each open file of the device's own, and one while the device is open.
    // V6.
    users: Arc<Users>,
}

impl VfioDevice {
    pub(crate) fn new(
        number: u32,
        (name, id): (Arc<str>, DeviceId),
        member: Option<Arc<Member>>,
        group: Arc<VfioGroup>,
        set: Arc<DeviceSet>,
        ops: Arc<dyn DeviceOps>,
    ) -> Self {
        Self { number, name, id, member, group, set, ops, users: Arc::new(Users::new()) }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn member(&self) -> Option<&Arc<Member>> {
        self.member.as_ref()
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

    /// Waits until somebody has opened or closed a device of the set, with no other lock held than that of the set, which
    /// the wait gives up.
    pub(crate) fn wait_for_change(&self, set: MutexGuard<'_, OpenDevices>) {
        drop(self.set.changed.wait(set));
    }

    /// Reserves the device, which nobody has, for whoever opens it: with no lock held, for its driver is called.
    pub(crate) fn reserve(self: &Arc<Self>, set: &mut OpenDevices) -> Reservation {
        set.open.push((self.id, Occupant::Changing));
        Reservation(self.clone())
    }
}

/// A device that is nobody else's; dropped, it is free again.
#[derive(Debug)]
pub(crate) struct Reservation(Arc<VfioDevice>);

impl Reservation {
    pub(crate) fn device(&self) -> &VfioDevice {
        &self.0
    }

    /// The device is open from now on.
    pub(crate) fn occupy(&self, occupant: Occupant) {
        let mut set = self.0.lock_set();
        if let Some((_, now)) = set.place(&self.0).and_then(|place| set.open.get_mut(place)) {
            *now = occupant;
        }
        drop(set);
        self.0.set.changed.notify_all();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut set = self.0.lock_set();
        let place = set.place(&self.0);
        let was = place.map(|place| set.open.swap_remove(place));
        drop(set);
        self.0.set.changed.notify_all();
        drop(was);
    }
}

/// Device set: the devices that are reset together.
// V54.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DeviceSetId {
    /// The device alone.
    Alone,
    /// All devices that are registered with this name of a set.
    Named(Arc<str>),
}

/// Devices that are reset together. Its lock says who has which; it is not held while a
/// driver opens or closes a device.
#[derive(Debug)]
pub(crate) struct DeviceSet {
    /// The device set lock: taken inside that of a group, outside that of a container.
    open: Mutex<OpenDevices>,
    changed: Condvar,
}

impl Default for DeviceSet {
    fn default() -> Self {
        Self { open: Mutex::of(DEVICE_SET, OpenDevices::default()), changed: Condvar::new() }
    }
}

/// The registered devices of a set, and which of them are open.
#[derive(Debug, Default)]
pub(crate) struct OpenDevices {
    members: Vec<Weak<VfioDevice>>,
    /// In no order: few of a set are open at once.
    open: Vec<(DeviceId, Occupant)>,
}

/// Who has a device.
#[derive(Debug)]
pub(crate) enum Occupant {
    /// Somebody who is just opening it, or has closed its last file: its driver is at work, with no lock held.
    Changing,
    /// The files that were opened through its group. One that is no more is being closed.
    Group(Weak<Session<ThroughGroup>>),
    /// A file of its own, which is bound to an iommufd.
    #[cfg(feature = "iommufd")]
    DeviceFile(Weak<Session<DeviceFileWay>>),
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

    /// The session of a device that is open. To be dropped with no lock held: it may be the last that keeps it.
    #[cfg(feature = "iommufd")]
    pub(crate) fn session(&self, device: &VfioDevice) -> Option<Arc<Session<dyn Way>>> {
        match self.occupant(device)? {
            Occupant::Changing => None,
            Occupant::Group(session) => Some(session.upgrade()?),
            Occupant::DeviceFile(session) => Some(session.upgrade()?),
        }
    }

    fn place(&self, device: &VfioDevice) -> Option<usize> {
        self.open.iter().position(|(open, _)| *open == device.id)
    }

    pub(crate) fn occupant(&self, device: &VfioDevice) -> Option<&Occupant> {
        self.open.get(self.place(device)?).map(|(_, occupant)| occupant)
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

#[cfg(all(test, not(shuttle)))]
mod tests;
