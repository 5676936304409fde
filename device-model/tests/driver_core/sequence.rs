//! The binding sequence: tables Dt5 to Dt7, D32 to D41, D66.

use device_model::{DeviceSpec, Errno, ProbeError};

use crate::rig::Rig;

#[test]
fn a_bind_and_an_unbind_take_the_steps_of_dt5_and_dt7() {
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    let a = rig.device("A");
    rig.expect(&["ADD A", "dma_configure A K", "BIND A K", "probe A K", "BOUND A K"]);
    assert!(a.lock().is_bound());
    rig.bus.unbind("K", "A").expect("K is bound").wait();
    // R5, R7, R8, R13: remove runs with the right to DMA, UNBOUND hears of no driver.
    rig.expect(&["UNBIND A K", "remove A K", "dma_cleanup A", "UNBOUND A -"]);
    assert!(!a.lock().is_bound());
}

#[test]
fn the_driver_is_readable_in_every_callback_until_it_is_gone() {
    // D3, D32, D36, Dt12: the trace prints dev->driver as each event sees it; here the callbacks themselves look.
    let rig = Rig::new();
    let seen = |dev: &device_model::DeviceGuard<'_>| dev.driver().map(|driver| driver.name().to_string());
    rig.driver(
        rig.actor("K")
            .probing(move |dev| {
                assert_eq!(seen(dev).as_deref(), Some("K"));
                assert!(!dev.is_bound(), "D2: being probed is not being bound");
                Ok(())
            })
            .removing(move |dev, _| {
                assert_eq!(seen(dev).as_deref(), Some("K"));
                device_model::Removal::Done
            }),
    );
    let a = rig.device("A");
    assert_eq!(rig.driver_of("A").as_deref(), Some("K"));
    rig.bus.unbind("K", "A").expect("K is bound").wait();
    assert_eq!(rig.driver_of("A"), None);
    assert_eq!(a.driver_hint(), None);
}

#[test]
fn a_refused_dma_configure_leaves_no_trace_of_the_driver() {
    // D34, D37: no notifier of any kind, no dma_cleanup, no probe; the driver is gone again.
    let rig = Rig::new();
    rig.refuse_dma(Some(ProbeError::errno_only(Errno::EBUSY)));
    rig.driver(rig.actor("K"));
    let a = rig.device("A");
    rig.expect(&["ADD A", "dma_configure A K"]);
    assert_eq!(rig.driver_of("A"), None);
    assert_eq!(a.driver_hint(), None);
    rig.refuse_dma(None);
    rig.bus.bind("K", "A").expect("nothing is in the way any more");
    rig.expect(&["dma_configure A K", "BIND A K", "probe A K", "BOUND A K"]);
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
    rig.bus.subscribe({
        let trace = rig.trace.clone();
        move |event: &device_model::BusEvent<'_>| {
            if let device_model::BusEvent::NotBound(dev) = event {
                let there = dev.resource::<crate::rig::Tombstone>().is_some();
                trace.write(format!("resources there: {there}"));
            }
        }
    });
    rig.device("A");
    rig.expect(&[
        "ADD A",
        "dma_configure A K",
        "BIND A K",
        "probe A K",
        "NOT_BOUND A K",
        "resources there: true",
        "dma_cleanup A",
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
    let a = rig.device("A");
    // A resource that is added later, by whoever holds the lock, goes first.
    a.lock().manage(rig.tombstone("late resource dropped"));
    rig.trace.take();
    rig.bus.unbind("K", "A").expect("K is bound").wait();
    rig.expect(&[
        "UNBIND A K",
        "remove A K",
        "dma_cleanup A",
        "late resource dropped",
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
    rig.bus.unbind("vfio", "A").expect("it is bound").wait();
    rig.expect(&[
        "ADD A",
        "dma_configure A vfio managed",
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
    rig.bus.remove_device(&a).wait();
    // Dt12.3, D13: REMOVED comes after the right to DMA has ended.
    rig.expect(&["DEL A", "UNBIND A K", "remove A K", "dma_cleanup A", "UNBOUND A -", "REMOVED A"]);
}

#[test]
fn the_hint_shows_the_link_between_p7_and_r4() {
    let rig = Rig::new();
    let trace = rig.trace.clone();
    rig.bus.subscribe(move |event: &device_model::BusEvent<'_>| {
        use device_model::BusEvent::{Bound, NotBound, Unbinding};
        if let Bound(dev) | NotBound(dev) | Unbinding(dev) = event {
            trace.write(format!("link {:?}", dev.device().driver_hint().as_deref()));
        }
    });
    rig.driver(rig.actor("F").failing(Errno::EIO));
    rig.driver(rig.actor("K"));
    let a = rig.device("A");
    rig.bus.unbind("K", "A").expect("K is bound").wait();
    let links: Vec<_> = rig.trace.take().into_iter().filter(|line| line.starts_with("link")).collect();
    assert_eq!(links, ["link None", "link Some(\"K\")", "link None"]);
    drop(a);
}

#[test]
fn when_the_bus_goes_rights_end_without_ceremony() {
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    let a = rig.device("A");
    rig.trace.take();
    let Rig { bus, trace, .. } = rig;
    drop(bus);
    drop(a);
    assert_eq!(trace.take(), ["dma_cleanup A"]);
}

#[test]
fn a_bus_without_dma_takes_no_part() {
    // D6, D60.
    struct Plain;
    impl device_model::Bus for Plain {
        fn name(&self) -> &'static str {
            "plain"
        }
        fn matches(&self, _: &device_model::Device, _: &dyn device_model::Driver) -> device_model::Match {
            device_model::Match::Yes
        }
    }
    let rig = Rig::new();
    let bus = rig.core.add_bus(Plain);
    bus.add_driver(device_model::sync::Arc::new(rig.actor("K"))).expect("the name is free");
    let dev = bus.add_device(DeviceSpec::new("A")).expect("the name is free");
    assert!(dev.lock().is_bound());
    rig.expect(&["probe A K"]);
}
