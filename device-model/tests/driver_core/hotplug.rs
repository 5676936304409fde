//! Devices come and go in every state: tables Dt1 and Dt2, D8, D12, D13.

use device_model::sync::Arc;
use device_model::{AddDeviceError, DeviceSpec, Errno, ProbeError};

use crate::rig::Rig;

#[test]
fn a_name_is_unique_on_its_bus() {
    // Dt1 step 5.
    let rig = Rig::new();
    let a = rig.device("A");
    rig.trace.take();
    let error = rig.bus.add_device(DeviceSpec::new("A", ())).expect_err("the name is taken");
    assert!(matches!(&error, AddDeviceError::NameTaken { name } if &**name == "A"));
    assert_eq!(error.errno(), Errno::EEXIST);
    rig.expect(&[]);
    rig.another_bus("other").add_device(DeviceSpec::new("A", ())).expect("another bus, another name space");
    a.remove().wait();
    let again = rig.device("A");
    assert_ne!(a.id(), again.id());
}

#[test]
fn an_unbound_device_goes() {
    let rig = Rig::new();
    let a = rig.device("A");
    a.remove().wait();
    rig.expect(&["ADD A", "DEL A", "REMOVED A"]);
    assert!(rig.bus.device("A").is_none() && rig.bus.devices().is_empty());
    assert_eq!(Arc::strong_count(&a), 1);
}

#[test]
fn a_failed_probe_fails_no_device() {
    // D8.
    let rig = Rig::new();
    rig.driver(rig.actor("broken").failing(Errno::EIO));
    let a = rig.device("A");
    assert!(rig.bus.device("A").is_some());
    rig.refuse_dma(Some(ProbeError::errno_only(Errno::EBUSY)));
    rig.device("B");
    rig.trace.take();
    a.remove().wait();
    rig.expect(&["DEL A", "REMOVED A"]);
}

#[test]
fn removing_twice_is_removing_once() {
    // Dt2 step 1 is idempotent.
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    let a = rig.device("A");
    rig.trace.take();
    let second = a.remove();
    a.remove().wait();
    second.wait();
    a.remove().wait();
    rig.expect(&["DEL A", "UNBIND A K", "remove A K", "unuse A", "UNBOUND A -", "REMOVED A"]);
}

#[test]
fn an_undriven_removal_does_nothing() {
    let rig = Rig::new();
    let a = rig.device("A");
    rig.trace.take();
    drop(a.remove());
    rig.expect(&[]);
    assert!(rig.bus.device("A").is_some());
    rig.child("A1", &a);
}

#[test]
fn a_removed_device_takes_no_driver() {
    // D12: who kept the device cannot bind it, and a new driver does not see it.
    let rig = Rig::new();
    let a = rig.device("A");
    a.remove().wait();
    rig.trace.take();
    rig.driver(rig.actor("K"));
    rig.expect(&[]);
    assert_eq!(rig.bus.sysfs().bind("K", "A").expect_err("it is gone").errno(), Errno::ENODEV);
    assert!(a.lock().driver().is_none());
}

#[test]
fn children_go_before_their_parent_the_youngest_first() {
    let rig = Rig::new();
    rig.driver(rig.actor("K").fits(&["P", "C2"]));
    let p = rig.device("P");
    let c1 = rig.child("C1", &p);
    rig.child("C2", &p);
    rig.child("G", &c1);
    assert_eq!(p.children().iter().map(|dev| dev.name().to_string()).collect::<Vec<_>>(), ["C1", "C2"]);
    assert_eq!(c1.parent().map(|dev| dev.id()), Some(p.id()));
    rig.trace.take();
    p.remove().wait();
    rig.expect(&[
        "DEL C2",
        "UNBIND C2 K",
        "remove C2 K",
        "unuse C2",
        "UNBOUND C2 -",
        "REMOVED C2",
        "DEL G",
        "REMOVED G",
        "DEL C1",
        "REMOVED C1",
        "DEL P",
        "UNBIND P K",
        "remove P K",
        "unuse P",
        "UNBOUND P -",
        "REMOVED P",
    ]);
}

#[test]
fn a_removed_child_leaves_its_parent() {
    let rig = Rig::new();
    let p = rig.device("P");
    let c = rig.child("C", &p);
    c.remove().wait();
    assert!(p.children().is_empty());
    rig.child("C", &p);
}

#[test]
fn nobody_is_born_below_a_device_that_is_gone() {
    let rig = Rig::new();
    let p = rig.device("P");
    p.remove().wait();
    rig.trace.take();
    let error = rig.bus.add_device(DeviceSpec::new("C", ()).below(p.clone())).expect_err("the parent is gone");
    assert!(matches!(&error, AddDeviceError::ParentGone { parent, .. } if &**parent == "P"));
    assert_eq!(error.errno(), Errno::ENODEV);
    rig.expect(&[]);
    // The name was not used up.
    rig.device("C");
}

#[test]
fn a_tree_may_span_buses() {
    let rig = Rig::new();
    let other = rig.another_bus("other");
    let bridge = rig.device("bridge");
    let leaf = other.add_device(DeviceSpec::new("leaf", ()).below(bridge.clone())).expect("the name is free");
    rig.trace.take();
    bridge.remove().wait();
    rig.expect(&["DEL leaf", "REMOVED leaf", "DEL bridge", "REMOVED bridge"]);
    assert!(other.device("leaf").is_none());
    assert_eq!(Arc::strong_count(&leaf), 1);
}

#[test]
fn a_driver_may_add_children_while_it_is_probed() {
    // As a bridge does; the children are probed inside, the parent's lock held.
    let rig = Rig::new();
    let bus = rig.bus.clone();
    rig.driver(rig.actor("bridge").fits(&["P"]).probing(move |dev| {
        bus.add_device(DeviceSpec::new("C", ()).below(dev.device().clone())).expect("the name is free");
        Ok(())
    }));
    rig.driver(rig.actor("K").fits(&["C"]));
    let p = rig.device("P");
    rig.expect(&[
        "ADD P",
        "dma_configure P",
        "use P bridge",
        "BIND P bridge",
        "probe P bridge",
        "ADD C",
        "dma_configure C",
        "use C K",
        "BIND C K",
        "probe C K",
        "BOUND C K",
        "BOUND P bridge",
    ]);
    p.remove().wait();
    assert!(rig.bus.devices().is_empty());
}

#[test]
fn without_autoprobe_a_device_just_arrives() {
    // D52.
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    rig.bus.set_drivers_autoprobe(false);
    rig.device("A");
    rig.expect(&["ADD A"]);
    rig.bus.set_drivers_autoprobe(true);
    rig.expect(&[]);
    rig.bus.sysfs().drivers_probe("A").expect("K binds");
    assert_eq!(rig.driver_of("A").as_deref(), Some("K"));
}

#[test]
fn devices_are_listed_in_the_order_of_their_coming() {
    let rig = Rig::new();
    for name in ["C", "A", "B"] {
        rig.device(name);
    }
    let names: Vec<_> = rig.bus.devices().iter().map(|dev| dev.name().to_string()).collect();
    assert_eq!(names, ["C", "A", "B"]);
    assert_eq!((rig.bus.name(), format!("{:?}", rig.core)), ("stage", "[\"stage\"]".to_owned()));
}
