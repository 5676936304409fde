//! Nothing is allocated in the steady state: by binding, unbinding, and refusals.
#![cfg(not(any(shuttle, lock_order)))]

#[cfg(not(feature = "std"))]
dma_locks::provide!(dma_locks::Spinning);

use std::sync::atomic::{AtomicUsize, Ordering};

use allocation_counter::measure;
use device_model::platform::{PlatformBus, PlatformDevice};
use device_model::sync::Arc;
use device_model::{
    BoundTo, BusEvent, DeviceSpec, DmaApi, DmaConfigure, DmaDevice, Driver, DriverCore, Errno, ProbeError,
};

/// Guards DMA, and refuses it when it is told to.
#[derive(Default)]
struct Guard {
    refuses: AtomicUsize,
}

impl DmaConfigure<PlatformDevice> for Guard {
    type Slot = ();
    type Use = ();
    type Error = ProbeError;

    fn dma_configure(&self, _dev: DmaDevice<'_, PlatformDevice, ()>) -> Result<(), ProbeError> {
        Ok(())
    }

    fn use_default_domain(
        &self,
        _dev: DmaDevice<'_, PlatformDevice, ()>,
        _driver: &Arc<str>,
    ) -> Result<(), ProbeError> {
        if self.refuses.load(Ordering::SeqCst) > 0 { Err(ProbeError::errno_only(Errno::EBUSY)) } else { Ok(()) }
    }
}

type Platform = PlatformBus<Arc<Guard>>;

struct Plain(Arc<str>);

impl Driver<Platform> for Plain {
    type Dma = DmaApi;

    fn name(&self) -> &Arc<str> {
        &self.0
    }

    fn probe(&self, dev: &mut BoundTo<'_, Platform, DmaApi>) -> Result<(), ProbeError> {
        if dev.device().name().ends_with(".broken") { Err(ProbeError::errno_only(Errno::EIO)) } else { Ok(()) }
    }
}

#[track_caller]
fn allocates_nothing<T>(what: &str, mut work: impl FnMut() -> T) {
    drop(work());
    let counted = measure(|| drop(work()));
    assert_eq!(counted.count_total, 0, "{what}: {counted:?}");
}

#[test]
fn binding_unbinding_and_refusals_allocate_nothing() {
    let guard = Arc::new(Guard::default());
    let bus = DriverCore::new().add_bus(PlatformBus::new(guard.clone()));
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = heard.clone();
    let _subscription = bus.subscribe(move |_: &BusEvent<'_, Platform>| {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    bus.set_drivers_autoprobe(false);
    let [k, v] = ["k", "v"].map(|name| bus.add_driver(Arc::new(Plain(name.into()))).expect("the name is free"));
    let device =
        |name: &str| bus.add_device(DeviceSpec::new(name, PlatformDevice::default())).expect("the name is free");
    let (dev, broken) = (device("k.0"), device("k.broken"));

    allocates_nothing("bind and unbind", || {
        bus.bind(&k, &dev).expect("it is free");
        bus.unbind(&k, &dev).expect("it is bound").wait();
    });
    allocates_nothing("bind and unbind by name", || {
        bus.sysfs().bind("k", "k.0").expect("it is free");
        bus.sysfs().unbind("k", "k.0").expect("it is bound").wait();
    });
    allocates_nothing("a probe that fails", || bus.bind(&k, &broken).expect_err("it fails"));
    allocates_nothing("a driver that does not match", || bus.bind(&v, &dev).expect_err("it does not match"));
    allocates_nothing("an unbind of what is not bound", || bus.unbind(&v, &dev).expect_err("it is not bound"));
    allocates_nothing("a search that finds a driver", || {
        bus.drivers_probe(&dev).expect("k binds");
        bus.unbind(&k, &dev).expect("it is bound").wait();
    });
    guard.refuses.store(1, Ordering::SeqCst);
    allocates_nothing("DMA that is refused", || bus.bind(&k, &dev).expect_err("it is refused"));
    guard.refuses.store(0, Ordering::SeqCst);
    bus.bind(&k, &dev).expect("it is free");
    allocates_nothing("a device that is busy", || bus.bind(&k, &dev).expect_err("it has a driver"));
    assert!(heard.load(Ordering::SeqCst) > 0);
}
