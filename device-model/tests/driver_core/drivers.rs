//! Drivers come and go: table Dt8, D43, D46, D52.

use device_model::sync::Arc;
use device_model::{Autoprobe, Errno, ProbeFailure};

use crate::rig::Rig;

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
    assert_eq!(rig.bus.drivers().iter().map(ToString::to_string).collect::<Vec<_>>(), ["first", "K"]);
}

#[test]
fn without_autoprobe_a_driver_just_registers() {
    // D52.
    let rig = Rig::new();
    rig.device("A");
    rig.bus.set_autoprobe(Autoprobe::Off);
    rig.driver(rig.actor("K"));
    assert!(rig.bus.has_driver("K"));
    assert_eq!(rig.driver_of("A"), None);
}

#[test]
fn an_unregistered_driver_leaves_the_last_bound_device_first() {
    // Dt8.6, D43.
    let rig = Rig::new();
    rig.bus.set_autoprobe(Autoprobe::Off);
    rig.driver(rig.actor("K"));
    for name in ["A", "B", "C"] {
        rig.device(name);
    }
    for name in ["B", "C", "A"] {
        rig.bus.bind("K", name).expect("it matches");
    }
    rig.trace.take();
    rig.bus.remove_driver("K").expect("it is registered").wait();
    rig.expect(&[
        "UNBIND A K",
        "remove A K",
        "dma_cleanup A",
        "UNBOUND A -",
        "UNBIND C K",
        "remove C K",
        "dma_cleanup C",
        "UNBOUND C -",
        "UNBIND B K",
        "remove B K",
        "dma_cleanup B",
        "UNBOUND B -",
    ]);
    assert!(!rig.bus.has_driver("K"));
}

#[test]
fn the_devices_of_a_leaving_driver_go_to_nobody_else() {
    // An unbind is not followed by a search; the next event is.
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    rig.driver(rig.actor("V"));
    rig.device("A");
    rig.bus.remove_driver("K").expect("it is registered").wait();
    assert_eq!(rig.driver_of("A"), None);
    rig.bus.drivers_probe("A").expect("V binds");
    assert_eq!(rig.driver_of("A").as_deref(), Some("V"));
}

#[test]
fn unregistering_what_is_not_registered_is_told() {
    // Dt8.7.
    let rig = Rig::new();
    assert!(rig.bus.remove_driver("K").is_none());
    rig.driver(rig.actor("K"));
    rig.bus.remove_driver("K").expect("it is registered").wait();
    assert!(rig.bus.remove_driver("K").is_none());
    rig.driver(rig.actor("K"));
    assert!(rig.bus.has_driver("K"));
}

#[test]
fn a_driver_takes_nothing_from_the_moment_it_is_unregistered() {
    // D46: even before the returned value is driven; what it has it keeps until then.
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    rig.device("A");
    let leaving = rig.bus.remove_driver("K").expect("it is registered");
    rig.device("B");
    assert_eq!(rig.driver_of("A").as_deref(), Some("K"));
    assert_eq!(rig.driver_of("B"), None);
    assert_eq!(rig.bus.bind("K", "B").expect_err("it has left the bus").errno(), Errno::ENOENT);
    leaving.wait();
    assert_eq!(rig.driver_of("A"), None);
}

#[test]
fn a_search_that_meets_a_leaving_driver_goes_on_to_the_next() {
    // The driver was on the list when the search began and is not any more when its turn comes.
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    let bus = rig.bus.clone();
    rig.driver(rig.actor("first").failing(Errno::EIO));
    rig.bus.remove_driver("K").expect("it is registered").wait();
    rig.driver(rig.actor("leaving").probing(move |_| {
        // Somebody unregisters the next driver in the meantime.
        if let Some(unbind) = bus.remove_driver("next") {
            unbind.wait();
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
    rig.bus.set_autoprobe(Autoprobe::Off);
    rig.device("A");
    let bus = rig.bus.clone();
    rig.driver(rig.actor("K").matching(move |_| {
        bus.remove_driver("K").expect("it is registered").wait();
        device_model::Match::Yes
    }));
    let error = rig.bus.bind("K", "A").expect_err("the driver has gone");
    assert_eq!(error.errno(), Errno::ENODEV);
    assert!(matches!(error, device_model::BindError::Refused { cause: ProbeFailure::DriverGone, .. }));
    assert_eq!(rig.trace.count("probe A K"), 0);
}

#[test]
fn nobody_keeps_an_unregistered_driver() {
    let rig = Rig::new();
    let driver: Arc<dyn device_model::Driver> = Arc::new(rig.actor("K"));
    rig.bus.add_driver(driver.clone()).expect("the name is free");
    rig.device("A");
    rig.bus.remove_driver("K").expect("it is registered").wait();
    assert_eq!(Arc::strong_count(&driver), 1);
}
