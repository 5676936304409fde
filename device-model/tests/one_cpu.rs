//! Without std, on one CPU without preemption: whoever waits lets the others run, and all come to their end.
#![cfg(all(not(feature = "std"), not(shuttle)))]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use device_model::platform::{PlatformBus, PlatformDevice};
use device_model::sync::Users;
use device_model::{BoundTo, Device, DeviceSpec, DmaApi, Driver, DriverCore, ProbeError, Removal, Unprotected};
use dma_locks::one_cpu::{OneCpu, run, yield_now};

dma_locks::provide!(OneCpu);

const SEEDS: u32 = 200;

type Bus = PlatformBus<Unprotected>;

/// Gives the CPU away in every callback.
struct Slow {
    name: Arc<str>,
    inside: AtomicUsize,
}

impl Driver<Bus> for Slow {
    type Dma = DmaApi;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn probe(&self, dev: &mut BoundTo<'_, Bus, DmaApi>) -> Result<(), ProbeError> {
        assert_eq!(self.inside.fetch_add(1, Ordering::Relaxed), 0, "two callbacks of one device at a time");
        yield_now();
        self.inside.fetch_sub(1, Ordering::Relaxed);
        dev.manage(Arc::new(Users::new()));
        Ok(())
    }

    fn remove(&self, dev: &mut BoundTo<'_, Bus, DmaApi>, _attempt: u32) -> Removal {
        yield_now();
        let users = dev.resource::<Arc<Users>>().unwrap();
        users.close();
        if users.inside() == 0 { Removal::Done } else { Removal::Waiting(users.clone()) }
    }
}

fn open(dev: &Arc<Device<Bus>>) {
    let users = dev.lock().resource::<Arc<Users>>().cloned();
    let user = users.and_then(|users| users.enter());
    yield_now();
    drop(user);
}

#[test]
fn a_device_is_bound_opened_and_unbound() {
    for seed in 0..SEEDS {
        let bus = DriverCore::new().add_bus(PlatformBus::new(Unprotected));
        bus.set_drivers_autoprobe(false);
        let slow = Arc::new(Slow { name: "slow".into(), inside: AtomicUsize::new(0) });
        let driver = bus.add_driver(slow).unwrap();
        let dev = bus.add_device(DeviceSpec::new("slow.0", PlatformDevice::default())).unwrap();
        let bind = || {
            for _ in 0..3 {
                let _ = bus.bind(&driver, &dev);
                open(&dev);
            }
        };
        let unbind = || {
            for _ in 0..3 {
                if let Ok(unbind) = bus.unbind(&driver, &dev) {
                    unbind.wait();
                }
                yield_now();
            }
        };
        let use_it = || (0..3).for_each(|_| open(&dev));
        run(seed, vec![Box::new(bind), Box::new(unbind), Box::new(use_it), Box::new(bind)]);
        dev.remove().wait();
    }
}

#[test]
fn users_are_waited_for() {
    for seed in 0..SEEDS {
        let users = Arc::new(Users::new());
        let enter = || {
            for _ in 0..3 {
                let user = users.enter();
                yield_now();
                drop(user);
            }
        };
        let wait = || {
            yield_now();
            users.close();
            users.wait();
            assert_eq!(users.inside(), 0);
        };
        run(seed, vec![Box::new(enter), Box::new(wait), Box::new(enter), Box::new(wait)]);
        assert!(users.enter().is_none());
    }
}
