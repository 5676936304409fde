//! What is dropped, abandoned, or comes again: devices are released once, no domain is freed under a device, and nobody is
//! taken for somebody else.
#![cfg(not(shuttle))]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what a test takes for granted may fail it")]

#[cfg(not(feature = "std"))]
dma_locks::provide!(dma_locks::Spinning);

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use iommu_core::address::{Access, Geometry, Iova, PageSizes, PhysAddr, Protection};
use iommu_core::device_model::pci::{ConfigSpace, PciFunction};
use iommu_core::device_model::sync::SpinMutex;
use iommu_core::device_model::{DeviceId, Errno};
use iommu_core::error::AddError;
use iommu_core::hardware::{
    Endpoint, EndpointProperties, FaultSink, Gather, HardwareDomain, HardwareError, IommuDriver, PageAnswer,
    PageRequest, PageRequestSink, PageRequests, Paging,
};
use iommu_core::{
    Attached, Claim, DefaultDomainType, DeviceGroup, Domain, DomainKind, DriverDomain, Group, GroupId, IommuSubsystem,
    KernelUse, MapError, Member, Owner, Ownership, PageRequestDelivery, PasidAttachment, PciGroups, PhysicalMemory,
    Transition, generic_device_group, generic_single_device_group,
};
use proptest::prelude::*;

/// What the hardware knows.
#[derive(Debug, Default)]
struct Books {
    /// How often each device was probed and released.
    served: BTreeMap<DeviceId, (u32, u32)>,
    /// Which domain each device reaches.
    attached: BTreeMap<DeviceId, usize>,
    /// Which domain devices reach by PASIDs.
    pasids: BTreeMap<(DeviceId, u32), usize>,
    /// Devices that deliver page requests.
    requesting: Vec<DeviceId>,
    domains: usize,
    freed_under_a_device: u32,
}

const HOME: Attached = Attached::Default(DefaultDomainType::Dma);

#[derive(Debug, Clone, Default)]
struct Unit {
    books: Arc<SpinMutex<Books>>,
    made: Arc<AtomicUsize>,
    /// The next attach, probe or allocation panics.
    bomb: Arc<AtomicBool>,
    /// Attaches fail.
    refuses: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Table {
    number: usize,
    unit: Unit,
}

impl Unit {
    fn new() -> (Self, Arc<dyn IommuDriver>) {
        let unit = Self::default();
        (unit.clone(), Arc::new(unit))
    }

    fn explode(&self) {
        assert!(!self.bomb.swap(false, Ordering::Relaxed), "a bomb");
    }

    /// Each device was probed once and released as often as this says, and no domain was freed too early.
    fn assert_released(&self, times: u32) {
        let books = self.books.lock();
        assert!(books.served.values().all(|&(probes, releases)| (probes, releases) == (1, times)), "{books:?}");
        assert_eq!(books.freed_under_a_device, 0);
    }
}

impl IommuDriver for Unit {
    fn name(&self) -> &'static str {
        "unit"
    }
    fn probe(&self, dev: &Endpoint, _faults: Arc<dyn FaultSink>) -> Result<EndpointProperties, HardwareError> {
        self.explode();
        self.books.lock().served.entry(dev.id).or_default().0 += 1;
        Ok(EndpointProperties { max_pasids: 16, ..EndpointProperties::default() })
    }
    fn release(&self, dev: &Endpoint) {
        let mut books = self.books.lock();
        books.served.entry(dev.id).or_default().1 += 1;
        books.attached.remove(&dev.id);
        books.pasids.retain(|(of, _), _| *of != dev.id);
    }
    fn allocate(&self, _kind: DomainKind, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        self.explode();
        self.books.lock().domains += 1;
        Ok(Box::new(Table { number: self.made.fetch_add(1, Ordering::Relaxed), unit: self.clone() }))
    }
    fn block(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        self.books.lock().attached.remove(&dev.id);
        Ok(())
    }
    fn page_requests(&self) -> Option<&dyn PageRequests> {
        Some(self)
    }
}

impl PageRequests for Unit {
    fn enable(&self, dev: &Endpoint, _sink: Arc<dyn PageRequestSink>) -> Result<(), HardwareError> {
        self.books.lock().requesting.push(dev.id);
        Ok(())
    }
    fn disable(&self, dev: &Endpoint) {
        self.books.lock().requesting.retain(|of| *of != dev.id);
    }
    fn answer(&self, _dev: &Endpoint, _pasid: Option<u32>, _index: u32, _answer: PageAnswer) {}
}

impl HardwareDomain for Table {
    fn attach(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        self.unit.explode();
        if self.unit.refuses.load(Ordering::Relaxed) {
            return Err(HardwareError::new(Errno::EIO, "no"));
        }
        self.unit.books.lock().attached.insert(dev.id, self.number);
        Ok(())
    }
    fn attach_pasid(&self, dev: &Endpoint, pasid: u32) -> Result<(), HardwareError> {
        self.unit.books.lock().pasids.insert((dev.id, pasid), self.number);
        Ok(())
    }
    fn detach_pasid(&self, dev: &Endpoint, pasid: u32) {
        self.unit.books.lock().pasids.remove(&(dev.id, pasid));
    }
    fn paging(&self) -> Option<&dyn Paging> {
        Some(self)
    }
}

impl Paging for Table {
    fn geometry(&self) -> Geometry {
        let page_sizes = PageSizes::from_bitmap(0x1000).unwrap();
        Geometry { page_sizes, first: Iova::new(0), last: Iova::new(0xffff_ffff) }
    }
    fn map_pages(
        &self,
        _iova: Iova,
        _phys: PhysAddr,
        _page_size: u64,
        count: usize,
        _protection: Protection,
    ) -> Result<usize, HardwareError> {
        Ok(count)
    }
    fn unmap_pages(&self, _iova: Iova, page: u64, count: usize, _: &mut Gather) -> Result<u64, HardwareError> {
        Ok(page * count as u64)
    }
    fn flush(&self, _gather: &Gather) -> Result<(), HardwareError> {
        Ok(())
    }
    fn flush_all(&self) -> Result<(), HardwareError> {
        Ok(())
    }
    fn iova_to_phys(&self, _iova: Iova) -> Option<PhysAddr> {
        None
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let mut books = self.unit.books.lock();
        books.domains -= 1;
        let reached = books.attached.values().chain(books.pasids.values()).any(|number| *number == self.number);
        books.freed_under_a_device += u32::from(reached);
    }
}

fn endpoint(number: u64) -> Endpoint {
    Endpoint::new(DeviceId::new(number), format!("dev{number}"))
}

/// A subsystem in which all devices share a group.
fn shared(iommu: &Arc<dyn IommuDriver>) -> (IommuSubsystem, PhysicalMemory) {
    let iommu = iommu.clone();
    IommuSubsystem::builder(move |_: &Endpoint| Some(generic_single_device_group(&iommu))).build()
}

fn add(iommu: &IommuSubsystem, number: u64) -> Arc<Member> {
    iommu.add_device(&endpoint(number)).unwrap().unwrap()
}

#[test]
fn groups_and_members_live_without_handles() {
    let (unit, iommu) = Unit::new();
    let (subsystem, _) = shared(&iommu);
    drop([1, 2].map(|number| add(&subsystem, number)));
    unit.assert_released(0);
    let group = subsystem.group(GroupId::new(0)).unwrap();
    assert_eq!((subsystem.groups().len(), group.members().len()), (1, 2));
    assert!(subsystem.member(DeviceId::new(2)).unwrap().is_present());
    let clone = subsystem.clone();
    drop(subsystem);
    unit.assert_released(0);
    drop(clone);
    unit.assert_released(1);
    assert!(group.is_empty() && group.attached() == Attached::Nothing);
    drop(group);
    assert_eq!(unit.books.lock().domains, 0);
}

#[test]
fn what_is_held_of_a_device_that_left_counts_nothing_for_the_next_of_its_name() {
    let (_unit, iommu) = Unit::new();
    let (subsystem, _) = shared(&iommu);
    let staying = add(&subsystem, 9);
    let group = staying.group();
    let old = add(&subsystem, 1);
    let old_use = KernelUse::begin(old.clone(), &"old".into()).unwrap();
    subsystem.remove(&old);
    let new = add(&subsystem, 1);
    let new_use = KernelUse::begin(new.clone(), &"new".into()).unwrap();
    drop(old_use);
    assert!(group.ownership().is_held() && group.claim(&Owner::new("vm")).is_err());
    assert_eq!((old.is_present(), new.is_present()), (false, true));
    subsystem.remove(&old);
    assert!(new.is_present(), "removing the old one again");
    assert!(KernelUse::begin(old.clone(), &"old".into()).is_err() && old.claim(&Owner::new("vm")).is_err());
    drop(new_use);

    // A claim of a group that has lost its devices is no claim of the next group.
    let claim = new.claim(&Owner::new("vm")).unwrap();
    subsystem.remove(&staying);
    subsystem.remove(&new);
    let next = add(&subsystem, 1);
    assert_eq!((next.group().ownership(), next.group().attached()), (Ownership::Idle, HOME));
    drop(claim);
    assert_eq!(next.group().attached(), HOME);
}

#[test]
fn a_device_is_in_one_group() {
    let (unit, iommu) = Unit::new();
    let (subsystem, _) = shared(&iommu);
    let member = subsystem.add_device_to(&endpoint(1), DeviceGroup::named(&iommu, "one")).unwrap();
    let error = subsystem.add_device_to(&endpoint(1), DeviceGroup::named(&iommu, "two")).unwrap_err();
    assert_eq!(error, AddError::Present { device: "dev1".into(), group: member.group().id() });
    assert_eq!((error.errno(), error.to_string().as_str()), (Errno::EBUSY, "dev1 is in group 0 already"));
    let again = subsystem.add_device(&endpoint(1)).unwrap().unwrap();
    assert!(Arc::ptr_eq(&again, &member));
    unit.assert_released(0);
}

#[test]
fn a_join_that_fails_or_unwinds_leaves_no_trace() {
    let (unit, iommu) = Unit::new();
    let (subsystem, _) = shared(&iommu);
    for number in 1..100 {
        if number % 2 == 0 {
            unit.refuses.store(true, Ordering::Relaxed);
            assert!(subsystem.add_device(&endpoint(number)).is_err());
            unit.refuses.store(false, Ordering::Relaxed);
        } else {
            unit.bomb.store(true, Ordering::Relaxed);
            assert!(catch_unwind(AssertUnwindSafe(|| subsystem.add_device(&endpoint(number)))).is_err());
        }
        assert!(subsystem.groups().is_empty() && subsystem.member(DeviceId::new(number)).is_none());
        let books = unit.books.lock();
        assert_eq!((books.domains, books.attached.len(), books.freed_under_a_device), (0, 0, 0));
        assert!(books.served.values().all(|(probes, releases)| probes == releases), "{books:?}");
    }
    assert_eq!(add(&subsystem, 1000).group().id(), GroupId::new(0), "numbers are given back");
}

#[test]
fn a_placement_that_unwinds_holds_nothing_up() {
    let (unit, iommu) = Unit::new();
    let bomb = Arc::new(AtomicBool::new(true));
    let (lit, served) = (bomb.clone(), iommu.clone());
    let (subsystem, _) = IommuSubsystem::builder(move |_: &Endpoint| {
        assert!(!lit.swap(false, Ordering::Relaxed), "a bomb");
        Some(generic_device_group(&served))
    })
    .build();
    assert!(catch_unwind(AssertUnwindSafe(|| subsystem.add_device(&endpoint(1)))).is_err());
    assert_eq!(add(&subsystem, 1).group().members().len(), 1);
    unit.assert_released(0);
}

/// An observer that always panics: what it was told of has happened or is undone, and nobody holds what nobody was given.
#[test]
fn an_observer_that_unwinds_leaves_no_claim_and_no_use() {
    let (_unit, iommu) = Unit::new();
    let panics = Arc::new(AtomicBool::new(false));
    let (watched, served) = (panics.clone(), iommu.clone());
    let (subsystem, _) = IommuSubsystem::builder(move |_: &Endpoint| Some(generic_single_device_group(&served)))
        .observer(move |_: &Transition<'_>| assert!(!watched.load(Ordering::Relaxed), "a bomb"))
        .build();
    let member = add(&subsystem, 1);
    let group = member.group();
    let owner = Owner::new("vm");
    let domain = group.allocate_paging().unwrap();
    let idle = |what: &str| {
        panics.store(false, Ordering::Relaxed);
        assert_eq!((group.ownership(), group.attached()), (Ownership::Idle, HOME), "{what}");
    };
    let unwinding = |what: &str, operation: &dyn Fn()| {
        panics.store(true, Ordering::Relaxed);
        assert!(catch_unwind(AssertUnwindSafe(operation)).is_err(), "{what}");
        idle(what);
    };
    unwinding("group claim", &|| drop(group.claim(&owner)));
    unwinding("device claim", &|| drop(member.claim(&owner)));
    unwinding("use", &|| drop(KernelUse::begin(member.clone(), &"nic".into())));
    unwinding("domain of a driver", &|| drop(member.attach_domain(&domain)));
    let held = Cell::new(Some(group.claim(&owner).unwrap()));
    unwinding("release", &|| drop(held.take()));
    let held = Cell::new(Some(KernelUse::begin(member.clone(), &"nic".into()).unwrap()));
    unwinding("end of a use", &|| drop(held.take()));
    let kernel_use = KernelUse::begin(member.clone(), &"nic".into()).unwrap();
    panics.store(true, Ordering::Relaxed);
    assert!(catch_unwind(AssertUnwindSafe(|| subsystem.remove(&member))).is_err());
    panics.store(false, Ordering::Relaxed);
    assert!(!member.is_present() && subsystem.groups().is_empty());
    drop(kernel_use);
    assert_eq!(group.ownership(), Ownership::Idle);
}

#[derive(Debug)]
struct Sink;

impl PageRequestSink for Sink {
    fn deliver(&self, request: PageRequest) -> Result<(), PageRequest> {
        Err(request)
    }
}

/// Page requests end with the claim that enabled them, with their guard, and with the device.
#[test]
fn page_requests_end_with_their_claim() {
    let (unit, iommu) = Unit::new();
    let (subsystem, _) = shared(&iommu);
    let members = [1, 2].map(|number| add(&subsystem, number));
    let requesting = || unit.books.lock().requesting.clone();
    let owner = Owner::new("vm");
    let claims = [&members[0], &members[1]].map(|member| member.claim(&owner).unwrap());
    let first = claims[0].enable_page_requests(&members[0], Arc::new(Sink)).unwrap();
    let second = claims[1].enable_page_requests(&members[1], Arc::new(Sink)).unwrap();
    assert_eq!(requesting(), [1, 2].map(DeviceId::new));
    let [claim, other] = claims;
    drop(claim);
    assert_eq!(requesting(), [DeviceId::new(2)], "the owner has another claim");
    let again = other.enable_page_requests(&members[0], Arc::new(Sink)).unwrap();
    drop(first);
    assert_eq!(requesting(), [2, 1].map(DeviceId::new), "a guard ends its own delivery only");
    drop(again);
    assert_eq!(requesting(), [DeviceId::new(2)]);
    subsystem.remove(&members[1]);
    assert!(requesting().is_empty());
    assert_eq!(other.enable_page_requests(&members[1], Arc::new(Sink)).unwrap_err().errno, Errno::ENODEV);
    drop((second, other));
    let elsewhere = subsystem.add_device_to(&endpoint(3), DeviceGroup::named(&iommu, "other")).unwrap();
    let claim = members[0].claim(&owner).unwrap();
    assert_eq!(claim.enable_page_requests(&elsewhere, Arc::new(Sink)).unwrap_err().errno, Errno::EINVAL);
}

/// Functions of two segments behind two units share no group, though each is the first of its topology.
#[test]
fn two_units_never_share_a_group() {
    let units = [(); 2].map(|()| Unit::new().1);
    let groups = [PciGroups::new(), PciGroups::new()];
    let served = units.clone();
    let (subsystem, _) = IommuSubsystem::builder(move |dev: &Endpoint| {
        let segment = usize::from(dev.description::<PciFunction>()?.address.domain() != 0);
        groups[segment].pci_device_group(&served[segment], dev)
    })
    .build();
    let members = ["0000:00:01.0", "0001:00:01.0"].map(|name| {
        let function = PciFunction::new(name.parse().unwrap(), ConfigSpace::builder().ids(1, 2).build());
        let id = DeviceId::new(u64::from(name.as_bytes()[3]));
        let dev = Endpoint::new(id, name).with_description(Arc::new(function));
        subsystem.add_device(&dev).unwrap().unwrap()
    });
    assert_ne!(members[0].group().id(), members[1].group().id());
    let named = ["one", "two"].map(|name| {
        let unit = &units[usize::from(name == "two")];
        subsystem.add_device_to(&endpoint(u64::from(name.as_bytes()[1])), DeviceGroup::named(unit, "same")).unwrap()
    });
    assert!(!Arc::ptr_eq(named[0].group(), named[1].group()));
}

/// Only who built the subsystem can map physical memory through its domains.
#[test]
fn the_right_to_map_is_of_one_subsystem() {
    let (_unit, iommu) = Unit::new();
    let ((subsystem, right), (_, other)) = (shared(&iommu), shared(&iommu));
    let domain = add(&subsystem, 1).group().allocate_paging().unwrap();
    let map =
        |right: &PhysicalMemory| domain.map(right, Iova::new(0x1000), PhysAddr::new(0x1000), 0x1000, Access::Read);
    assert_eq!(map(&other), Err(MapError::NoRight));
    assert_eq!(map(&other).unwrap_err().errno(), Errno::EPERM);
    assert_eq!(map(&right), Ok(()));
}

/// Everything that can be held.
enum Handle {
    Member(#[expect(dead_code, reason = "held for the sake of its end")] Arc<Member>),
    Group(#[expect(dead_code, reason = "held for the sake of its end")] Arc<Group>),
    Domain(#[expect(dead_code, reason = "held for the sake of its end")] Arc<Domain>),
    Use(#[expect(dead_code, reason = "held for the sake of its end")] KernelUse),
    Claim(Claim),
    DriverDomain(#[expect(dead_code, reason = "held for the sake of its end")] DriverDomain),
    Pasid(#[expect(dead_code, reason = "held for the sake of its end")] PasidAttachment),
    Requests(#[expect(dead_code, reason = "held for the sake of its end")] PageRequestDelivery),
    Subsystem(#[expect(dead_code, reason = "held for the sake of its end")] IommuSubsystem),
}

/// Memory that stays pinned until this is dropped.
struct Pin(Arc<AtomicUsize>);

impl Pin {
    fn new(pins: &Arc<AtomicUsize>) -> Self {
        pins.fetch_add(1, Ordering::Relaxed);
        Self(pins.clone())
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What to do with a device, and with the handle that is drawn.
type Step = (usize, u8, prop::sample::Index);

/// The handle that a step makes, if it makes one.
fn make(
    what: u8,
    member: &Arc<Member>,
    subsystem: &IommuSubsystem,
    handles: &[Handle],
    pins: &Arc<AtomicUsize>,
) -> Option<Handle> {
    let owner = handles.iter().find_map(|handle| match handle {
        Handle::Claim(claim) if Arc::ptr_eq(claim.group(), member.group()) => {
            claim.group().ownership().owner().cloned()
        }
        _ => None,
    });
    let owner = owner.unwrap_or_else(|| Owner::new("owner"));
    let claim = handles.iter().find_map(|handle| match handle {
        Handle::Claim(claim) if Arc::ptr_eq(claim.group(), member.group()) => Some(claim),
        _ => None,
    });
    Some(match what {
        0 => Handle::Member(member.clone()),
        1 => Handle::Group(member.group().clone()),
        2 => Handle::Domain(member.group().default_domain()?),
        3 => Handle::Use(KernelUse::begin(member.clone(), &"nic".into()).ok()?),
        4 => Handle::Claim(member.claim(&owner).ok()?),
        5 => Handle::DriverDomain(member.attach_domain(&member.group().allocate_paging().ok()?).ok()?),
        6 => Handle::Pasid(member.attach_pasid(&member.group().allocate_paging().ok()?, 1).ok()?),
        7 => Handle::Requests(claim?.enable_page_requests(member, Arc::new(Sink)).ok()?),
        8 => Handle::Subsystem(subsystem.clone()),
        9 => {
            let domain = member.group().allocate_paging().ok()?;
            // Hardware refused to unmap this.
            domain.quarantine(Pin::new(pins));
            claim?.replace(&domain).ok()?;
            Handle::Domain(domain)
        }
        _ => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Handles of every kind are made, and dropped in any order, the subsystem's among them, while devices leave.
    #[test]
    fn handles_are_dropped_in_any_order(
        steps in proptest::collection::vec((0..4_usize, 0..14_u8, any::<prop::sample::Index>()), 1..60),
    ) {
        drop_in_order(&steps);
    }
}

fn drop_in_order(steps: &[Step]) {
    let (unit, iommu) = Unit::new();
    let (subsystem, _) = shared(&iommu);
    let pins = Arc::new(AtomicUsize::new(0));
    let members: Vec<_> = (0..4)
        .map(|number| {
            let group = DeviceGroup::named(&iommu, if number < 3 { "many" } else { "alone" });
            subsystem.add_device_to(&endpoint(number), group).unwrap()
        })
        .collect();
    let mut subsystem = Some(subsystem);
    let mut removed = [false; 4];
    let mut handles: Vec<Handle> = Vec::new();
    for &(device, what, which) in steps {
        match (what, &subsystem) {
            (10, Some(subsystem)) => {
                subsystem.remove(&members[device]);
                removed[device] = true;
            }
            (11, Some(_)) if which.index(8) == 0 => subsystem = None,
            (0..10, Some(subsystem)) => handles.extend(make(what, &members[device], subsystem, &handles, &pins)),
            _ if handles.is_empty() => {}
            _ => drop(handles.swap_remove(which.index(handles.len()))),
        }
        let alive = subsystem.is_some() || handles.iter().any(|handle| matches!(handle, Handle::Subsystem(_)));
        let books = unit.books.lock();
        for (device, member) in members.iter().enumerate() {
            let expected = u32::from(removed[device] || !alive);
            assert_eq!(books.served[&member.device()], (1, expected), "releases of {member:?}");
        }
        assert_eq!(books.freed_under_a_device, 0);
    }
    drop(handles);
    drop(subsystem);
    let groups: Vec<_> = members.iter().map(|member| member.group().clone()).collect();
    drop(members);
    for group in &groups {
        assert_eq!((group.ownership(), group.attached()), (Ownership::Idle, Attached::Nothing));
    }
    drop(groups);
    unit.assert_released(1);
    let books = unit.books.lock();
    assert_eq!((books.domains, books.requesting.len(), pins.load(Ordering::Relaxed)), (0, 0, 0));
}
