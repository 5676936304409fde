//! What there is: groups by number and by key, members by device.

use alloc::collections::{BinaryHeap, TryReserveError};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;

use device_model::DeviceId;
use device_model::sync::SpinMutex;
use hashbrown::HashMap;

use crate::device_group::{DeviceGroup, Which};
use crate::group::Group;
use crate::group_id::GroupId;
use crate::hardware::IommuDriver;
use crate::member::Member;

/// Devices with equal keys share a group. It contains the unit, so that devices of two never do, whatever their drivers
/// and topologies say.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct DeviceGroupKey {
    /// The address of the unit, which its group keeps alive.
    unit: usize,
    which: Which,
}

impl DeviceGroupKey {
    pub(crate) fn new(group: &DeviceGroup) -> Self {
        Self { unit: Arc::as_ptr(group.iommu()).cast::<()>().addr(), which: group.which().clone() }
    }
}

/// Owns the groups and the members.
#[derive(Default)]
pub(crate) struct Registry {
    /// Indexed by number.
    numbered: Vec<Option<Arc<Group>>>,
    keyed: HashMap<DeviceGroupKey, Arc<Group>>,
    members: HashMap<DeviceId, Arc<Member>>,
}

impl Registry {
    /// Makes room for one device more, in a group with this number.
    pub(crate) fn reserve(&mut self, group: GroupId) -> Result<(), TryReserveError> {
        let number = group.get() as usize;
        if number >= self.numbered.len() {
            self.numbered.try_reserve(number + 1 - self.numbered.len())?;
            self.numbered.resize(number + 1, None);
        }
        // Both grow by one entry at the most. A map that is out of memory says so in a type of its own.
        if self.keyed.try_reserve(1).is_err() || self.members.try_reserve(1).is_err() {
            Vec::<u8>::new().try_reserve(usize::MAX)?;
        }
        Ok(())
    }

    pub(crate) fn insert(&mut self, member: &Arc<Member>) {
        let group = member.group();
        if let Some(place) = self.numbered.get_mut(group.id().get() as usize)
            && place.is_none()
        {
            *place = Some(group.clone());
            self.keyed.insert(group.key().clone(), group.clone());
        }
        self.members.insert(member.device(), member.clone());
    }

    pub(crate) fn remove_member(&mut self, member: &Member) -> Option<Arc<Member>> {
        self.members.remove(&member.device())
    }

    /// What it returns is to be dropped without the lock.
    pub(crate) fn remove_group(&mut self, group: &Group) -> Option<(DeviceGroupKey, Arc<Group>)> {
        if let Some(place) = self.numbered.get_mut(group.id().get() as usize) {
            *place = None;
        }
        self.keyed.remove_entry(group.key())
    }

    pub(crate) fn group(&self, id: GroupId) -> Option<&Arc<Group>> {
        self.numbered.get(id.get() as usize)?.as_ref()
    }

    pub(crate) fn group_of(&self, key: &DeviceGroupKey) -> Option<&Arc<Group>> {
        self.keyed.get(key)
    }

    /// The groups by number.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.numbered.iter().flatten()
    }

    pub(crate) fn member(&self, device: DeviceId) -> Option<&Arc<Member>> {
        self.members.get(&device)
    }

    /// The members that this unit serves.
    pub(crate) fn members_of(&self, unit: &Arc<dyn IommuDriver>) -> Vec<Arc<Member>> {
        self.members.values().filter(|member| Arc::ptr_eq(member.served_by(), unit)).cloned().collect()
    }

    /// All members, which it forgets.
    pub(crate) fn take_members(&mut self) -> impl Iterator<Item = Arc<Member>> {
        core::mem::take(&mut self.members).into_values()
    }
}

/// Group numbers in use; the lowest free one is given out next.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    next: u32,
    /// With room for all that are in use: giving one back allocates nothing.
    free: BinaryHeap<Reverse<u32>>,
}

/// A group number, given back when dropped.
pub(crate) struct GroupNumber {
    id: GroupId,
    numbers: Arc<SpinMutex<Numbers>>,
}

impl GroupNumber {
    pub(crate) fn take(numbers: &Arc<SpinMutex<Numbers>>) -> Result<Self, TryReserveError> {
        let mut locked = numbers.lock();
        let number = if let Some(Reverse(number)) = locked.free.pop() {
            number
        } else {
            let number = locked.next;
            locked.free.try_reserve(number as usize + 1)?;
            locked.next = number.wrapping_add(1);
            number
        };
        drop(locked);
        Ok(Self { id: GroupId::new(number), numbers: numbers.clone() })
    }

    pub(crate) fn id(&self) -> GroupId {
        self.id
    }
}

impl Drop for GroupNumber {
    fn drop(&mut self) {
        self.numbers.lock().free.push(Reverse(self.id.get()));
    }
}
