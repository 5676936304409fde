//! All groups of a machine, and how devices come into them.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

use device_model::sync::{LockClass, Mutex, MutexGuard};
use device_model::{BusEvent, Device, DeviceGuard, DmaApi, DmaConfigure, DmaUse, Notifier, ProbeError};

use crate::default_domain::TypeRequest;
use crate::error::{AddError, SetTypeError, SwitchError, UseError};
use crate::group::{Current, Group, GroupId, GroupState, Reach, Record};
use crate::hardware::{DefaultDomainType, Endpoint, IommuDriver};
use crate::kernel_use::KernelUse;
use crate::member::Member;
use crate::observer::{FaultReports, Observer};
use crate::placement::{GroupKey, Placement, Placing};

const PROBE_LOCK: LockClass = LockClass::new("probe lock", 700);

/// The IOMMUs of a machine: groups, and the way into them. A value, of which a process may have many; clones are the
/// same.
///
/// It takes part in `device-model` at two places: as a [`Notifier`] of a bus it groups devices that come and lets go
/// those that leave, and as the [`DmaConfigure`] of a bus it counts the kernel drivers that do DMA.
#[derive(Clone)]
pub struct Iommu(Arc<Shared>);

struct Shared {
    placing: Arc<dyn Placing>,
    faults: Arc<FaultReports>,
    observer: Option<Arc<dyn Observer>>,
    default_domain: DefaultDomainType,
    numbers: Arc<Mutex<Numbers>>,
    /// The probe lock: outside the group locks. Not taken by kernel use, claims or releases.
    groups: Mutex<BTreeMap<GroupKey, Weak<Group>>>,
}

/// What an [`Iommu`] is made of.
#[derive(Clone)]
pub struct IommuBuilder {
    placing: Arc<dyn Placing>,
    observer: Option<Arc<dyn Observer>>,
    default_domain: DefaultDomainType,
}

impl IommuBuilder {
    /// Tells `observer` of every transition.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// The type of default domains where the devices have no opinion; DMA if it is not said.
    #[must_use]
    pub fn default_domain(mut self, kind: DefaultDomainType) -> Self {
        self.default_domain = kind;
        self
    }

    /// Without groups yet.
    pub fn build(self) -> Iommu {
        let Self { placing, observer, default_domain } = self;
        Iommu(Arc::new(Shared {
            placing,
            faults: Arc::new(FaultReports(observer.clone())),
            observer,
            default_domain,
            numbers: Arc::default(),
            groups: Mutex::of(PROBE_LOCK, BTreeMap::new()),
        }))
    }
}

impl fmt::Debug for IommuBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IommuBuilder").field("default_domain", &self.default_domain).finish_non_exhaustive()
    }
}

impl Iommu {
    /// The IOMMUs that `placing` knows.
    pub fn builder(placing: impl Placing + 'static) -> IommuBuilder {
        IommuBuilder { placing: Arc::new(placing), observer: None, default_domain: DefaultDomainType::default() }
    }

    /// As [`builder`](Self::builder), with nothing more to say.
    pub fn new(placing: impl Placing + 'static) -> Self {
        Self::builder(placing).build()
    }

    /// All groups that have members, by number.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        let groups = self.0.groups.lock();
        let mut groups: Vec<_> = groups.values().filter_map(Weak::upgrade).filter(|group| !group.is_empty()).collect();
        groups.sort_by_key(|group| group.id());
        groups
    }

    /// The group of this number, if it has members.
    pub fn group(&self, id: GroupId) -> Option<Arc<Group>> {
        self.groups().into_iter().find(|group| group.id() == id)
    }

    /// The type of default domains where devices have no opinion.
    pub fn default_domain(&self) -> DefaultDomainType {
        self.0.default_domain
    }

    /// Changes a group's default domain as a write to its `type` file does; see
    /// [`Group::set_default_domain_type`].
    ///
    /// # Errors
    /// The default domain is the old one.
    pub fn set_type(&self, group: &Group, request: TypeRequest) -> Result<(), SetTypeError> {
        group.set_default_domain_type(request, self.0.default_domain)
    }

    /// The device as a member of its group; `None` when no IOMMU serves it. Takes no lock.
    pub fn member(dev: &Device) -> Option<Arc<Member>> {
        dev.shared_dma_record()
    }

    /// Brings a device into its group (I11, I12); `None` when no IOMMU serves it. A device that is in a group stays
    /// there. Takes the probe lock and the group lock.
    ///
    /// It joins where the group is: on the owner's domain or the blocking one when user space owns the group (I13).
    ///
    /// # Errors
    /// The device is in no group.
    pub fn add_device(&self, dev: &Arc<Device>) -> Result<Option<Arc<Member>>, AddError> {
        let mut groups = self.0.groups.lock();
        if let Some(member) = Self::member(dev) {
            return Ok(Some(member));
        }
        let Some(placement) = self.0.placing.place(dev) else { return Ok(None) };
        let endpoint = Endpoint::new(dev.id(), dev.name().clone());
        let member = self.add(&mut groups, endpoint, placement)?;
        dev.set_dma_record(member.clone());
        Ok(Some(member))
    }

    /// As [`add_device`](Self::add_device), for a device that no driver core knows. The caller answers for `endpoint`'s
    /// id being its own.
    ///
    /// # Errors
    /// The device is in no group.
    pub fn add_endpoint(&self, endpoint: Endpoint, placement: Placement) -> Result<Arc<Member>, AddError> {
        self.add(&mut self.0.groups.lock(), endpoint, placement)
    }

    fn add(
        &self,
        groups: &mut MutexGuard<'_, BTreeMap<GroupKey, Weak<Group>>>,
        endpoint: Endpoint,
        placement: Placement,
    ) -> Result<Arc<Member>, AddError> {
        let Placement { iommu, key } = placement;
        let properties = iommu
            .probe(&endpoint, self.0.faults.clone())
            .map_err(|cause| AddError::Probe { device: endpoint.name.clone(), cause })?;
        let found = groups.get(&key).and_then(Weak::upgrade).filter(|group| !group.is_empty());
        let group = found.unwrap_or_else(|| {
            let group = Group::new(GroupNumber::take(&self.0.numbers), key.clone(), self.0.observer.clone());
            groups.insert(key, Arc::downgrade(&group));
            group
        });
        let record =
            Record { endpoint: endpoint.clone(), iommu, properties, uses: 0, driver: None, reach: Reach::Nothing };
        let key = group.lock().join(group.id(), record, self.0.default_domain)?;
        Ok(Member::new(endpoint, group, key))
    }

    /// Takes a device out of its group; its DMA is blocked from now on. The group's ownership stays as it is (I19),
    /// but for kernel uses of this very device, which are over. Takes the probe lock and the group lock.
    pub fn remove(&self, member: &Member) {
        let mut groups = self.0.groups.lock();
        let group = member.group();
        let mut state = group.lock();
        let before = group.before(&state);
        let uses = state.leave(member);
        // A group of the same key may have taken its place.
        let emptied = state.members.is_empty()
            && groups.get(group.key()).is_some_and(|now| core::ptr::eq(now.as_ptr(), Arc::as_ptr(group)));
        if emptied {
            groups.remove(group.key());
        }
        drop(groups);
        if uses > 0 {
            group.tell(state, before, Some(member.name()), None);
        }
    }

    /// Takes every device of an IOMMU out of its group, before that IOMMU goes away. Drivers stay bound; what they
    /// release later finds no device any more and does nothing.
    pub fn remove_iommu(&self, iommu: &Arc<dyn IommuDriver>, devices: impl IntoIterator<Item = Arc<Device>>) {
        for member in devices.into_iter().filter_map(|dev| Self::member(&dev)) {
            let served =
                member.record(&mut member.group().lock().members).is_some_and(|r| Arc::ptr_eq(&r.iommu, iommu));
            if served {
                self.remove(&member);
            }
        }
    }
}

impl fmt::Debug for Iommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iommu").field("groups", &self.groups()).finish_non_exhaustive()
    }
}

impl GroupState {
    /// A device comes in (table It1); its key, or an error and no trace of it.
    fn join(&mut self, group: GroupId, record: Record, machine: DefaultDomainType) -> Result<usize, AddError> {
        let key = self.members.insert(record);
        let result = self.settle_in(group, key, machine);
        if result.is_err()
            && let Some(record) = self.members.try_remove(key)
        {
            record.iommu.release(&record.endpoint);
        }
        result.map(|()| key)
    }

    fn settle_in(&mut self, group: GroupId, key: usize, machine: DefaultDomainType) -> Result<(), AddError> {
        // Blocked without an owner: hardware refused the way home.
        let blocked = self.ownership.owner().is_some() || matches!(self.current, Current::Blocking);
        let Some(record) = self.members.get_mut(key) else { return Ok(()) };
        if blocked && record.needs_direct_mapping() {
            return Err(AddError::DirectRegion { group, device: record.endpoint.name.clone() });
        }
        if let Some(default) = &mut self.default {
            default.map_direct_late(&record.properties.reserved);
        }
        let domain = match &self.current {
            Current::Nothing => {
                return self.set_up_default(group, TypeRequest::Auto, machine).map_err(AddError::DefaultDomain);
            }
            Current::Default => self.default.as_ref().map(|default| &default.domain),
            Current::Blocking => self.blocking.as_ref(),
            Current::Own(domain) => Some(domain),
        };
        if let Some(domain) = domain {
            let device = record.endpoint.name.clone();
            domain.attach(&record.endpoint).map_err(|cause| AddError::Switch(SwitchError { group, device, cause }))?;
            record.reach = Reach::Group;
        }
        Ok(())
    }

    /// A device goes; how many kernel uses it took along.
    fn leave(&mut self, member: &Member) -> u32 {
        if member.record(&mut self.members).is_none() {
            return 0;
        }
        let Some(record) = self.members.try_remove(member.key()) else { return 0 };
        for (pasid, domain) in &self.pasids {
            domain.detach_pasid(&record.endpoint, *pasid);
        }
        record.iommu.release(&record.endpoint);
        for _ in 0..record.uses {
            self.ownership.end_kernel_use();
        }
        if self.members.is_empty() {
            self.forget_domains();
        }
        record.uses
    }
}

impl Notifier for Iommu {
    /// Groups devices that come, and lets go those that are gone (I10, I18). That a device could not be grouped is
    /// tried again when a driver binds to it.
    fn notify(&self, event: &BusEvent<'_>) {
        match event {
            BusEvent::Added(dev) => {
                let _ = self.add_device(dev);
            }
            BusEvent::Removed(dev) => {
                if let Some(member) = Self::member(dev) {
                    self.remove(&member);
                }
                self.0.placing.forget(dev);
            }
            _ => {}
        }
    }
}

impl DmaConfigure for Iommu {
    /// One kernel use for a driver that uses the DMA API (Dt13.1). A device that no IOMMU serves is unprotected
    /// (D62); one whose IOMMU could not take it in is tried again, and refused if it still cannot.
    fn dma_configure(&self, dev: &DeviceGuard<'_>, api: DmaApi) -> Result<DmaUse, ProbeError> {
        let member = match Self::member(dev.device()) {
            Some(member) => Some(member),
            None => self.add_device(dev.device()).map_err(|error| ProbeError::caused_by(error.errno(), error))?,
        };
        match (api, member, dev.driver()) {
            (DmaApi::Kernel, Some(member), Some(driver)) => {
                KernelUse::begin(member, driver.name()).map(DmaUse::holding).map_err(refuse)
            }
            _ => Ok(DmaUse::unguarded()),
        }
    }
}

fn refuse(error: UseError) -> ProbeError {
    match error {
        UseError::NoDefaultDomain { .. } => ProbeError::Deferred(device_model::Awaits::Anything),
        error => ProbeError::caused_by(error.errno(), error),
    }
}

/// Group numbers in use; the lowest free one is given out next.
#[derive(Debug, Default)]
struct Numbers {
    next: u32,
    free: BTreeSet<u32>,
}

/// A group number, given back when dropped.
pub(crate) struct GroupNumber {
    id: GroupId,
    numbers: Arc<Mutex<Numbers>>,
}

impl GroupNumber {
    fn take(numbers: &Arc<Mutex<Numbers>>) -> Self {
        let mut locked = numbers.lock();
        let number = locked.free.pop_first().unwrap_or_else(|| {
            locked.next = locked.next.wrapping_add(1);
            locked.next.wrapping_sub(1)
        });
        Self { id: GroupId::new(number), numbers: numbers.clone() }
    }

    pub(crate) fn id(&self) -> GroupId {
        self.id
    }
}

impl Drop for GroupNumber {
    fn drop(&mut self) {
        self.numbers.lock().free.insert(self.id.get());
    }
}
