//! Binding by name, as sysfs does: tables Dt9, Dt10 and Dt11, D47 to D51.

use device_model::{
    Awaits, BindError, BusEvent, DriversProbeError, Errno, Match, ProbeError, ProbeFailure, SysfsBindError,
    SysfsUnbindError,
};

use crate::rig::{Rig, Stage, anything, supplier};

/// A rig on which nothing binds of itself, with a device A.
fn quiet() -> Rig {
    let rig = Rig::new();
    rig.bus.set_drivers_autoprobe(false);
    rig.device("A");
    rig.trace.take();
    rig
}

fn refusal(rig: &Rig, driver: &str) -> (Errno, ProbeFailure<ProbeError>) {
    let error = rig.bus.sysfs().bind(driver, "A").expect_err("it is refused");
    let errno = error.errno();
    let SysfsBindError::Bind(BindError::Refused { cause, .. }) = error else { unreachable!("{error} is no refusal") };
    (errno, cause)
}

#[test]
fn bind_succeeds_whatever_autoprobe_says() {
    // Dt9.11, D48.
    let rig = quiet();
    rig.driver(rig.actor("K"));
    rig.bus.sysfs().bind("K", "A").expect("it matches");
    rig.expect(&["dma_configure A", "use A K", "BIND A K", "probe A K", "BOUND A K"]);
}

#[test]
fn bind_knows_names_and_matches() {
    // Dt9.1, Dt9.2; an unregistered driver has no folder to write to.
    let rig = quiet();
    rig.driver(rig.actor("K").fits(&[]));
    let error = rig.bus.sysfs().bind("K", "nobody").expect_err("no such device");
    assert!(matches!(&error, SysfsBindError::NoDevice { .. }) && error.errno() == Errno::ENODEV);
    let error = rig.bus.sysfs().bind("K", "A").expect_err("K fits nothing");
    assert!(matches!(&error, SysfsBindError::Bind(BindError::NoMatch { .. })) && error.errno() == Errno::ENODEV);
    let error = rig.bus.sysfs().bind("nobody", "A").expect_err("no such driver");
    assert!(matches!(&error, SysfsBindError::NoDriver { .. }) && error.errno() == Errno::ENOENT);
    rig.expect(&[]);
}

#[test]
fn bind_takes_a_match_that_cannot_tell_as_one() {
    // Dt9.3.
    for answer in [Match::Deferred(Awaits::Anything), Match::Failed(Errno::EIO)] {
        let rig = quiet();
        rig.driver(rig.actor("K").matching(move |_| answer.clone()));
        rig.bus.sysfs().bind("K", "A").expect("the probe decides");
    }
}

#[test]
fn bind_is_busy_when_there_is_a_driver_even_the_same() {
    // Dt9.4; D47: the error says which of the reasons for EBUSY it is.
    let rig = quiet();
    rig.driver(rig.actor("K"));
    rig.driver(rig.actor("V"));
    rig.bus.sysfs().bind("K", "A").expect("it matches");
    rig.trace.take();
    for driver in ["K", "V"] {
        let (errno, cause) = refusal(&rig, driver);
        assert_eq!(errno, Errno::EBUSY);
        assert!(matches!(cause, ProbeFailure::HasDriver { driver } if &*driver == "K"));
    }
    rig.expect(&[]);
}

#[test]
fn bind_finds_no_device_that_is_being_removed() {
    // Dt9.5: DEL is heard while the device is dying but still known by name.
    let rig = quiet();
    rig.driver(rig.actor("K"));
    let (bus, trace) = (rig.bus.clone(), rig.trace.clone());
    let _subscription = rig.bus.subscribe(move |event: &BusEvent<'_, Stage>| {
        if let BusEvent::Deleting(_) = event {
            let error = bus.sysfs().bind("K", "A").expect_err("it is dying");
            trace.write(format!("{error}: {}", error.errno()));
        }
    });
    let a = rig.bus.device("A").expect("it is there");
    a.remove().wait();
    rig.expect(&["DEL A", "cannot bind K to A: ENODEV", "REMOVED A"]);
    assert_eq!(rig.bus.sysfs().bind("K", "A").expect_err("it is gone").errno(), Errno::ENODEV);
}

#[test]
fn bind_asks_to_come_back_before_the_device_is_ready() {
    // Dt9.6, D7: EAGAIN, and the device is not put on the list of those that wait.
    let rig = Rig::new();
    rig.bus.set_drivers_autoprobe(false);
    rig.driver(rig.actor("K"));
    let (bus, core, trace) = (rig.bus.clone(), rig.core.clone(), rig.trace.clone());
    let _subscription = rig.bus.subscribe(move |event: &BusEvent<'_, Stage>| {
        if let BusEvent::Added(dev) = event {
            let error = bus.sysfs().bind("K", dev.name()).expect_err("it is not ready");
            trace.write(format!("{} and {} wait", error.errno(), core.deferred().len()));
            let error = bus.sysfs().drivers_probe(dev.name()).expect_err("it is not ready");
            trace.write(format!("{} and {} wait", error.errno(), core.deferred().len()));
        }
    });
    rig.device("A");
    rig.expect(&["ADD A", "EAGAIN and 0 wait", "EINVAL and 0 wait"]);
}

#[test]
fn a_driver_that_comes_before_the_device_is_ready_gets_it_in_the_end() {
    // D7: the attempt is refused without being queued; device_add retries at step 15.
    let rig = Rig::new();
    let (bus, core) = (rig.bus.clone(), rig.core.clone());
    let actor = device_model::sync::Mutex::new(Some(rig.actor("K")));
    let _subscription = rig.bus.subscribe(move |event: &BusEvent<'_, Stage>| {
        let BusEvent::Added(_) = event else { return };
        let first = actor.lock().take();
        if let Some(actor) = first {
            bus.add_driver(device_model::sync::Arc::new(actor)).expect("the name is free");
            assert!(core.deferred().is_empty());
        }
    });
    rig.device("A");
    rig.expect(&["ADD A", "dma_configure A", "use A K", "BIND A K", "probe A K", "BOUND A K"]);
}

#[test]
fn bind_does_not_queue_a_deferral() {
    // Dt9.7, T45: EAGAIN from dma_configure, from the callback, and while probes are held; nobody waits.
    let rig = quiet();
    rig.driver(rig.actor("K").probing(|_| Err(supplier("S"))));
    let (errno, cause) = refusal(&rig, "K");
    assert_eq!(errno, Errno::EAGAIN);
    assert!(matches!(cause, ProbeFailure::Callback(ProbeError::Deferred(Awaits::Supplier(name))) if &*name == "S"));
    rig.refuse_dma(Some(anything()));
    let (errno, cause) = refusal(&rig, "K");
    assert_eq!(errno, Errno::EAGAIN);
    assert!(matches!(cause, ProbeFailure::Dma(ProbeError::Deferred(Awaits::Anything))));
    let hold = rig.core.hold_probes();
    assert!(matches!(refusal(&rig, "K"), (Errno::EAGAIN, ProbeFailure::ProbesHeld)));
    drop(hold);
    assert!(rig.deferred().is_empty());
    assert_eq!(rig.trace.count("probe A K"), 1);
}

#[test]
fn bind_passes_on_what_dma_configure_and_probe_say() {
    // Dt9.8, Dt9.9.
    let rig = quiet();
    rig.driver(rig.actor("K").failing(Errno::ENXIO));
    assert!(matches!(refusal(&rig, "K"), (Errno::ENXIO, ProbeFailure::Callback(_))));
    rig.refuse_dma(Some(ProbeError::errno_only(Errno::EBUSY)));
    assert!(matches!(refusal(&rig, "K"), (Errno::EBUSY, ProbeFailure::Dma(_))));
}

#[test]
fn the_gate_looks_in_the_order_of_dt3() {
    // Dt3.2 before P1: a bound device is busy even while probes are held.
    let rig = quiet();
    rig.driver(rig.actor("K"));
    rig.bus.sysfs().bind("K", "A").expect("it matches");
    let _hold = rig.core.hold_probes();
    assert!(matches!(refusal(&rig, "K"), (_, ProbeFailure::HasDriver { .. })));
}

#[test]
fn handles_of_two_buses_do_not_mix() {
    let (rig, stranger) = (quiet(), quiet());
    rig.driver(rig.actor("K"));
    let (driver, a) = (rig.bus.driver("K").expect("it is registered"), stranger.bus.device("A").expect("it is there"));
    for bus in [&rig.bus, &stranger.bus] {
        let error = bus.bind(&driver, &a).expect_err("they are not of one bus");
        assert!(matches!(&error, BindError::OtherBus { .. }) && error.errno() == Errno::ENODEV);
        assert_eq!(bus.unbind(&driver, &a).expect_err("it is not bound").errno(), Errno::ENODEV);
    }
    assert!(!a.lock().is_bound());
}

#[test]
fn a_handle_of_a_driver_that_has_gone_unbinds_nothing() {
    // Another driver of the same name is bound.
    let rig = quiet();
    rig.driver(rig.actor("K"));
    let (old, a) = (rig.bus.driver("K").expect("it is registered"), rig.bus.device("A").expect("it is there"));
    rig.bus.remove_driver(&old).wait();
    rig.driver(rig.actor("K"));
    rig.bus.sysfs().bind("K", "A").expect("it matches");
    assert_eq!(rig.bus.unbind(&old, &a).expect_err("it has gone").errno(), Errno::ENODEV);
    assert_eq!(rig.bus.bind(&old, &a).expect_err("it has gone").errno(), Errno::EBUSY);
    rig.bus.remove_driver(&old).wait();
    assert_eq!(rig.driver_of("A").as_deref(), Some("K"));
}

#[test]
fn unbind_wants_the_driver_that_is_bound() {
    // Dt10.
    let rig = quiet();
    rig.driver(rig.actor("K"));
    rig.driver(rig.actor("V"));
    let not_bound = |driver: &str, device: &str| {
        let error = rig.bus.sysfs().unbind(driver, device).expect_err("it is not bound");
        assert_eq!(error.errno(), Errno::ENODEV);
        error
    };
    assert!(matches!(not_bound("K", "nobody"), SysfsUnbindError::NoDevice { .. }));
    assert!(matches!(not_bound("K", "A"), SysfsUnbindError::NotBound { .. }));
    rig.bus.sysfs().bind("K", "A").expect("it matches");
    assert!(matches!(not_bound("V", "A"), SysfsUnbindError::NotBound { .. }));
    assert!(matches!(not_bound("nobody", "A"), SysfsUnbindError::NotBound { .. }));
    rig.trace.take();
    rig.bus.sysfs().unbind("K", "A").expect("K is bound").wait();
    rig.expect(&["UNBIND A K", "remove A K", "unuse A", "UNBOUND A -"]);
    // The device stays unbound until somebody acts: an unbind is not followed by a search.
    assert_eq!(rig.driver_of("A"), None);
}

#[test]
fn an_unbind_that_comes_too_late_hurts_nobody() {
    // D42 (and where we differ from D49): only the driver that was meant is let go.
    let rig = quiet();
    rig.driver(rig.actor("K"));
    rig.driver(rig.actor("V"));
    rig.bus.sysfs().bind("K", "A").expect("it matches");
    let late = rig.bus.sysfs().unbind("K", "A").expect("K is bound");
    rig.bus.sysfs().unbind("K", "A").expect("K is bound").wait();
    rig.bus.sysfs().bind("V", "A").expect("it matches");
    rig.trace.take();
    late.wait();
    rig.expect(&[]);
    assert_eq!(rig.driver_of("A").as_deref(), Some("V"));
}

#[test]
fn drivers_probe_flattens_every_refusal() {
    // Dt11.
    let rig = quiet();
    let error = rig.bus.sysfs().drivers_probe("nobody").expect_err("no such device");
    assert!(matches!(&error, DriversProbeError::NoDevice { .. }) && error.errno() == Errno::ENODEV);
    rig.bus.sysfs().drivers_probe("A").expect("nothing matches: Dt11.4");
    rig.driver(rig.actor("broken").failing(Errno::EIO));
    rig.bus.sysfs().drivers_probe("A").expect("a failed callback is no error: Dt11.4");
    rig.refuse_dma(Some(ProbeError::errno_only(Errno::EBUSY)));
    assert_eq!(rig.bus.sysfs().drivers_probe("A").expect_err("Dt11.3").errno(), Errno::EINVAL);
    rig.refuse_dma(None);
    // D51: autoprobe is off all the time.
    rig.driver(rig.actor("K"));
    rig.bus.sysfs().drivers_probe("A").expect("K binds");
    rig.trace.take();
    rig.bus.sysfs().drivers_probe("A").expect("it has a driver: Dt11.2");
    rig.expect(&[]);
}

#[test]
fn drivers_probe_queues_a_deferral() {
    // D24 against D30: the search puts the device on the list, binding by hand does not.
    let rig = quiet();
    rig.driver(rig.actor("K").probing(|_| Err(anything())));
    rig.bus.sysfs().drivers_probe("A").expect("a deferring callback is a failed callback");
    assert_eq!(rig.deferred(), ["A"]);
    rig.refuse_dma(Some(anything()));
    assert_eq!(rig.bus.sysfs().drivers_probe("A").expect_err("Dt11.3").errno(), Errno::EINVAL);
    assert_eq!(rig.deferred(), ["A"]);
}
