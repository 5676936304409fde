//! The binding sequence: tables Dt5 to Dt7, D32 to D41, D66.

use device_model::{BusEvent, Errno, ProbeError};

use crate::rig::{Rig, Stage};

#[test]
fn a_bind_and_an_unbind_take_the_steps_of_dt5_and_dt7() {
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    let a = rig.device("A");
    rig.expect(&["ADD A", "dma_configure A", "use A K", "BIND A K", "probe A K", "BOUND A K"]);
    assert!(a.lock().is_bound());
    rig.bus.sysfs().unbind("K", "A").expect("K is bound").wait();
    // R5, R7, R8, R13: remove runs with the right to DMA, UNBOUND hears of no driver.
    rig.expect(&["UNBIND A K", "remove A K", "unuse A", "UNBOUND A -"]);
    assert!(!a.lock().is_bound());
}

#[test]
fn the_driver_is_readable_in_every_callback_until_it_is_gone() {
    // D2, D3, D32, D36, Dt12: the trace prints dev->driver as each event sees it; here the events look whether it is bound.
    let rig = Rig::new();
    let trace = rig.trace.clone();
    let _subscription = rig.bus.subscribe(move |event: &BusEvent<'_, Stage>| {
        if let BusEvent::Binding(dev) | BusEvent::Bound(dev) | BusEvent::Unbinding(dev) | BusEvent::Unbound(dev) = event
        {
            trace.write(format!("bound: {}", dev.is_bound()));
        }
    });
    rig.driver(rig.actor("K"));
    let a = rig.device("A");
    assert_eq!(rig.driver_of("A").as_deref(), Some("K"));
    rig.bus.sysfs().unbind("K", "A").expect("K is bound").wait();
    let bound: Vec<_> = rig.trace.take().into_iter().filter(|line| line.starts_with("bound")).collect();
    assert_eq!(bound, ["bound: false", "bound: true", "bound: true", "bound: false"]);
    assert_eq!(rig.driver_of("A"), None);
    assert_eq!(a.driver_hint(), None);
}

#[test]
fn a_refused_dma_configure_leaves_no_trace_of_the_driver() {
    // D34, D37: no notifier of any kind, no unuse, no probe; the driver is gone again.
    let rig = Rig::new();
    rig.refuse_dma(Some(ProbeError::errno_only(Errno::EBUSY)));
    rig.driver(rig.actor("K"));
    let a = rig.device("A");
    rig.expect(&["ADD A", "dma_configure A", "use A K"]);
    assert_eq!(rig.driver_of("A"), None);
    assert_eq!(a.driver_hint(), None);
    rig.refuse_dma(None);
    rig.bus.sysfs().bind("K", "A").expect("nothing is in the way any more");
    rig.expect(&["dma_configure A", "use A K", "BIND A K", "probe A K", "BOUND A K"]);
}

#[test]
fn a_failed_probe_tells_before_dma_ends_and_resources_go_after() {
    // D36: NOT_BOUND while the driver is set and the resources are there; then E2, then E3 in reverse order.
    let rig = Rig::new();
    let stones = [rig.trace.clone(), rig.trace.clone()];
    let tomb = move |n: usize| {
        let trace = stones[n].clone();
        crate::rig::Tombstone::new(&trace, &format!("resource {n} dropped"))
    };
    rig.driver(rig.actor("K").probing(move |dev| {
        dev.manage(tomb(0));
        dev.manage(tomb(1));
        Err(ProbeError::errno_only(Errno::EIO))
    }));
    let _subscription = rig.bus.subscribe({
        let trace = rig.trace.clone();
        move |event: &BusEvent<'_, Stage>| {
            if let BusEvent::NotBound(dev) = event {
                let there = dev.resource::<crate::rig::Tombstone>().is_some();
                trace.write(format!("resources there: {there}"));
            }
        }
    });
    rig.device("A");
    rig.expect(&[
        "ADD A",
        "dma_configure A",
        "use A K",
        "BIND A K",
        "probe A K",
        "NOT_BOUND A K",
        "resources there: true",
        "unuse A",
        "resource 1 dropped",
        "resource 0 dropped",
    ]);
    assert_eq!(rig.driver_of("A"), None);
}

#[test]
fn an_unbind_ends_dma_before_it_drops_the_resources_last_to_first() {
    // D41: R8 before R9.
    let rig = Rig::new();
    let trace = rig.trace.clone();
    rig.driver(rig.actor("K").probing(move |dev| {
        for n in 0..3 {
            dev.manage(crate::rig::Tombstone::new(&trace, &format!("resource {n} dropped")));
        }
        Ok(())
    }));
    rig.device("A");
    rig.trace.take();
    rig.bus.sysfs().unbind("K", "A").expect("K is bound").wait();
    rig.expect(&[
        "UNBIND A K",
        "remove A K",
        "unuse A",
        "resource 2 dropped",
        "resource 1 dropped",
        "resource 0 dropped",
        "UNBOUND A -",
    ]);
}

#[test]
fn a_driver_that_manages_its_own_dma_takes_no_right() {
    // D63: dma_configure is asked, but there is nothing to clean up.
    let rig = Rig::new();
    rig.driver(rig.actor("vfio").managed());
    rig.device("A");
    rig.bus.sysfs().unbind("vfio", "A").expect("it is bound").wait();
    rig.expect(&[
        "ADD A",
        "dma_configure A",
        "BIND A vfio",
        "probe A vfio",
        "BOUND A vfio",
        "UNBIND A vfio",
        "remove A vfio",
        "UNBOUND A -",
    ]);
}

#[test]
fn deleting_a_bound_device_has_the_order_of_d66() {
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    let a = rig.device("A");
    rig.trace.take();
    a.remove().wait();
    // Dt12.3, D13: REMOVED comes after the right to DMA has ended.
    rig.expect(&["DEL A", "UNBIND A K", "remove A K", "unuse A", "UNBOUND A -", "REMOVED A"]);
}

#[test]
fn the_hint_shows_the_link_between_p7_and_r4() {
    let rig = Rig::new();
    let trace = rig.trace.clone();
    let _subscription = rig.bus.subscribe(move |event: &BusEvent<'_, Stage>| {
        use BusEvent::{Bound, NotBound, Unbinding};
        if let Bound(dev) | NotBound(dev) | Unbinding(dev) = event {
            trace.write(format!("link {:?}", dev.device().driver_hint().as_deref()));
        }
    });
    rig.driver(rig.actor("F").failing(Errno::EIO));
    rig.driver(rig.actor("K"));
    let a = rig.device("A");
    rig.bus.sysfs().unbind("K", "A").expect("K is bound").wait();
    let links: Vec<_> = rig.trace.take().into_iter().filter(|line| line.starts_with("link")).collect();
    assert_eq!(links, ["link None", "link Some(\"K\")", "link None"]);
    drop(a);
}

#[test]
fn a_bus_is_closed_with_its_last_handle() {
    // Device by device, the youngest first, each in the order of D66; a handle that is kept keeps nothing bound.
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    let a = rig.device("A");
    rig.device("B");
    rig.trace.take();
    let (trace, weak) = (rig.trace.clone(), rig.bus.downgrade());
    let other = rig.bus.clone();
    let _subscriptions = rig.close();
    assert_eq!(trace.take(), [""; 0]);
    assert!(weak.upgrade().is_some());
    drop(other);
    let gone =
        |dev: &str| ["DEL", "UNBIND", "remove", "unuse", "UNBOUND", "REMOVED"].map(|word| format!("{word} {dev}"));
    let heard: Vec<_> = trace.take().iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(heard, [gone("B"), gone("A")].concat());
    assert!(weak.upgrade().is_none());
    assert!(a.lock().driver().is_none());
    assert!(matches!(a.remove().try_finish(), device_model::Progress::Done));
}
