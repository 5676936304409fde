//! Drivers come and go: table Dt8, D43, D46, D52.

use device_model::sync::Arc;
use device_model::{BindError, Errno, ProbeFailure, Progress, SysfsBindError};

use crate::rig::{Rig, StageDriver, open};

#[test]
fn a_driver_name_is_unique_on_its_bus() {
    // Dt8.2.
    let rig = Rig::new();
    rig.device("A");
    rig.driver(rig.actor("K").fits(&[]));
    let error = rig.bus.add_driver(Arc::new(rig.actor("K"))).expect_err("the name is taken");
    assert_eq!((error.errno(), &*error.name), (Errno::EBUSY, "K"));
    assert_eq!(rig.driver_of("A"), None);
    rig.another_bus("other").add_driver(Arc::new(rig.actor("K"))).expect("another bus, another name space");
}

#[test]
fn a_new_driver_takes_every_free_device_that_it_fits() {
    // Dt8.3, D28: in the order of the devices.
    let rig = Rig::new();
    for name in ["C", "A", "B"] {
        rig.device(name);
    }
    rig.driver(rig.actor("first").fits(&["A"]));
    rig.trace.take();
    rig.driver(rig.actor("K"));
    let probes: Vec<_> = rig.trace.take().into_iter().filter(|line| line.starts_with("probe")).collect();
    assert_eq!(probes, ["probe C K", "probe B K"]);
    assert_eq!(rig.bus.drivers().iter().map(|driver| driver.name().to_string()).collect::<Vec<_>>(), ["first", "K"]);
}

#[test]
fn without_autoprobe_a_driver_just_registers() {
    // D52.
    let rig = Rig::new();
    rig.device("A");
    rig.bus.set_drivers_autoprobe(false);
    rig.driver(rig.actor("K"));
    assert!(rig.bus.driver("K").is_some());
    assert_eq!(rig.driver_of("A"), None);
}

#[test]
fn an_unregistered_driver_leaves_the_last_bound_device_first() {
    // Dt8.6, D43.
    let rig = Rig::new();
    rig.bus.set_drivers_autoprobe(false);
    rig.driver(rig.actor("K"));
    for name in ["A", "B", "C"] {
        rig.device(name);
    }
    for name in ["B", "C", "A"] {
        rig.bus.sysfs().bind("K", name).expect("it matches");
    }
    rig.trace.take();
    rig.remove_driver("K").expect("it is registered").wait();
    rig.expect(&[
        "UNBIND A K",
        "remove A K",
        "unuse A",
        "UNBOUND A -",
        "UNBIND C K",
        "remove C K",
        "unuse C",
        "UNBOUND C -",
        "UNBIND B K",
        "remove B K",
        "unuse B",
        "UNBOUND B -",
    ]);
    assert!(rig.bus.driver("K").is_none());
}

#[test]
fn the_devices_of_a_leaving_driver_go_to_nobody_else() {
    // An unbind is not followed by a search; the next event is.
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    rig.driver(rig.actor("V"));
    rig.device("A");
    rig.remove_driver("K").expect("it is registered").wait();
    assert_eq!(rig.driver_of("A"), None);
    rig.bus.sysfs().drivers_probe("A").expect("V binds");
    assert_eq!(rig.driver_of("A").as_deref(), Some("V"));
}

#[test]
fn unregistering_what_is_not_registered_is_told() {
    // Dt8.7.
    let rig = Rig::new();
    assert!(rig.remove_driver("K").is_none());
    rig.driver(rig.actor("K"));
    rig.remove_driver("K").expect("it is registered").wait();
    assert!(rig.remove_driver("K").is_none());
    rig.driver(rig.actor("K"));
    assert!(rig.bus.driver("K").is_some());
}

#[test]
fn an_unregistration_that_is_not_driven_changes_nothing() {
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    drop(rig.remove_driver("K").expect("it is registered"));
    rig.device("A");
    assert_eq!(rig.driver_of("A").as_deref(), Some("K"));
    assert!(!rig.bus.driver("K").expect("it is registered").is_leaving());
}

#[test]
fn a_driver_takes_nothing_from_the_moment_it_is_being_unregistered() {
    // D46. Its name is taken until the last device has gone.
    let rig = Rig::new();
    rig.driver(rig.actor("K").open_to_users());
    let user = open(&rig.device("A"));
    let mut leaving = rig.remove_driver("K").expect("it is registered");
    assert!(matches!(leaving.try_finish(), Progress::Waiting { .. }));
    rig.device("B");
    assert_eq!(rig.driver_of("B"), None);
    assert_eq!(rig.bus.sysfs().bind("K", "B").expect_err("it is leaving").errno(), Errno::ENODEV);
    assert_eq!(rig.bus.add_driver(Arc::new(rig.actor("K"))).expect_err("it is not gone").errno(), Errno::EBUSY);
    drop(user);
    leaving.wait();
    assert_eq!(rig.driver_of("A"), None);
    rig.bus.add_driver(Arc::new(rig.actor("K"))).expect("the name is free again");
}

#[test]
fn an_unregistration_that_was_given_up_is_taken_up_again() {
    // The driver is found by its name all the while, and so are its devices.
    for second in ["remove_driver", "unbind"] {
        let rig = Rig::new();
        rig.driver(rig.actor("K").open_to_users());
        let (a, b) = (rig.device("A"), rig.device("B"));
        let user = open(&b);
        let mut leaving = rig.remove_driver("K").expect("it is registered");
        assert!(matches!(leaving.try_finish(), Progress::Waiting { .. }));
        drop((leaving, user));
        assert!(b.lock().driver().is_none(), "completed by the lock");
        let driver = rig.bus.driver("K").expect("it is leaving, not gone");
        assert!(driver.is_leaving() && a.lock().is_bound());
        if second == "unbind" {
            rig.bus.unbind(&driver, &a).expect("it is bound").wait();
            assert!(a.lock().driver().is_none());
        }
        rig.bus.remove_driver(&driver).wait();
        assert!(a.lock().driver().is_none() && rig.bus.driver("K").is_none());
        rig.bus.remove_driver(&driver).wait();
    }
}

#[test]
fn a_search_that_meets_a_leaving_driver_goes_on_to_the_next() {
    // The driver was on the list when the search began and is not any more when its turn comes.
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    let bus = rig.bus.clone();
    rig.driver(rig.actor("first").failing(Errno::EIO));
    rig.remove_driver("K").expect("it is registered").wait();
    rig.driver(rig.actor("leaving").probing(move |_| {
        // Somebody unregisters the next driver in the meantime.
        if let Some(next) = bus.driver("next") {
            bus.remove_driver(&next).wait();
        }
        Err(device_model::ProbeError::errno_only(Errno::EIO))
    }));
    rig.driver(rig.actor("next"));
    rig.driver(rig.actor("last"));
    rig.device("A");
    assert_eq!(rig.driver_of("A").as_deref(), Some("last"));
}

#[test]
fn a_bind_that_meets_a_leaving_driver_is_refused() {
    // The bus is asked for a match, and there the driver is unregistered.
    let rig = Rig::new();
    rig.bus.set_drivers_autoprobe(false);
    rig.device("A");
    let bus = rig.bus.clone();
    rig.driver(rig.actor("K").matching(move |_| {
        bus.remove_driver(&bus.driver("K").expect("it is registered")).wait();
        device_model::Match::Yes
    }));
    let error = rig.bus.sysfs().bind("K", "A").expect_err("the driver has gone");
    assert_eq!(error.errno(), Errno::ENODEV);
    assert!(matches!(error, SysfsBindError::Bind(BindError::Refused { cause: ProbeFailure::DriverGone, .. })));
    assert_eq!(rig.trace.count("probe A K"), 0);
}

#[test]
fn nobody_keeps_an_unregistered_driver() {
    let rig = Rig::new();
    let driver: Arc<dyn StageDriver> = Arc::new(rig.actor("K"));
    rig.bus.add_driver(driver.clone()).expect("the name is free");
    rig.device("A");
    rig.remove_driver("K").expect("it is registered").wait();
    assert_eq!(Arc::strong_count(&driver), 1);
}
