//! Groups: the devices that an IOMMU cannot tell apart.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::{Deref, DerefMut};

use device_model::Errno;
use device_model::sync::{LockClass, Mutex, SpinMutex, SpinMutexGuard};

use crate::attached::{Attached, Reach};
use crate::default_domain::DirectMappings;
use crate::domain::Domain;
use crate::error::{InTheWay, SwitchError};
use crate::group_id::GroupId;
use crate::hardware::{Capabilities, DefaultDomainType, HardwareError, PagingFlags, UserData};
use crate::member::Member;
use crate::observer::{Observer, Transition};
use crate::ownership::{Owner, Ownership};
use crate::registry::{DeviceGroupKey, GroupNumber};
use crate::reserved::{self, ReservedRegion};
use crate::unit::Unit;

mod state;

use self::state::Retired;
pub(crate) use self::state::{GroupState, Place, Record};

const GROUP_LOCK: LockClass = LockClass::new("group lock", 800);
const DIRECT_LOCK: LockClass = LockClass::new("direct mappings of a group", 720);

/// A group of devices, and who owns their DMA.
///
/// The [`IommuSubsystem`](crate::IommuSubsystem) owns it for as long as it has members; whoever holds it longer holds an
/// empty group. All that changes is behind one spinning lock, the **group lock**, the innermost of the ownership locks:
/// under it only the IOMMU driver is called.
// The lock comes first, beside what each kernel use touches, and begins a cache line.
#[repr(C, align(64))]
pub struct Group {
    /// The group lock.
    state: SpinMutex<GroupState>,
    observer: Option<Arc<dyn Observer>>,
    number: GroupNumber,
    key: DeviceGroupKey,
    unit: Arc<Unit>,
    /// What is mapped 1:1 in the default domain. Changed under the probe lock only; a lock of its own because the group
    /// lock is not held while the IOMMU driver maps.
    direct: Mutex<DirectMappings>,
}

/// A member of a group as the group sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberState {
    /// The device.
    pub device: Arc<str>,
    /// The kernel driver that uses it through the DMA API.
    pub kernel_user: Option<Arc<str>>,
    /// Whether it is attached where its group is.
    pub reach: Reach,
    /// The regions that it needs for itself.
    pub reserved: Vec<ReservedRegion>,
}

impl Group {
    pub(crate) fn new(
        number: GroupNumber,
        key: DeviceGroupKey,
        observer: Option<Arc<dyn Observer>>,
        unit: Arc<Unit>,
    ) -> Arc<Self> {
        let state = SpinMutex::of(GROUP_LOCK, GroupState::new(observer.is_some()));
        let direct = Mutex::of(DIRECT_LOCK, DirectMappings::default());
        Arc::new(Self { state, observer, number, key, unit, direct })
    }

    /// Returns the group's number.
    pub fn id(&self) -> GroupId {
        self.number.id()
    }

    pub(crate) fn key(&self) -> &DeviceGroupKey {
        &self.key
    }

    /// The IOMMU of all its members.
    pub(crate) fn unit(&self) -> &Arc<Unit> {
        &self.unit
    }

    pub(crate) fn direct(&self) -> &Mutex<DirectMappings> {
        &self.direct
    }

    /// Returns who holds the group; stale as soon as it is read. To act on it, claim.
    pub fn ownership(&self) -> Ownership {
        self.lock().ownership().clone()
    }

    /// Returns what its devices are attached to; stale as soon as it is read.
    pub fn attached(&self) -> Attached {
        self.lock().attached()
    }

    /// Returns the type of its default domain, as the `type` file of sysfs shows it.
    pub fn default_domain_type(&self) -> Option<DefaultDomainType> {
        self.lock().default_domain().map(|(_, kind)| kind)
    }

    /// Returns the domain that the kernel's DMA API maps into, for whoever implements that API. Only a device whose
    /// driver holds a [`KernelUse`](crate::KernelUse) may rely on being attached to it.
    pub fn default_domain(&self) -> Option<Arc<Domain>> {
        self.lock().default_domain().map(|(domain, _)| domain.clone())
    }

    /// Returns its members, sorted by name.
    pub fn members(&self) -> Vec<MemberState> {
        let members =
            self.collect(|state, record| (record.member().clone(), state.kernel_user(record).cloned(), record.reach()));
        let mut members: Vec<_> = members
            .into_iter()
            .map(|(member, kernel_user, reach)| MemberState {
                device: member.name().clone(),
                kernel_user,
                reach,
                reserved: member.properties().reserved.clone(),
            })
            .collect();
        members.sort_by(|a, b| a.device.cmp(&b.device));
        members
    }

    /// Returns the devices that kernel drivers use through the DMA API, with the drivers, sorted by name.
    pub fn blockers(&self) -> Vec<InTheWay> {
        let users = self.collect(|state, record| (record.member().name().clone(), state.kernel_user(record).cloned()));
        let mut users: Vec<_> =
            users.into_iter().filter_map(|(device, driver)| Some(InTheWay { device, driver: driver? })).collect();
        users.sort();
        users
    }

    /// Returns the members, in the order in which they are attached.
    pub(crate) fn member_handles(&self) -> Vec<Arc<Member>> {
        self.collect(|_, record| record.member().clone())
    }

    /// Collects from the records of all members, without allocating under the group lock.
    fn collect<T>(&self, item: impl Fn(&GroupState, &Record) -> T) -> Vec<T> {
        // Most groups have few.
        let mut room = 4;
        loop {
            let mut collected = Vec::with_capacity(room);
            let state = self.lock();
            if state.len() <= room {
                collected.extend(state.records().map(|record| item(&state, record)));
                return collected;
            }
            room = state.len();
        }
    }

    /// Returns whether no device is left.
    pub fn is_empty(&self) -> bool {
        self.lock().len() == 0
    }

    /// Returns how many domains are in quarantine: a device may still reach them, because hardware refused to attach it
    /// elsewhere and to stop it. They are kept until the device is known to be blocked, attached elsewhere or removed.
    pub fn quarantined(&self) -> usize {
        self.lock().quarantined()
    }

    /// Returns the reserved regions of all members as one list.
    pub fn reserved_regions(&self) -> Vec<ReservedRegion> {
        // Most groups have few.
        let mut room = 8;
        loop {
            let mut regions = Vec::with_capacity(room);
            let state = self.lock();
            let of_members = || state.records().map(|record| &record.member().properties().reserved);
            room = of_members().map(Vec::len).sum();
            if room <= regions.capacity() {
                of_members().for_each(|reserved| regions.extend_from_slice(reserved));
                drop(state);
                return reserved::merge(regions);
            }
        }
    }

    /// Returns what the IOMMU can do for every member; nothing for an empty group.
    pub fn capabilities(&self) -> Capabilities {
        self.lock().capabilities()
    }

    /// Makes a paging domain that the group can be attached to.
    ///
    /// # Errors
    /// The group is empty (`ENODEV`), or the IOMMU driver refuses.
    pub fn allocate_paging(&self) -> Result<Arc<Domain>, HardwareError> {
        self.allocate_for_user(PagingFlags::empty(), None)
    }

    /// Makes a paging domain that can do more, or that user space describes.
    ///
    /// # Errors
    /// The group is empty (`ENODEV`), or the IOMMU driver refuses; `EOPNOTSUPP` when it cannot.
    pub fn allocate_for_user(
        &self,
        flags: PagingFlags,
        data: Option<UserData<'_>>,
    ) -> Result<Arc<Domain>, HardwareError> {
        let first = self.lock().records().next().map(|record| record.member().clone());
        let first = first.ok_or_else(|| HardwareError::new(Errno::ENODEV, "the group is empty"))?;
        Domain::allocate_for_user(&first, flags, data)
    }

    /// Takes the group lock to look, or for what every kernel use does.
    #[inline]
    pub(crate) fn lock(&self) -> SpinMutexGuard<'_, GroupState> {
        self.state.lock()
    }

    /// Takes the group lock to change what is attached or who holds the group.
    #[inline]
    pub(crate) fn change(&self) -> Change<'_> {
        let mut guard = self.state.lock();
        let before = guard.before();
        let owner = guard.take_retired_owner();
        Change { guard, retired: None, _owner: owner, before, group: self }
    }

    /// Tells the observer. The group lock must not be held.
    pub(crate) fn tell(&self, transition: &Transition<'_>) {
        if let Some(observer) = &self.observer {
            observer.transition(transition);
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({})", self.id())
    }
}

/// The group lock, held for a change. Once it is dropped, finished or not, the state is consistent, and what the change
/// has set free is freed without the lock.
pub(crate) struct Change<'a> {
    // Fields are dropped in this order: what is retired goes after the lock.
    guard: SpinMutexGuard<'a, GroupState>,
    /// Once the change is over.
    retired: Option<Retired>,
    /// Whom an earlier change has displaced.
    _owner: Option<Owner>,
    before: Option<Ownership>,
    group: &'a Group,
}

impl Change<'_> {
    /// Unlocks, then tells the observer.
    #[inline]
    pub(crate) fn finish(mut self, device: Option<&Arc<str>>, stuck: Option<&SwitchError>) {
        let group = self.group;
        let Some(transition) = self.transition(device, stuck) else { return };
        drop(self);
        group.tell(&transition);
    }

    /// What has happened, if somebody is to be told once the lock is free.
    pub(crate) fn transition<'a>(
        &mut self,
        device: Option<&'a Arc<str>>,
        stuck: Option<&'a SwitchError>,
    ) -> Option<Transition<'a>> {
        let before = self.before.take()?;
        Some(self.guard.transition(self.group.id(), device, before, stuck))
    }
}

impl Deref for Change<'_> {
    type Target = GroupState;

    fn deref(&self) -> &GroupState {
        &self.guard
    }
}

impl DerefMut for Change<'_> {
    fn deref_mut(&mut self) -> &mut GroupState {
        &mut self.guard
    }
}

impl Drop for Change<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.guard.settle() {
            self.retired = Some(self.guard.take_retired());
        }
    }
}
