//! Deferred probing: D24, D54 to D57, P1, T44.

use std::sync::atomic::{AtomicBool, Ordering};

use device_model::DeviceSpec;
use device_model::sync::Arc;

use crate::rig::{Device, Rig, anything, supplier};

/// Two drivers: `consumer` takes the devices whose names start with `c` once `ready` is set and defers with the given
/// error until then, `provider` takes the others.
fn scene(error: impl Fn() -> device_model::ProbeError + Send + Sync + 'static) -> (Rig, Arc<AtomicBool>) {
    let rig = Rig::new();
    let ready = Arc::new(AtomicBool::new(false));
    let seen = ready.clone();
    let is_consumer = |dev: &Device| dev.name().starts_with('c');
    let yes = |fits| if fits { device_model::Match::Yes } else { device_model::Match::No };
    rig.driver(
        rig.actor("consumer")
            .matching(move |dev| yes(is_consumer(dev)))
            .probing(move |_| if seen.load(Ordering::SeqCst) { Ok(()) } else { Err(error()) }),
    );
    rig.driver(rig.actor("provider").matching(move |dev| yes(!is_consumer(dev))));
    (rig, ready)
}

#[test]
fn whoever_waits_for_anything_is_repeated_at_every_success() {
    // D54, T44.
    let (rig, ready) = scene(anything);
    rig.device("c");
    assert_eq!(rig.deferred(), ["c"]);
    for n in 0..3 {
        rig.device(&format!("p{n}"));
    }
    assert_eq!(rig.trace.count("probe c consumer"), 4);
    ready.store(true, Ordering::SeqCst);
    rig.device("p3");
    assert_eq!(rig.driver_of("c").as_deref(), Some("consumer"));
    assert!(rig.deferred().is_empty());
    rig.device("p4");
    assert_eq!(rig.trace.count("probe c consumer"), 5);
}

#[test]
fn whoever_waits_for_a_known_supplier_is_repeated_for_it_alone() {
    let (rig, ready) = scene(|| supplier("s"));
    rig.device("c");
    // Binding many others does not repeat the probe.
    for n in 0..100 {
        rig.device(&format!("p{n}"));
    }
    assert_eq!(rig.trace.count("probe c consumer"), 1);
    ready.store(true, Ordering::SeqCst);
    rig.device("s");
    assert_eq!(rig.trace.count("probe c consumer"), 2);
    assert_eq!(rig.driver_of("c").as_deref(), Some("consumer"));
}

#[test]
fn each_waits_for_its_own_supplier() {
    let rig = Rig::new();
    let bus = rig.bus.clone();
    rig.driver(rig.actor("K").probing(move |dev| {
        // d3 needs d2 needs d1 needs d0.
        let name = dev.device().name();
        let number: u32 = name[1..].parse().expect("devices are called d0, d1, ...");
        let Some(before) = number.checked_sub(1).map(|before| format!("d{before}")) else { return Ok(()) };
        match bus.device(&before).and_then(|dev| dev.driver_hint()) {
            Some(_) => Ok(()),
            None => Err(supplier(&before)),
        }
    }));
    for n in [3, 2, 1] {
        rig.device(&format!("d{n}"));
    }
    assert_eq!(rig.deferred(), ["d1", "d2", "d3"]);
    rig.device("d0");
    assert!(rig.deferred().is_empty());
    for n in 1..=3 {
        assert_eq!(rig.trace.count(&format!("probe d{n} K")), 2, "once in vain, once for its supplier");
    }
}

#[test]
fn a_supplier_may_sit_on_another_bus() {
    let (rig, ready) = scene(|| supplier("s"));
    rig.device("c");
    ready.store(true, Ordering::SeqCst);
    let other = rig.another_bus("other");
    other.add_driver(Arc::new(rig.actor("clock"))).expect("the name is free");
    other.add_device(DeviceSpec::new("s", ())).expect("the name is free");
    assert_eq!(rig.driver_of("c").as_deref(), Some("consumer"));
}

/// Runs `what` on another thread: with a device lock held, no lock of an unrelated device is to be taken.
fn elsewhere(what: impl FnOnce() + Send) {
    std::thread::scope(|scope| scope.spawn(what).join().expect("it does not fail"));
}

#[test]
fn a_supplier_that_binds_while_the_consumer_is_probed_is_not_missed() {
    // D56: the trigger falls between the look and the list.
    for error in [anything, || supplier("s")] {
        let rig = Rig::new();
        let bus = rig.bus.clone();
        rig.driver(rig.actor("provider").fits(&["s"]));
        rig.driver(rig.actor("consumer").fits(&["c"]).probing(move |_| {
            if bus.device("s").is_some() {
                return Ok(());
            }
            // Somebody adds the supplier right after this driver did not find it.
            elsewhere(|| drop(bus.add_device(DeviceSpec::new("s", ())).expect("the name is free")));
            Err(error())
        }));
        rig.device("c");
        assert_eq!(rig.driver_of("c").as_deref(), Some("consumer"));
        assert!(rig.deferred().is_empty());
        assert_eq!(rig.trace.count("probe c consumer"), 2);
    }
}

#[test]
fn another_success_during_the_probe_does_not_repeat_whoever_knows_its_supplier() {
    let rig = Rig::new();
    let bus = rig.bus.clone();
    rig.driver(rig.actor("provider").fits(&["other"]));
    rig.driver(rig.actor("consumer").fits(&["c"]).probing(move |_| {
        elsewhere(|| drop(bus.add_device(DeviceSpec::new("other", ()))));
        Err(supplier("s"))
    }));
    rig.device("c");
    assert_eq!(rig.driver_of("other").as_deref(), Some("provider"));
    assert_eq!(rig.trace.count("probe c consumer"), 1);
    assert_eq!(rig.deferred(), ["c"]);
}

#[test]
fn bound_by_another_a_device_waits_no_more() {
    // D57.
    let (rig, _) = scene(|| supplier("s"));
    rig.device("c");
    rig.driver(rig.actor("rescue").fits(&["c"]));
    assert_eq!(rig.driver_of("c").as_deref(), Some("rescue"));
    assert!(rig.deferred().is_empty());
    rig.device("s");
    assert_eq!(rig.trace.count("probe c consumer"), 1);
}

#[test]
fn removed_a_device_waits_no_more() {
    // D57, Dt2 step 7.
    for error in [anything, || supplier("s")] {
        let (rig, _) = scene(error);
        let c = rig.device("c");
        c.remove().wait();
        assert!(rig.deferred().is_empty());
        rig.device("s");
        assert_eq!(rig.trace.count("probe c consumer"), 1);
        assert_eq!(Arc::strong_count(&c), 1, "nobody keeps a removed device");
    }
}

#[test]
fn the_wait_can_change_its_object() {
    // First for s, then for anything, then for t.
    let rig = Rig::new();
    let answers = device_model::sync::Mutex::new(vec![supplier("t"), anything(), supplier("s")]);
    rig.driver(rig.actor("consumer").fits(&["c"]).probing(move |_| answers.lock().pop().map_or(Ok(()), Err)));
    rig.driver(
        rig.actor("provider").matching(|dev| {
            if dev.name().starts_with('c') { device_model::Match::No } else { device_model::Match::Yes }
        }),
    );
    rig.device("c");
    for (name, probes) in [("t", 1), ("s", 2), ("x", 3), ("y", 3), ("t2", 3)] {
        rig.device(name);
        assert_eq!(rig.trace.count("probe c consumer"), probes, "after {name}");
    }
    rig.bus.sysfs().unbind("provider", "t").expect("it is bound").wait();
    rig.bus.sysfs().bind("provider", "t").expect("it matches");
    assert_eq!(rig.driver_of("c").as_deref(), Some("consumer"));
}

#[test]
fn a_repeat_looks_at_all_drivers_and_at_autoprobe() {
    // D10, D26, D55: the retry is the initial probe again.
    let (rig, ready) = scene(anything);
    rig.device("c");
    rig.bus.set_drivers_autoprobe(false);
    ready.store(true, Ordering::SeqCst);
    rig.device("p");
    rig.bus.sysfs().bind("provider", "p").expect("it matches");
    assert_eq!(rig.driver_of("c"), None);
}

#[test]
fn held_probes_wait_for_the_last_hold() {
    // P1: nothing is touched; D24: the devices are queued.
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    let (one, two) = (rig.core.hold_probes(), rig.core.hold_probes());
    rig.device("A");
    rig.device("B");
    rig.expect(&["ADD A", "ADD B"]);
    assert_eq!(rig.deferred(), ["A", "B"]);
    drop(one);
    rig.expect(&[]);
    drop(two);
    rig.expect(&[
        "dma_configure A",
        "use A K",
        "BIND A K",
        "probe A K",
        "BOUND A K",
        "dma_configure B",
        "use B K",
        "BIND B K",
        "probe B K",
        "BOUND B K",
    ]);
    assert!(rig.deferred().is_empty());
}

#[test]
fn a_hold_repeats_nobody_who_waits_for_a_supplier() {
    let (rig, _) = scene(|| supplier("s"));
    rig.device("c");
    drop(rig.core.hold_probes());
    assert_eq!(rig.trace.count("probe c consumer"), 1);
    // Held while its supplier comes: both are probed when the hold ends.
    let hold = rig.core.hold_probes();
    rig.device("s");
    drop(hold);
    assert_eq!(rig.driver_of("s").as_deref(), Some("provider"));
    assert_eq!(rig.trace.count("probe c consumer"), 2);
}

#[test]
fn a_hold_does_not_hinder_letting_go() {
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    let a = rig.device("A");
    let _hold = rig.core.hold_probes();
    rig.bus.sysfs().unbind("K", "A").expect("K is bound").wait();
    a.remove().wait();
    assert!(rig.bus.devices().is_empty());
}

#[test]
fn a_long_chain_of_repeats_uses_no_stack() {
    // The repeats run in a loop, not each inside the one before.
    const LENGTH: usize = 20_000;
    let rig = Rig::new();
    let bus = rig.bus.clone();
    rig.driver(rig.actor("K").probing(move |dev| {
        let number: usize = dev.device().name()[1..].parse().expect("devices are called d0, d1, ...");
        let before = format!("d{}", number + 1);
        let there = number == LENGTH || bus.device(&before).and_then(|dev| dev.driver_hint()).is_some();
        if there { Ok(()) } else { Err(supplier(&before)) }
    }));
    for n in 0..=LENGTH {
        rig.device(&format!("d{n}"));
    }
    assert!(rig.deferred().is_empty());
    assert_eq!(rig.trace.take().iter().filter(|line| line.starts_with("probe")).count(), 2 * LENGTH + 1);
}
