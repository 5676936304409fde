//! Unbinding while somebody holds the device open: D50, V13. Real threads, no sleeps.

use std::sync::mpsc;
#[cfg(feature = "std")]
use std::time::Duration;

use std::thread;

use device_model::sync::Arc;
use device_model::{BindError, DeviceSpec, Errno, ProbeFailure, Progress, SysfsBindError};

use crate::rig::{Device, Rig, open};

#[cfg(feature = "std")]
const LONG: Duration = Duration::MAX;

/// A rig with device A bound to V, whose devices can be held open.
fn scene() -> (Rig, Arc<Device>) {
    let rig = Rig::new();
    rig.driver(rig.actor("V").managed().open_to_users());
    let a = rig.device("A");
    rig.trace.take();
    (rig, a)
}

fn waiting_device(progress: Progress) -> String {
    let Progress::Waiting { device, users } = progress else { unreachable!("somebody is inside") };
    assert!(users.inside() > 0);
    device.name().to_string()
}

#[test]
fn without_users_it_waits_for_nobody() {
    let (rig, _a) = scene();
    let mut unbind = rig.bus.sysfs().unbind("V", "A").expect("V is bound");
    assert!(matches!(unbind.try_finish(), Progress::Done));
    rig.expect(&["UNBIND A V", "remove A V", "UNBOUND A -"]);
    assert!(matches!(unbind.try_finish(), Progress::Done));
    rig.expect(&[]);
}

#[test]
fn it_goes_on_when_the_last_user_leaves() {
    let (rig, a) = scene();
    let (one, two) = (open(&a), open(&a));
    let mut unbind = rig.bus.sysfs().unbind("V", "A").expect("V is bound");
    assert_eq!(waiting_device(unbind.try_finish()), "A");
    drop(one);
    assert_eq!(waiting_device(unbind.try_finish()), "A");
    // A try asks nobody again.
    rig.expect(&["UNBIND A V", "remove A V"]);
    drop(two);
    rig.expect(&[]);
    assert!(matches!(unbind.try_finish(), Progress::Done));
    rig.expect(&["remove A V again 1", "UNBOUND A -"]);
}

#[test]
fn the_driver_can_be_asked_to_ask_again() {
    let (rig, a) = scene();
    let user = open(&a);
    let mut unbind = rig.bus.sysfs().unbind("V", "A").expect("V is bound");
    // Nobody was asked yet.
    unbind.ask_again();
    rig.expect(&[]);
    assert_eq!(waiting_device(unbind.try_finish()), "A");
    unbind.ask_again();
    unbind.ask_again();
    rig.expect(&["UNBIND A V", "remove A V", "remove A V again 1", "remove A V again 2"]);
    drop(user);
    // Asking may find that all have left, and completes.
    unbind.ask_again();
    rig.expect(&["remove A V again 3", "UNBOUND A -"]);
    unbind.wait();
    rig.expect(&[]);
}

#[test]
fn a_wait_ends_when_the_user_on_another_thread_leaves() {
    let (rig, a) = scene();
    let user = open(&a);
    let unbind = rig.bus.sysfs().unbind("V", "A").expect("V is bound");
    let waiter = thread::spawn(move || unbind.wait());
    // The door is closed by remove; only then does the user leave.
    while rig.trace.count("remove A V") == 0 {
        thread::yield_now();
    }
    drop(user);
    waiter.join().expect("it waits in peace");
    assert!(!a.lock().is_bound());
}

#[cfg(feature = "std")]
#[test]
fn a_wait_with_an_end_gives_the_value_back() {
    let (rig, a) = scene();
    let user = open(&a);
    let unbind = rig.bus.sysfs().unbind("V", "A").expect("V is bound");
    let unbind = unbind.wait_for(Duration::ZERO).expect_err("somebody is inside");
    rig.expect(&["UNBIND A V", "remove A V"]);
    drop(user);
    unbind.wait_for(Duration::ZERO).expect("nobody is inside");
    rig.expect(&["remove A V again 1", "UNBOUND A -"]);
}

#[cfg(feature = "std")]
#[test]
fn a_wait_with_an_end_covers_every_device_of_the_driver() {
    // The wait for the first device must not use up the wait for the second, however long it may last.
    let (rig, a) = scene();
    let b = rig.device("B");
    let (in_a, in_b) = (open(&a), open(&b));
    rig.trace.take();
    let unbind = rig.remove_driver("V").expect("it is registered");
    let waiter = thread::spawn(move || unbind.wait_for(LONG));
    for (name, user) in [("B", in_b), ("A", in_a)] {
        while rig.trace.count(&format!("remove {name} V")) == 0 {
            thread::yield_now();
        }
        drop(user);
    }
    waiter.join().expect("it waits in peace").expect("the end is far");
    assert_eq!((rig.driver_of("A"), rig.driver_of("B")), (None, None));
}

#[test]
fn whoever_wants_the_lock_waits_for_the_user_and_completes_the_unbind() {
    // D50: a bind blocks on the device lock; the unbind itself was given up.
    let (rig, a) = scene();
    let user = open(&a);
    let mut unbind = rig.bus.sysfs().unbind("V", "A").expect("V is bound");
    assert_eq!(waiting_device(unbind.try_finish()), "A");
    drop(unbind);
    rig.driver(rig.actor("K").fits(&[]));
    rig.trace.take();
    a.set_driver_override(Some("K"));
    let (bus, (say, hear)) = (rig.bus.clone(), mpsc::channel());
    let binder = thread::spawn(move || {
        say.send(()).expect("the test listens");
        bus.sysfs().bind("K", "A")
    });
    hear.recv().expect("the binder speaks");
    rig.expect(&[]);
    drop(user);
    binder.join().expect("it waits in peace").expect("nothing is in the way");
    rig.expect(&[
        "remove A V again 1",
        "UNBOUND A -",
        "dma_configure A",
        "use A K",
        "BIND A K",
        "probe A K",
        "BOUND A K",
    ]);
}

#[test]
fn a_given_up_unbind_is_completed_by_the_next_lock() {
    let (rig, a) = scene();
    let user = open(&a);
    let mut unbind = rig.bus.sysfs().unbind("V", "A").expect("V is bound");
    assert_eq!(waiting_device(unbind.try_finish()), "A");
    drop(unbind);
    drop(user);
    // Nobody drove it on; the lock does.
    rig.expect(&["UNBIND A V", "remove A V"]);
    assert!(a.lock().driver().is_none());
    rig.expect(&["remove A V again 1", "UNBOUND A -"]);
}

#[test]
fn two_unbinds_of_one_device_both_end() {
    // D50: the second waits like the first, and both report success.
    let (rig, a) = scene();
    let user = open(&a);
    let mut first = rig.bus.sysfs().unbind("V", "A").expect("V is bound");
    assert_eq!(waiting_device(first.try_finish()), "A");
    let mut second = rig.bus.sysfs().unbind("V", "A").expect("dev->driver is V until R9");
    assert_eq!(waiting_device(second.try_finish()), "A");
    drop(user);
    assert!(matches!(second.try_finish(), Progress::Done));
    assert!(matches!(first.try_finish(), Progress::Done));
    rig.expect(&["UNBIND A V", "remove A V", "remove A V again 1", "UNBOUND A -"]);
}

#[test]
fn drivers_probe_lets_a_device_be_whose_driver_waits() {
    // Dt11.2: dev->driver is set until R9, so there is nothing to do, and nobody waits.
    let (rig, a) = scene();
    let user = open(&a);
    let mut unbind = rig.bus.sysfs().unbind("V", "A").expect("V is bound");
    assert_eq!(waiting_device(unbind.try_finish()), "A");
    assert_eq!(a.driver_hint(), None, "R4: the link is gone");
    rig.bus.sysfs().drivers_probe("A").expect("it has a driver still");
    drop(user);
    unbind.wait();
    assert_eq!(rig.driver_of("A"), None);
}

#[cfg(feature = "std")]
#[test]
fn others_bind_and_defer_while_one_waits() {
    // A bind that waits for a user must not hold up the repeats of other devices.
    let (rig, a) = scene();
    let user = open(&a);
    let mut unbind = rig.bus.sysfs().unbind("V", "A").expect("V is bound");
    assert_eq!(waiting_device(unbind.try_finish()), "A");
    drop(rig.remove_driver("V").expect("it is registered").wait_for(Duration::ZERO).expect_err("it waits"));
    let other = rig.another_bus("other");
    let probes = device_model::sync::Mutex::new(vec![Err(crate::rig::supplier("s"))]);
    let consumer = rig.actor("consumer").fits(&["c"]).probing(move |_| probes.lock().pop().unwrap_or(Ok(())));
    other.add_driver(Arc::new(consumer)).expect("the name is free");
    other.add_driver(Arc::new(rig.actor("provider").fits(&["s"]))).expect("the name is free");
    let (bus, (say, hear)) = (rig.bus.clone(), mpsc::channel());
    rig.bus.set_drivers_autoprobe(false);
    rig.driver(rig.actor("K").matching(move |_| {
        let _ = say.send(());
        device_model::Match::Yes
    }));
    let binder = thread::spawn(move || bus.sysfs().bind("K", "A"));
    hear.recv().expect("the binder asks for a match, then takes the lock");
    let c = other.add_device(DeviceSpec::new("c", ())).expect("the name is free");
    other.add_device(DeviceSpec::new("s", ())).expect("the name is free");
    assert_eq!(c.driver_hint().as_deref(), Some("consumer"));
    drop(user);
    binder.join().expect("it waits in peace").expect("nothing is in the way any more");
}

#[test]
fn removing_a_device_waits_for_its_user() {
    let (rig, a) = scene();
    let user = open(&a);
    let mut removal = a.remove();
    assert_eq!(waiting_device(removal.try_finish()), "A");
    rig.expect(&["DEL A", "UNBIND A V", "remove A V"]);
    assert!(rig.bus.device("A").is_some(), "it is found until its driver has let go (D68)");
    assert_eq!(rig.bus.devices().len(), 1);
    // The name is in use until the device is gone (Dt2 step 9).
    assert_eq!(rig.bus.add_device(DeviceSpec::new("A", ())).expect_err("it is not gone").errno(), Errno::EEXIST);
    drop(removal);
    // Taken up by a further call.
    let mut removal = a.remove();
    assert_eq!(waiting_device(removal.try_finish()), "A");
    drop(user);
    removal.wait();
    rig.expect(&["remove A V again 1", "UNBOUND A -", "REMOVED A"]);
    rig.device("A");
}

#[test]
fn a_device_whose_driver_waits_can_be_removed() {
    // Dt2 step 1 takes the device lock, so DEL comes when the unbind has come to its end.
    let (rig, a) = scene();
    let user = open(&a);
    let mut unbind = rig.bus.sysfs().unbind("V", "A").expect("V is bound");
    assert_eq!(waiting_device(unbind.try_finish()), "A");
    let mut removal = a.remove();
    assert_eq!(waiting_device(removal.try_finish()), "A");
    drop(user);
    removal.wait();
    rig.expect(&["UNBIND A V", "remove A V", "remove A V again 1", "UNBOUND A -", "DEL A", "REMOVED A"]);
    assert!(matches!(unbind.try_finish(), Progress::Done));
}

#[test]
fn a_removal_that_never_began_leaves_a_whole_device() {
    // It waited for the lock of a device whose driver waits and was given up: the device can still have children.
    let (rig, a) = scene();
    let user = open(&a);
    let mut unbind = rig.bus.sysfs().unbind("V", "A").expect("V is bound");
    assert_eq!(waiting_device(unbind.try_finish()), "A");
    let mut removal = a.remove();
    assert_eq!(waiting_device(removal.try_finish()), "A");
    drop(removal);
    drop(user);
    unbind.wait();
    rig.child("A1", &a);
    rig.bus.sysfs().bind("V", "A").expect("it is as it was");
}

#[test]
fn a_held_child_keeps_its_parent() {
    let rig = Rig::new();
    rig.driver(rig.actor("V").managed().open_to_users());
    let p = rig.device("P");
    let c = rig.child("C", &p);
    rig.child("D", &p);
    let user = open(&c);
    rig.trace.take();
    let mut removal = p.remove();
    assert_eq!(waiting_device(removal.try_finish()), "C");
    rig.expect(&["DEL D", "UNBIND D V", "remove D V", "UNBOUND D -", "REMOVED D", "DEL C", "UNBIND C V", "remove C V"]);
    assert!(p.lock().is_bound());
    // A device that comes below in the meantime goes as well.
    rig.child("E", &p);
    rig.trace.take();
    drop(user);
    removal.wait();
    let order: Vec<_> = rig.trace.take().into_iter().filter(|line| line.starts_with("REMOVED")).collect();
    assert_eq!(order, ["REMOVED C", "REMOVED E", "REMOVED P"]);
}

#[test]
fn unregistering_a_driver_waits_device_by_device() {
    let (rig, a) = scene();
    let b = rig.device("B");
    rig.device("C");
    let (in_a, in_b) = (open(&a), open(&b));
    rig.trace.take();
    let mut leaving = rig.remove_driver("V").expect("it is registered");
    assert_eq!(waiting_device(leaving.try_finish()), "B");
    rig.expect(&["UNBIND C V", "remove C V", "UNBOUND C -", "UNBIND B V", "remove B V"]);
    drop(in_a);
    assert_eq!(waiting_device(leaving.try_finish()), "B");
    // While it waits the driver takes nothing.
    let error = rig.bus.sysfs().bind("V", "C").expect_err("it is leaving");
    assert!(matches!(error, SysfsBindError::Bind(BindError::Refused { cause: ProbeFailure::DriverGone, .. })));
    drop(in_b);
    leaving.wait();
    rig.expect(&["remove B V again 1", "UNBOUND B -", "UNBIND A V", "remove A V", "UNBOUND A -"]);
}

#[test]
fn a_driver_and_its_waiting_device_may_both_go() {
    // The unbind by hand, the removal and the unregistration of one and the same binding.
    let (rig, a) = scene();
    let user = open(&a);
    let mut unbind = rig.bus.sysfs().unbind("V", "A").expect("V is bound");
    let mut leaving = rig.remove_driver("V").expect("it is registered");
    let mut removal = a.remove();
    for wait in [&mut unbind, &mut leaving, &mut removal] {
        assert_eq!(waiting_device(wait.try_finish()), "A");
    }
    let waiters = [unbind, leaving, removal].map(|unbind| thread::spawn(move || unbind.wait()));
    drop(user);
    for waiter in waiters {
        waiter.join().expect("it waits in peace");
    }
    rig.expect(&["UNBIND A V", "remove A V", "remove A V again 1", "UNBOUND A -", "DEL A", "REMOVED A"]);
    assert!(rig.bus.devices().is_empty() && rig.bus.drivers().is_empty());
}

#[cfg(feature = "std")]
#[test]
fn while_the_driver_waits_nobody_else_gets_in() {
    let (rig, a) = scene();
    let users = a.lock().resource::<Arc<device_model::sync::Users>>().expect("V is bound").clone();
    let user = users.enter().expect("the door is open");
    let mut unbind = rig.bus.sysfs().unbind("V", "A").expect("V is bound");
    assert_eq!(waiting_device(unbind.try_finish()), "A");
    assert!(users.enter().is_none(), "remove closed the door");
    assert!(!users.wait_for(Duration::ZERO));
    drop(user);
    users.wait();
    assert!(users.wait_for(LONG));
    unbind.wait();
}
