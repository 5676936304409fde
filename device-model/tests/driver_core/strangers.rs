//! Nobody works, or waits, for strangers: what a call does is counted, never timed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use device_model::sync::{Arc, Mutex};
use device_model::{DeviceSpec, DriverCore, Repeats};

use crate::rig::{Rig, anything, supplier};

/// Runs `what` to its end on another thread.
fn elsewhere(what: impl FnOnce() + Send) {
    thread::scope(|scope| scope.spawn(what).join().expect("it does not fail"));
}

#[test]
fn a_bind_repeats_each_waiting_device_once_whatever_others_bind_meanwhile() {
    let rig = Rig::new();
    rig.bus.set_drivers_autoprobe(false);
    let bus = rig.bus.clone();
    for name in ["x", "y"] {
        rig.driver(rig.actor(name).fits(&[name]));
        rig.device(name);
    }
    // While this thread probes a waiting device, others bind and unbind.
    let (here, probes) = (thread::current().id(), Arc::new(AtomicUsize::new(0)));
    let counter = probes.clone();
    rig.driver(rig.actor("w").matching(|dev| dev.name().starts_with('w').into()).probing(move |_| {
        if thread::current().id() == here {
            counter.fetch_add(1, Ordering::SeqCst);
            elsewhere(|| {
                for _ in 0..10 {
                    bus.sysfs().bind("x", "x").expect("it is free");
                    bus.sysfs().unbind("x", "x").expect("it is bound").wait();
                }
            });
        }
        Err(anything())
    }));
    rig.device("w1");
    rig.device("w2");
    rig.bus.set_drivers_autoprobe(true);
    for name in ["w1", "w2"] {
        rig.bus.sysfs().drivers_probe(name).expect("it waits");
    }
    probes.store(0, Ordering::SeqCst);
    rig.bus.sysfs().bind("y", "y").expect("it is free");
    assert_eq!(probes.load(Ordering::SeqCst), 2, "two devices wait");
    // What became due meanwhile is left to whoever comes next.
    assert_eq!(rig.deferred().len(), 2);
    assert!(rig.core.repeat_probes() > 0);
}

#[test]
fn a_slow_probe_holds_up_no_repeat() {
    // Neither the first probe of a stranger nor the repeat of one.
    for slow_is_repeated in [false, true] {
        let rig = Rig::new();
        let ready = Arc::new(AtomicBool::new(false));
        let (say, hear) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let (say, wait, looked) = (Mutex::new(say), Mutex::new(wait), ready.clone());
        rig.driver(rig.actor("slow").fits(&["slow"]).probing(move |_| {
            if slow_is_repeated && !looked.load(Ordering::SeqCst) {
                return Err(supplier("first"));
            }
            say.lock().send(()).expect("the test listens");
            let wait = wait.lock();
            wait.recv().expect("the test lets it go on");
            Ok(())
        }));
        let looked = ready.clone();
        rig.driver(
            rig.actor("c")
                .fits(&["c"])
                .probing(move |_| if looked.load(Ordering::SeqCst) { Ok(()) } else { Err(supplier("s")) }),
        );
        rig.driver(rig.actor("s").fits(&["s", "first"]));
        let c = rig.device("c");
        if slow_is_repeated {
            rig.device("slow");
        }
        ready.store(true, Ordering::SeqCst);
        let bus = rig.bus.clone();
        let name = if slow_is_repeated { "first" } else { "slow" };
        let other = thread::spawn(move || drop(bus.add_device(DeviceSpec::new(name, ())).expect("the name is free")));
        hear.recv().expect("the slow probe has begun");
        rig.device("s");
        assert_eq!(c.driver_hint().as_deref(), Some("c"), "its supplier is bound");
        go.send(()).expect("the slow probe listens");
        other.join().expect("it does not fail");
        assert_eq!(rig.driver_of("slow").as_deref(), Some("slow"));
    }
}

/// A device that waits for anything, and the flag that lets it bind.
fn one_that_waits(rig: &Rig, name: &'static str) -> Arc<AtomicBool> {
    let ready = Arc::new(AtomicBool::new(false));
    let looked = ready.clone();
    rig.driver(
        rig.actor(name)
            .fits(&[name])
            .probing(move |_| if looked.load(Ordering::SeqCst) { Ok(()) } else { Err(anything()) }),
    );
    ready
}

#[test]
fn adding_a_device_under_the_parents_lock_takes_no_other_devices_lock() {
    // Neither the parent's, which waits itself, nor a sibling's; both are repeated once the lock is free.
    let rig = Rig::new();
    let ready = ["parent", "sibling"].map(|name| one_that_waits(&rig, name));
    rig.driver(rig.actor("child").fits(&["child"]));
    let (parent, sibling) = (rig.device("parent"), rig.device("sibling"));
    for ready in ready {
        ready.store(true, Ordering::SeqCst);
    }
    let guard = parent.lock();
    let child = rig.child("child", &parent);
    assert!(child.lock().is_bound());
    assert_eq!((parent.driver_hint(), sibling.driver_hint()), (None, None));
    drop(guard);
    assert!(parent.lock().is_bound() && sibling.lock().is_bound());
}

#[test]
fn a_repeat_waits_for_no_lock_that_somebody_holds() {
    // Whoever holds it sees to the repeat.
    let rig = Rig::new();
    let ready = one_that_waits(&rig, "w");
    rig.driver(rig.actor("s").fits(&["s"]));
    let w = rig.device("w");
    ready.store(true, Ordering::SeqCst);
    let guard = w.lock();
    elsewhere(|| drop(rig.device("s")));
    assert_eq!((w.driver_hint(), rig.deferred()), (None, vec!["w".to_owned()]));
    drop(guard);
    assert!(w.lock().is_bound() && rig.deferred().is_empty());
}

#[test]
fn repeats_are_whose_the_embedder_says() {
    let called = Arc::new(AtomicUsize::new(0));
    let counter = called.clone();
    let queued = Repeats::Queued(Box::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    for (repeats, told) in [(Repeats::Manual, 0), (queued, 1)] {
        let rig = Rig::of(DriverCore::with_repeats(repeats));
        let ready = one_that_waits(&rig, "w");
        rig.driver(rig.actor("s").fits(&["s"]));
        let w = rig.device("w");
        ready.store(true, Ordering::SeqCst);
        rig.device("s");
        assert_eq!((w.driver_hint(), called.load(Ordering::SeqCst)), (None, told));
        assert_eq!(rig.core.repeat_probes(), 0);
        assert!(w.lock().is_bound());
    }
}

#[test]
fn twelve_threads_do_all_there_is_to_do() {
    const ROUNDS: usize = 400;
    let rig = Rig::new();
    rig.driver(rig.actor("waits").matching(|dev| dev.name().starts_with("waits").into()).probing(|dev| {
        // Every other one waits for the device of its number.
        let name = dev.device().name();
        let number: usize = name[6..].parse().expect("a number follows");
        if number.is_multiple_of(2) { Err(anything()) } else { Err(supplier(&format!("dev.{number}"))) }
    }));
    for name in ["dev", "other"] {
        rig.driver(rig.actor(name).matching(move |dev| dev.name().starts_with("dev").into()));
    }
    let parent = rig.device("parent");
    let threads: BTreeMap<_, _> = (0..12)
        .map(|n| {
            let (bus, core, parent) = (rig.bus.clone(), rig.core.clone(), parent.clone());
            let work = move || {
                for round in 0..ROUNDS {
                    let waits = bus.add_device(DeviceSpec::new(format!("waits.{n}"), ())).expect("the name is free");
                    let spec = DeviceSpec::new(format!("dev.{n}"), ()).below(parent.clone());
                    // It is bound by now, unless another thread holds all probes.
                    let dev = bus.add_device(spec).expect("the name is free");
                    for driver in ["dev", "other"] {
                        let driver = bus.driver(driver).expect("it is registered");
                        if let Ok(unbind) = bus.unbind(&driver, &dev) {
                            unbind.wait();
                        }
                    }
                    let neighbour = bus.device(&format!("dev.{}", (n + 1) % 12));
                    match round % 3 {
                        0 => drop(bus.drivers_probe(&dev)),
                        1 => drop(neighbour.map(|dev| bus.bind(&bus.driver("other").expect("it is registered"), &dev))),
                        _ => drop(core.hold_probes()),
                    }
                    dev.remove().wait();
                    waits.remove().wait();
                    assert!(!dev.lock().is_bound());
                }
            };
            (n, thread::spawn(work))
        })
        .collect();
    for (_, thread) in threads {
        thread.join().expect("nothing is stuck and nothing fails");
    }
    assert_eq!(rig.bus.devices().len(), 1);
    assert!(rig.deferred().is_empty());
    let lines = rig.trace.take();
    let count = |word: &str| lines.iter().filter(|line| line.starts_with(word)).count();
    assert_eq!(count("use "), count("unuse "), "every right has ended");
    assert_eq!(count("BOUND"), count("UNBOUND"));
    assert!(count("BOUND") > ROUNDS);
    assert_eq!((count("ADD"), count("REMOVED")), (1 + 24 * ROUNDS, 24 * ROUNDS));
}
