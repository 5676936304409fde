//! Groups: the devices that an IOMMU cannot tell apart.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use device_model::sync::{LockClass, Mutex, MutexGuard};
use slab::Slab;

use crate::address::IovaRange;
use crate::domain::Domain;
use crate::error::{InTheWay, SwitchError};
use crate::hardware::{
    Capabilities, DefaultDomainType, Endpoint, EndpointProperties, HardwareError, IommuDriver, PagingFlags, UserData,
};
use crate::observer::{Observer, Transition};
use crate::ownership::{Owner, Ownership};
use crate::placement::GroupKey;
use crate::registry::GroupNumber;
use crate::reserved::{self, RegionKind, ReservedRegion};

const GROUP_LOCK: LockClass = LockClass::new("group lock", 800);

/// The number of a group, as in `/sys/kernel/iommu_groups` and `/dev/vfio`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(u32);

impl GroupId {
    /// The id of this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A group of devices, and who owns their DMA.
///
/// It lives for as long as it has members, or somebody holds it. All that changes is behind one lock, the **group
/// lock**, the innermost of the ownership locks: under it only the IOMMU driver is called.
pub struct Group {
    number: GroupNumber,
    key: GroupKey,
    observer: Option<Arc<dyn Observer>>,
    /// The group lock.
    state: Mutex<GroupState>,
}

/// What the group lock guards.
pub(crate) struct GroupState {
    pub(crate) ownership: Ownership,
    /// Who left last, kept for when it comes back.
    pub(crate) last_owner: Option<Owner>,
    pub(crate) current: Current,
    /// `None` for an empty group, and while the first device is being added.
    pub(crate) default: Option<DefaultDomain>,
    /// Made when first needed (It4.2).
    pub(crate) blocking: Option<Arc<Domain>>,
    pub(crate) members: Slab<Record>,
    pub(crate) pasids: BTreeMap<u32, Arc<Domain>>,
    transitions: u64,
}

/// What the members are attached to. While user space owns the group it is never `Default` (I4); `Blocking` while
/// nobody does means that hardware refused the way back.
#[derive(Debug, Clone)]
pub(crate) enum Current {
    Nothing,
    Default,
    Blocking,
    /// A domain of the owner's, or of a kernel driver's.
    Own(Arc<Domain>),
}

/// The kernel's domain for the group. Its type is not always the domain's kind: DMA turns lazy in place (It10.4).
#[derive(Debug)]
pub(crate) struct DefaultDomain {
    pub(crate) domain: Arc<Domain>,
    pub(crate) kind: DefaultDomainType,
    /// What is mapped 1:1 for devices that are here, or were.
    pub(crate) direct: Vec<IovaRange>,
}

/// A member's own record: the answer to "who is in the way" without a look at any driver.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) endpoint: Endpoint,
    pub(crate) iommu: Arc<dyn IommuDriver>,
    pub(crate) properties: EndpointProperties,
    /// Kernel uses of this device; the group's count is the sum over its members.
    pub(crate) uses: u32,
    /// Who uses it, or used it last: kept so that a driver that comes back costs no allocation.
    pub(crate) driver: Option<Arc<str>>,
    pub(crate) reach: Reach,
}

/// Whether a member is where its group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It is.
    Group,
    /// Hardware refused; its DMA is stopped.
    Nothing,
}

impl Record {
    pub(crate) fn needs_direct_mapping(&self) -> bool {
        self.properties.reserved.iter().any(|region| region.kind == RegionKind::Direct)
    }
}

/// What the devices of a group are attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attached {
    /// Nothing; the group is empty.
    Nothing,
    /// The kernel's default domain.
    Default(DefaultDomainType),
    /// The blocking domain.
    Blocking,
    /// A domain that its owner, or a kernel driver, brought.
    Own,
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Default(kind) => write!(f, "default domain ({})", kind.domain_kind()),
            Self::Blocking => f.write_str("blocking domain"),
            Self::Own => f.write_str("a domain of its own"),
        }
    }
}

/// A member of a group as the group sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberState {
    /// The device.
    pub device: Arc<str>,
    /// The kernel driver that uses it through the DMA API.
    pub kernel_user: Option<Arc<str>>,
    /// Whether hardware refused to attach it where its group is, so that its DMA is stopped.
    pub stopped: bool,
    /// The regions that it needs for itself.
    pub reserved: Vec<ReservedRegion>,
}

impl Group {
    pub(crate) fn new(number: GroupNumber, key: GroupKey, observer: Option<Arc<dyn Observer>>) -> Arc<Self> {
        let state = GroupState {
            ownership: Ownership::Idle,
            last_owner: None,
            current: Current::Nothing,
            default: None,
            blocking: None,
            members: Slab::new(),
            pasids: BTreeMap::new(),
            transitions: 0,
        };
        Arc::new(Self { number, key, observer, state: Mutex::of(GROUP_LOCK, state) })
    }

    /// The group's number.
    pub fn id(&self) -> GroupId {
        self.number.id()
    }

    pub(crate) fn key(&self) -> &GroupKey {
        &self.key
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, GroupState> {
        self.state.lock()
    }

    /// Who holds the group; stale as soon as it is read (I64). To act on it, claim.
    pub fn ownership(&self) -> Ownership {
        self.lock().ownership.clone()
    }

    /// What its devices are attached to; stale as soon as it is read.
    pub fn attached(&self) -> Attached {
        self.lock().attached()
    }

    /// The type of its default domain, as the `type` file of sysfs shows it (I43).
    pub fn default_domain_type(&self) -> Option<DefaultDomainType> {
        self.lock().default.as_ref().map(|default| default.kind)
    }

    /// The domain that the kernel's DMA API maps into, for whoever implements that API. Only a device whose driver
    /// holds a [`KernelUse`](crate::KernelUse) may rely on being attached to it.
    pub fn default_domain(&self) -> Option<Arc<Domain>> {
        self.lock().default.as_ref().map(|default| default.domain.clone())
    }

    /// Its members, sorted by name.
    pub fn members(&self) -> Vec<MemberState> {
        let state = self.lock();
        let mut members: Vec<_> = state.members.iter().map(|(_, record)| record.state()).collect();
        members.sort_by(|a, b| a.device.cmp(&b.device));
        members
    }

    /// Whether no device is left.
    pub fn is_empty(&self) -> bool {
        self.lock().members.is_empty()
    }

    /// The reserved regions of all members as one list (I51).
    pub fn reserved_regions(&self) -> Vec<ReservedRegion> {
        let state = self.lock();
        reserved::merge(state.members.iter().flat_map(|(_, record)| record.properties.reserved.iter().copied()))
    }

    /// What the IOMMU can do for every member; nothing for an empty group.
    pub fn capabilities(&self) -> Capabilities {
        let state = self.lock();
        let each = state.members.iter().map(|(_, record)| record.properties.capabilities);
        each.reduce(Capabilities::intersection).unwrap_or_default()
    }

    /// A new paging domain that the group can be attached to. Takes the group lock.
    ///
    /// # Errors
    /// The group is empty (`ENODEV`), or the IOMMU driver refuses.
    pub fn allocate_paging(&self) -> Result<Arc<Domain>, HardwareError> {
        self.allocate_for_user(PagingFlags::empty(), None)
    }

    /// As [`allocate_paging`](Self::allocate_paging), a domain that can do more, or that user space describes.
    ///
    /// # Errors
    /// As there; `EOPNOTSUPP` when the driver cannot.
    pub fn allocate_for_user(
        &self,
        flags: PagingFlags,
        data: Option<UserData<'_>>,
    ) -> Result<Arc<Domain>, HardwareError> {
        let state = self.lock();
        let (_, first) = state
            .members
            .iter()
            .next()
            .ok_or_else(|| HardwareError::new(device_model::Errno::ENODEV, "the group is empty"))?;
        Domain::allocate_for_user(&first.iommu, flags, data, &first.endpoint)
    }

    /// What to compare with once the state has changed; nothing when nobody listens.
    #[inline]
    pub(crate) fn before(&self, state: &GroupState) -> Option<Ownership> {
        self.observer.as_ref().map(|_| state.ownership.clone())
    }

    /// Unlocks, then tells the observer.
    #[inline]
    pub(crate) fn tell(
        &self,
        state: MutexGuard<'_, GroupState>,
        before: Option<Ownership>,
        device: Option<&Arc<str>>,
        stuck: Option<SwitchError>,
    ) {
        match (&self.observer, before) {
            (Some(observer), Some(before)) => self.tell_observer(&**observer, state, before, device, stuck),
            _ => drop(state),
        }
    }

    #[cold]
    fn tell_observer(
        &self,
        observer: &dyn Observer,
        mut state: MutexGuard<'_, GroupState>,
        before: Ownership,
        device: Option<&Arc<str>>,
        stuck: Option<SwitchError>,
    ) {
        state.transitions += 1;
        let transition = Transition {
            group: self.id(),
            sequence: state.transitions,
            device: device.cloned(),
            before,
            after: state.ownership.clone(),
            attached: state.attached(),
            stuck,
        };
        drop(state);
        observer.transition(&transition);
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({})", self.id())
    }
}

impl Record {
    fn state(&self) -> MemberState {
        MemberState {
            device: self.endpoint.name.clone(),
            kernel_user: self.driver.clone().filter(|_| self.uses > 0),
            stopped: self.reach == Reach::Nothing,
            reserved: self.properties.reserved.clone(),
        }
    }
}

impl GroupState {
    pub(crate) fn attached(&self) -> Attached {
        match (&self.current, &self.default) {
            (Current::Default, Some(default)) => Attached::Default(default.kind),
            (Current::Blocking, _) => Attached::Blocking,
            (Current::Own(_), _) => Attached::Own,
            (Current::Default | Current::Nothing, _) => Attached::Nothing,
        }
    }

    /// The devices that kernel drivers use, with the drivers.
    pub(crate) fn kernel_users(&self) -> Vec<InTheWay> {
        let states = self.members.iter().map(|(_, record)| record.state());
        let mut users: Vec<_> =
            states.filter_map(|member| Some(InTheWay { device: member.device, driver: member.kernel_user? })).collect();
        users.sort_by(|a, b| a.device.cmp(&b.device));
        users
    }

    pub(crate) fn device_names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.members.iter().map(|(_, record)| record.endpoint.name.clone()).collect();
        names.sort();
        names
    }
}
