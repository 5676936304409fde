//! All groups of a machine, and how devices come into them.

use alloc::collections::TryReserveError;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use device_model::DeviceId;
use device_model::sync::{LockClass, Mutex, MutexGuard, SpinMutex};

use crate::default_domain::{Choice, TypeRequest};
use crate::device_group::{DeviceGroup, Placement};
use crate::domain::Domain;
use crate::error::{AddError, SetTypeError};
use crate::group::{Group, GroupState};
use crate::group_id::GroupId;
use crate::hardware::{DefaultDomainType, Endpoint, IommuDriver};
use crate::member::{Member, Served};
use crate::observer::{FaultReports, Observer};
use crate::physical_memory::PhysicalMemory;
use crate::registry::{DeviceGroupKey, GroupNumber, Numbers, Registry};
use crate::unit::Unit;

const PROBE_LOCK: LockClass = LockClass::new("probe lock", 700);
const REGISTRY_LOCK: LockClass = LockClass::new("registry of groups", 710);

/// The IOMMUs of a machine: groups, and the way into them. A value, of which a process may have many; clones are the
/// same.
///
/// It owns the groups and their members: a device stays in its group, attached, until it is removed, whatever handles are
/// dropped. When the last clone is dropped every device is removed. As the [`DmaConfigure`](device_model::DmaConfigure) of
/// a bus it groups devices that come, lets go those that leave, and counts the kernel drivers that do DMA.
#[derive(Clone)]
pub struct IommuSubsystem(Arc<Shared>);

struct Shared {
    placement: Arc<dyn Placement>,
    observer: Option<Arc<dyn Observer>>,
    faults: Arc<FaultReports>,
    default_domain: DefaultDomainType,
    memory: PhysicalMemory,
    numbers: Arc<SpinMutex<Numbers>>,
    /// The probe lock: held while a device comes or leaves, and while a default domain is changed. The IOMMU driver's probe
    /// runs under it. Not taken by kernel use, claims or releases.
    probing: Mutex<()>,
    /// Held for look-ups only.
    registry: Mutex<Registry>,
}

/// The probe lock, held.
type Probing<'a> = MutexGuard<'a, ()>;

/// What an [`IommuSubsystem`] is made of.
#[derive(Clone)]
pub struct IommuBuilder {
    placement: Arc<dyn Placement>,
    observer: Option<Arc<dyn Observer>>,
    default_domain: DefaultDomainType,
}

impl IommuBuilder {
    /// Tells `observer` of every transition, and of faults.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Sets the type of default domains where devices require none; DMA otherwise.
    #[must_use]
    pub fn default_domain(mut self, kind: DefaultDomainType) -> Self {
        self.default_domain = kind;
        self
    }

    /// Builds the subsystem, without groups yet, and the right to map physical memory through its domains.
    pub fn build(self) -> (IommuSubsystem, PhysicalMemory) {
        let Self { placement, observer, default_domain } = self;
        let memory = PhysicalMemory::new();
        let shared = Shared {
            placement,
            faults: Arc::new(FaultReports(observer.clone())),
            observer,
            default_domain,
            memory: memory.clone(),
            numbers: Arc::default(),
            probing: Mutex::of(PROBE_LOCK, ()),
            registry: Mutex::of(REGISTRY_LOCK, Registry::default()),
        };
        (IommuSubsystem(Arc::new(shared)), memory)
    }
}

impl fmt::Debug for IommuBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IommuBuilder").field("default_domain", &self.default_domain).finish_non_exhaustive()
    }
}

impl IommuSubsystem {
    /// Begins to build a subsystem with the IOMMUs that `placement` selects.
    pub fn builder(placement: impl Placement + 'static) -> IommuBuilder {
        IommuBuilder { placement: Arc::new(placement), observer: None, default_domain: DefaultDomainType::default() }
    }

    /// Returns all groups, by number.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        self.0.registry.lock().groups().cloned().collect()
    }

    /// Returns the group of this number. Costs the same however many there are.
    pub fn group(&self, id: GroupId) -> Option<Arc<Group>> {
        self.0.registry.lock().group(id).cloned()
    }

    /// Returns the device as a member of its group, if it is in one.
    pub fn member(&self, device: DeviceId) -> Option<Arc<Member>> {
        self.0.registry.lock().member(device).cloned()
    }

    /// Returns the type of default domains where devices require none.
    pub fn default_domain(&self) -> DefaultDomainType {
        self.0.default_domain
    }

    /// Changes the type of a group's default domain, as a write to its `type` file does. DMA turns lazy in place, whoever
    /// holds the group; every other change needs a group that nobody holds. Takes the probe lock and the group lock.
    ///
    /// # Errors
    /// The default domain is the old one, and every device is attached to it.
    pub fn set_default_domain_type(&self, group: &Group, request: TypeRequest) -> Result<(), SetTypeError> {
        let _probing = self.0.probing.lock();
        let id = group.id();
        if !self.0.registry.lock().group(id).is_some_and(|known| core::ptr::eq(Arc::as_ptr(known), group)) {
            return Err(SetTypeError::NoDefaultDomain { group: id });
        }
        if group.change().turn_lazy(id, request)? {
            return Ok(());
        }
        group.lock().check_type_change(id)?;
        let members = group.member_handles();
        let choice = Choice::of(id, &members, request, self.0.default_domain)?;
        if group.default_domain_type() == Some(choice.kind()) {
            return Ok(());
        }
        let (domain, kind, direct) = choice.set_up(id, &members)?;
        let mut change = group.change();
        // Somebody may have come since.
        change.check_type_change(id)?;
        change.switch_default(id, domain, kind).map_err(SetTypeError::Switch)?;
        drop(change);
        *group.direct().lock() = direct;
        Ok(())
    }

    /// Brings a device into the group that the [`Placement`] selects; `None` when no IOMMU serves it. A device that is in a
    /// group stays there. Takes the probe lock and the group lock. Allocates.
    ///
    /// It is attached where the group is: to the owner's domain or the blocking one when user space owns the group.
    ///
    /// # Errors
    /// The device is in no group, and no trace of it is left.
    pub fn add_device(&self, endpoint: &Endpoint) -> Result<Option<Arc<Member>>, AddError> {
        let probing = self.0.probing.lock();
        if let Some(member) = self.member(endpoint.id) {
            return Ok(Some(member));
        }
        let Some(group) = self.0.placement.device_group(endpoint) else { return Ok(None) };
        self.add(&probing, endpoint, group).map(Some)
    }

    /// Brings a device into `group`, whatever the [`Placement`] says. As [`add_device`](Self::add_device) else.
    ///
    /// # Errors
    /// The device is in another group or in this one already, or not in any; no trace of this attempt is left.
    pub fn add_device_to(&self, endpoint: &Endpoint, group: DeviceGroup) -> Result<Arc<Member>, AddError> {
        let probing = self.0.probing.lock();
        if let Some(member) = self.member(endpoint.id) {
            return Err(AddError::Present { device: endpoint.name.clone(), group: member.group().id() });
        }
        self.add(&probing, endpoint, group)
    }

    fn add(&self, probing: &Probing<'_>, endpoint: &Endpoint, group: DeviceGroup) -> Result<Arc<Member>, AddError> {
        let group = group.of(endpoint);
        let key = DeviceGroupKey::new(&group);
        let no_memory = || AddError::NoMemory { device: endpoint.name.clone() };
        let known = self.0.registry.lock().group_of(&key).cloned();
        let is_new = known.is_none();
        // Declared first, and so dropped last: its domains outlive the service of a device that could not join.
        let group = match known {
            Some(group) => group,
            None => self.new_group(key, group.iommu()).map_err(|_| no_memory())?,
        };
        self.0.registry.lock().reserve(group.id()).map_err(|_| no_memory())?;
        make_room(&group).map_err(|_| no_memory())?;
        let place = group.lock().next_place();
        let served = Served::probe(endpoint, self.0.faults.clone(), &group, place)
            .map_err(|cause| AddError::Probe { device: endpoint.name.clone(), cause })?;
        let member = served.member().clone();
        let result = self.join(probing, is_new, served);
        if result.is_ok() {
            self.0.registry.lock().insert(&member);
        }
        result.map(|()| member)
    }

    fn new_group(&self, key: DeviceGroupKey, iommu: &Arc<dyn IommuDriver>) -> Result<Arc<Group>, TryReserveError> {
        let number = GroupNumber::take(&self.0.numbers)?;
        let unit = Unit::new(iommu.clone(), self.0.memory.clone());
        Ok(Group::new(number, key, self.0.observer.clone(), unit))
    }

    /// Prepares the domains of the group, without its lock, and lets the member join.
    fn join(&self, _probing: &Probing<'_>, is_new: bool, served: Served) -> Result<(), AddError> {
        let member = served.member().clone();
        let group = member.group();
        if is_new {
            let members = [member.clone()];
            let choice = Choice::of(group.id(), &members, TypeRequest::Auto, self.0.default_domain);
            let (domain, kind, direct) =
                choice.and_then(|choice| choice.set_up(group.id(), &members)).map_err(AddError::DefaultDomain)?;
            *group.direct().lock() = direct;
            // Without one claims are refused, if hardware still makes none then.
            let blocking = Domain::allocate_blocking(&member).ok();
            group.change().set_up(domain, kind, blocking);
        } else if let Some(domain) = group.default_domain() {
            // Linux ignores errors here as well: the device joins, and faults where firmware wanted it mapped.
            let _ = group.direct().lock().map(&domain, &member.properties().reserved);
        }
        let mut change = group.change();
        let result = change.join(group.id(), served);
        drop(change);
        result
    }

    /// Takes a device out of its group; its DMA is blocked from now on. The group's ownership stays as it is, but for
    /// kernel uses of this very device, which are over. Takes the probe lock and the group lock.
    pub fn remove(&self, member: &Member) {
        self.0.remove(member);
    }

    /// Takes every device of an IOMMU out of its group, before that IOMMU goes away. Drivers stay bound; what they
    /// release later finds no device any more and does nothing. The devices can be added again, if an IOMMU serves them.
    pub fn remove_iommu(&self, iommu: &Arc<dyn IommuDriver>) {
        let members = self.0.registry.lock().members_of(iommu);
        for member in members {
            self.0.remove(&member);
        }
    }

    pub(crate) fn placement(&self) -> &dyn Placement {
        &*self.0.placement
    }
}

/// Makes room for one member more, allocated without the group lock. The probe lock keeps others from using it up.
fn make_room(group: &Group) -> Result<(), TryReserveError> {
    let lacking = group.lock().lacks_room();
    if let Some(members) = lacking {
        let room = GroupState::allocate_room(members)?;
        let replaced = group.lock().make_room(room);
        drop(replaced);
    }
    Ok(())
}

impl Shared {
    fn remove(&self, member: &Member) {
        let group = member.group();
        let probing = self.probing.lock();
        if !self.registry.lock().member(member.device()).is_some_and(|known| core::ptr::eq(Arc::as_ptr(known), member))
        {
            return;
        }
        let forgotten = Forgotten { shared: self, member };
        let mut change = group.change();
        let left = change.leave(member);
        let ended_uses = left.as_ref().is_some_and(|left| left.uses > 0);
        let transition = if ended_uses { change.transition(Some(member.name()), None) } else { None };
        drop(change);
        drop(forgotten);
        drop(left);
        drop(probing);
        if let Some(transition) = transition {
            group.tell(&transition);
        }
    }
}

/// Forgets a member that has left when it is dropped, and its group if that is empty: even if the IOMMU driver unwinds.
struct Forgotten<'a> {
    shared: &'a Shared,
    member: &'a Member,
}

impl Drop for Forgotten<'_> {
    fn drop(&mut self) {
        let emptied = self.member.group().is_empty();
        let mut registry = self.shared.registry.lock();
        let member = registry.remove_member(self.member);
        let group = if emptied { registry.remove_group(self.member.group()) } else { None };
        drop(registry);
        drop((member, group));
    }
}

/// Nobody holds the subsystem any more, and so nobody waits for its locks.
impl Drop for Shared {
    fn drop(&mut self) {
        remove_all(&mut self.registry.get_mut().take_members());
    }
}

fn remove_all(members: &mut dyn Iterator<Item = Arc<Member>>) {
    /// Removes the others as well, if the IOMMU driver unwinds.
    struct Others<'a>(&'a mut dyn Iterator<Item = Arc<Member>>);

    impl Drop for Others<'_> {
        fn drop(&mut self) {
            remove_all(self.0);
        }
    }

    while let Some(member) = members.next() {
        let others = Others(&mut *members);
        let left = member.group().change().leave(&member);
        drop(left);
        core::mem::forget(others);
    }
}

impl fmt::Debug for IommuSubsystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IommuSubsystem").field("groups", &self.groups()).finish_non_exhaustive()
    }
}
