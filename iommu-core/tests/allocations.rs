//! In the steady state nothing is allocated: what bind, unbind, claim, attach and their opposites need is made when a
//! device, a driver or a domain is registered, and a refusal names the first few in place.
#![cfg(not(any(shuttle, lock_order)))]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::result_large_err,
    reason = "a test fails by panicking, and what it measures must not be boxed"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iommu_core::device_model::platform::{PlatformBus, PlatformDevice};
use iommu_core::device_model::{
    BoundTo, BusHandle, Device, DeviceSpec, DmaApi, Driver, DriverCore, DriverHandle, Errno, ProbeError,
};
use iommu_core::hardware::{
    DefaultDomainType, DomainKind, Endpoint, EndpointProperties, FaultSink, HardwareDomain, HardwareError, IommuDriver,
    PagingFlags, UserData,
};
use iommu_core::{Domain, Group, IommuSubsystem, Member, Owner, generic_single_device_group};

#[cfg(not(feature = "std"))]
dma_locks::provide!(dma_locks::Spinning);

std::thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count() {
    // Not counted when the thread ends: no test looks any more.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is that of the function called.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Does `work` with nothing allocated; `what` it is, for the message.
#[track_caller]
fn without_allocating<R>(what: &str, work: impl FnOnce() -> R) -> R {
    let before = ALLOCATIONS.get();
    let result = work();
    let allocated = ALLOCATIONS.get() - before;
    assert_eq!(allocated, 0, "{what} allocates");
    result
}

/// Lets all requests through or none, and refuses to attach while it is told to.
#[derive(Debug, Default)]
struct Plain {
    refuses: Arc<AtomicBool>,
}

#[derive(Debug)]
struct PlainDomain {
    refuses: Arc<AtomicBool>,
    kind: DomainKind,
}

impl IommuDriver for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn probe(&self, _dev: &Endpoint, _faults: Arc<dyn FaultSink>) -> Result<EndpointProperties, HardwareError> {
        Ok(EndpointProperties { max_pasids: 4, ..EndpointProperties::default() })
    }

    fn release(&self, _dev: &Endpoint) {}

    fn allocate(&self, kind: DomainKind, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        Ok(Box::new(PlainDomain { refuses: self.refuses.clone(), kind }))
    }

    fn allocate_for_user(
        &self,
        _flags: PagingFlags,
        _data: Option<UserData<'_>>,
        dev: &Endpoint,
    ) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        self.allocate(DomainKind::Paging, dev)
    }

    fn block(&self, _dev: &Endpoint) -> Result<(), HardwareError> {
        Ok(())
    }
}

impl HardwareDomain for PlainDomain {
    fn attach(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        if self.kind == DomainKind::Paging && self.refuses.load(Ordering::Relaxed) && dev.name.ends_with('2') {
            return Err(HardwareError::new(Errno::EIO, "refused"));
        }
        Ok(())
    }
}

type Bus = PlatformBus<IommuSubsystem>;

struct Uart(Arc<str>);

impl Driver<Bus> for Uart {
    type Dma = DmaApi;

    fn name(&self) -> &Arc<str> {
        &self.0
    }

    fn probe(&self, _dev: &mut BoundTo<'_, Bus, DmaApi>) -> Result<(), ProbeError> {
        Ok(())
    }
}

/// Five devices of one group, and a driver that is bound to none of them.
struct Rig {
    bus: BusHandle<Bus>,
    driver: DriverHandle<Bus>,
    devices: Vec<Arc<Device<Bus>>>,
    group: Arc<Group>,
    hardware: Arc<Plain>,
    iommu: IommuSubsystem,
}

impl Rig {
    fn new() -> Self {
        let hardware = Arc::new(Plain::default());
        let unit: Arc<dyn IommuDriver> = hardware.clone();
        let (iommu, _) = IommuSubsystem::builder(move |_: &Endpoint| Some(generic_single_device_group(&unit)))
            .default_domain(DefaultDomainType::Identity)
            .build();
        let bus = DriverCore::new().add_bus(PlatformBus::new(iommu.clone()));
        bus.set_drivers_autoprobe(false);
        let add = |i| bus.add_device(DeviceSpec::new(format!("uart.{i}"), PlatformDevice::default())).unwrap();
        let devices = (0..5).map(add).collect();
        let driver = bus.add_driver(Arc::new(Uart("uart".into()))).unwrap();
        let group = iommu.groups().pop().unwrap();
        let rig = Self { bus, driver, devices, group, hardware, iommu };
        // The first time may still grow what registration could not know.
        rig.bind_all();
        rig.unbind_all();
        rig
    }

    fn bind_all(&self) {
        for dev in &self.devices {
            self.bus.bind(&self.driver, dev).unwrap();
        }
    }

    fn unbind_all(&self) {
        for dev in &self.devices {
            self.bus.unbind(&self.driver, dev).unwrap().wait();
        }
    }

    fn member(&self, i: usize) -> Arc<Member> {
        self.iommu.member(self.devices[i].id()).unwrap()
    }

    fn domain(&self) -> Arc<Domain> {
        self.group.allocate_paging().unwrap()
    }
}

#[track_caller]
fn refused<T: Debug, E: Debug>(what: &str, attempt: impl Fn() -> Result<T, E>) -> E {
    without_allocating(what, attempt).expect_err(what)
}

#[test]
#[should_panic(expected = "a box allocates")]
fn an_allocation_is_seen() {
    without_allocating("a box", || Box::new(0));
}

#[test]
fn bind_and_unbind() {
    let rig = Rig::new();
    without_allocating("bind", || rig.bind_all());
    without_allocating("unbind", || rig.unbind_all());
}

#[test]
fn claim_and_release_of_a_group() {
    let (rig, owner) = (Rig::new(), Owner::new("vmm"));
    let claim = without_allocating("a claim", || rig.group.claim(&owner).unwrap());
    without_allocating("a release", || drop(claim));
}

#[test]
fn claim_and_release_of_devices() {
    let (rig, owner) = (Rig::new(), Owner::new("vmm"));
    let (first, second) = (rig.member(0), rig.member(1));
    let claims = without_allocating("claims", || (first.claim(&owner).unwrap(), second.claim(&owner).unwrap()));
    without_allocating("releases", || drop(claims));
}

#[test]
fn attach_replace_and_detach() {
    let rig = Rig::new();
    let claim = rig.group.claim(&Owner::new("vmm")).unwrap();
    let (first, second) = (rig.domain(), rig.domain());
    without_allocating("an attach", || claim.attach(&first).unwrap());
    without_allocating("a replacement", || claim.replace(&second).unwrap());
    without_allocating("a detach", || claim.detach());
    without_allocating("an attach", || claim.attach(&first).unwrap());
    without_allocating("the release of a group that is attached", || drop(claim));
}

#[test]
fn refused_claims() {
    let (rig, owner) = (Rig::new(), Owner::new("vmm"));
    rig.bind_all();
    let error = refused("a claim of a group in use", || rig.group.claim(&owner));
    assert_eq!(
        error.to_string(),
        "group 0 is used by kernel drivers: uart.0 (uart), uart.1 (uart), uart.2 (uart) and 2 more"
    );
    refused("a claim of a device of a group in use", || rig.member(0).claim(&owner));
    refused("a check", || rig.group.check_claim());
    rig.unbind_all();
    let _claim = rig.group.claim(&owner).unwrap();
    let other = Owner::new("another");
    refused("a claim of a group that is claimed", || rig.group.claim(&other));
    refused("a claim of a device that is claimed", || rig.member(0).claim(&other));
}

#[test]
fn refused_binds() {
    let rig = Rig::new();
    let claim = rig.group.claim(&Owner::new("vmm")).unwrap();
    let error = refused("a bind in a claimed group", || rig.bus.bind(&rig.driver, &rig.devices[0]));
    assert_eq!(error.errno(), Errno::EBUSY);
    drop(claim);
    rig.bind_all();
    refused("a bind of a bound device", || rig.bus.bind(&rig.driver, &rig.devices[0]));
    rig.unbind_all();
    refused("an unbind of a device without driver", || rig.bus.unbind(&rig.driver, &rig.devices[0]));
}

#[test]
fn refused_attaches() {
    let rig = Rig::new();
    let claim = rig.group.claim(&Owner::new("vmm")).unwrap();
    let (first, second) = (rig.domain(), rig.domain());
    rig.hardware.refuses.store(true, Ordering::Relaxed);
    let error = refused("an attach that hardware refuses", || claim.attach(&first));
    assert!(format!("{error:?}").contains("uart.2"), "{error:?}");
    rig.hardware.refuses.store(false, Ordering::Relaxed);
    claim.attach(&first).unwrap();
    refused("an attach over another", || claim.attach(&second));
    rig.hardware.refuses.store(true, Ordering::Relaxed);
    refused("a replacement that hardware refuses", || claim.replace(&second));
}
