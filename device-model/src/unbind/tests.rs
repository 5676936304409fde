//! V13: a driver that waits asks its users again and again. Here the user leaves only when asked for the third time.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use crate::platform::{PlatformBus, PlatformDevice};
use crate::sync::{Mutex, UserGuard, Users};
use crate::{
    BoundTo, BusHandle, DeviceSpec, Driver, DriverCore, DriverManaged, ProbeError, Removal, Unprotected,
};

type Platform = PlatformBus<Unprotected>;

struct Asking {
    name: Arc<str>,
    users: Arc<Users>,
    user: Mutex<Option<UserGuard>>,
    asked: AtomicU32,
}

impl Driver<Platform> for Asking {
    type Dma = DriverManaged;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn probe(&self, _dev: &mut BoundTo<'_, Platform, DriverManaged>) -> Result<(), ProbeError> {
        Ok(())
    }

    fn remove(&self, _dev: &mut BoundTo<'_, Platform, DriverManaged>, _attempt: u32) -> Removal {
        self.users.close();
        if self.users.inside() == 0 {
            return Removal::Done;
        }
        if self.asked.fetch_add(1, Ordering::Relaxed) == 2 {
            let user = self.user.lock().take();
            drop(user);
        }
        Removal::Waiting(self.users.clone())
    }
}

/// A device that is in use, and its driver.
#[expect(clippy::unwrap_used, reason = "what a test takes for granted may fail it")]
fn scene() -> (DriverCore, BusHandle<Platform>, Arc<Asking>) {
    let users = Arc::new(Users::new());
    let user = Mutex::new(users.enter());
    let driver = Arc::new(Asking { name: "asking".into(), users, user, asked: AtomicU32::new(0) });
    let core = DriverCore::new();
    let bus = core.add_bus(PlatformBus::new(Unprotected));
    bus.add_driver(driver.clone()).unwrap();
    bus.add_device(DeviceSpec::new("asking.0", PlatformDevice::default())).unwrap();
    (core, bus, driver)
}

#[test]
fn a_wait_asks_until_the_user_leaves() {
    let (_core, bus, driver) = scene();
    bus.sysfs().unbind("asking", "asking.0").unwrap().wait();
    assert_eq!(driver.asked.load(Ordering::Relaxed), 3);
}

#[test]
fn a_wait_for_some_time_asks_as_well() {
    let (_core, bus, driver) = scene();
    bus.sysfs().unbind("asking", "asking.0").unwrap().wait_for(Duration::MAX).unwrap();
    assert_eq!(driver.asked.load(Ordering::Relaxed), 3);
}

#[test]
fn a_wait_that_is_over_before_asks_once() {
    let (_core, bus, driver) = scene();
    let left = bus.sysfs().unbind("asking", "asking.0").unwrap().wait_for(Duration::ZERO).unwrap_err();
    assert_eq!(driver.asked.load(Ordering::Relaxed), 1);
    left.wait();
    assert_eq!(driver.asked.load(Ordering::Relaxed), 3);
}
