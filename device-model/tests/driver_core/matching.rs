//! Match outcomes and the search of one device for a driver: table Dt4, D16 to D18, D25, D28, T41 to T43.

use device_model::{Awaits, Errno, Match, ProbeError};
use proptest::prelude::*;

use crate::rig::Rig;

/// The drivers that were probed, in order.
fn probed(rig: &Rig) -> Vec<String> {
    rig.trace.take().iter().filter_map(|line| line.strip_prefix("probe A ")).map(str::to_owned).collect()
}

#[test]
fn drivers_are_tried_in_registration_order_until_one_binds() {
    let rig = Rig::new();
    rig.driver(rig.actor("other").fits(&["B"]));
    rig.driver(rig.actor("broken").failing(Errno::ENODEV));
    rig.driver(rig.actor("good"));
    rig.driver(rig.actor("late"));
    rig.device("A");
    // Dt4.1: no match, next; Dt4.6 and T43: a failed callback, next; Dt4.5: bound, stop.
    rig.expect(&[
        "ADD A",
        "dma_configure A",
        "use A broken",
        "BIND A broken",
        "probe A broken",
        "NOT_BOUND A broken",
        "unuse A",
        "dma_configure A",
        "use A good",
        "BIND A good",
        "probe A good",
        "BOUND A good",
    ]);
}

#[test]
fn a_match_that_cannot_tell_yet_stops_the_search_and_waits() {
    // Dt4.2.
    let rig = Rig::new();
    rig.driver(rig.actor("unsure").matching(|_| Match::Deferred(Awaits::Anything)));
    rig.driver(rig.actor("good"));
    rig.device("A");
    rig.expect(&["ADD A"]);
    assert_eq!(rig.deferred(), ["A"]);
}

#[test]
fn a_match_that_fails_stops_the_search_for_good() {
    // Dt4.3.
    let rig = Rig::new();
    rig.driver(rig.actor("failing").matching(|_| Match::Failed(Errno::EIO)));
    rig.driver(rig.actor("good"));
    rig.device("A");
    rig.expect(&["ADD A"]);
    assert!(rig.deferred().is_empty());
    let error = rig.bus.sysfs().drivers_probe("A").expect_err("the match fails again");
    assert_eq!(error.errno(), Errno::EINVAL);
}

#[test]
fn a_refusal_of_the_core_stops_the_search() {
    // Dt4.7, T42: K comes first and may not do DMA; V, which manages its own, is not tried, but binds by hand.
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    rig.driver(rig.actor("V").managed());
    rig.refuse_dma(Some(ProbeError::errno_only(Errno::EBUSY)));
    rig.device("A");
    rig.expect(&["ADD A", "dma_configure A", "use A K"]);
    assert_eq!(rig.bus.sysfs().drivers_probe("A").expect_err("K is refused").errno(), Errno::EINVAL);
    rig.expect(&["dma_configure A", "use A K"]);
    rig.bus.sysfs().bind("V", "A").expect("V needs no kernel DMA");
    assert_eq!(probed(&rig), ["V"]);
}

#[test]
fn a_deferred_callback_lets_the_next_driver_try() {
    // D25: positive EPROBE_DEFER goes on; D57: bound by another, the device waits no more.
    let rig = Rig::new();
    rig.driver(rig.actor("early").probing(|_| Err(crate::rig::anything())));
    rig.driver(rig.actor("good"));
    rig.device("A");
    assert_eq!(probed(&rig), ["early", "good"]);
    assert!(rig.deferred().is_empty());
}

#[test]
fn registering_a_driver_tries_every_device_and_swallows_every_outcome() {
    // D28: in the order of the devices; a match that fails or waits hinders no other device.
    let rig = Rig::new();
    for name in ["A", "B", "C", "D"] {
        rig.device(name);
    }
    rig.trace.take();
    rig.driver(
        rig.actor("K")
            .matching(|dev| match &**dev.name() {
                "A" => Match::Failed(Errno::EIO),
                "B" => Match::Deferred(Awaits::Supplier("nobody".into())),
                _ => Match::Yes,
            })
            .probing(|dev| match &**dev.device().name() {
                "C" => Err(ProbeError::errno_only(Errno::EIO)),
                _ => Ok(()),
            }),
    );
    let lines = rig.trace.take();
    let probes: Vec<_> = lines.iter().filter(|line| line.starts_with("probe")).collect();
    assert_eq!(probes, ["probe C K", "probe D K"]);
    assert_eq!(rig.deferred(), ["B"]);
    assert_eq!(rig.driver_of("D").as_deref(), Some("K"));
}

#[test]
fn a_device_that_has_a_driver_waits_for_no_other() {
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    rig.device("A");
    rig.driver(rig.actor("unsure").matching(|_| Match::Deferred(Awaits::Supplier("nobody".into()))));
    assert!(rig.deferred().is_empty());
    assert_eq!(rig.driver_of("A").as_deref(), Some("K"));
}

#[test]
fn a_driver_does_not_take_a_device_that_has_one() {
    // Dt3.2: the gate; nothing is touched.
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    rig.device("A");
    rig.trace.take();
    rig.driver(rig.actor("late"));
    rig.expect(&[]);
    assert_eq!(rig.driver_of("A").as_deref(), Some("K"));
}

#[test]
fn an_override_decides_alone() {
    // D16: unset, equal, different.
    let rig = Rig::new();
    rig.bus.set_drivers_autoprobe(false);
    rig.driver(rig.actor("K").fits(&["A"]));
    rig.driver(rig.actor("V").fits(&[]));
    let a = rig.device("A");
    rig.trace.take();
    assert_eq!(rig.bus.sysfs().bind("V", "A").expect_err("V fits nothing").errno(), Errno::ENODEV);
    a.set_driver_override(Some("V"));
    // D48: an override to another driver is no match.
    assert_eq!(rig.bus.sysfs().bind("K", "A").expect_err("only V may").errno(), Errno::ENODEV);
    rig.bus.sysfs().drivers_probe("A").expect("V binds");
    assert_eq!(probed(&rig), ["V"]);
}

#[test]
fn an_override_changes_no_binding() {
    // D18, T41: the device stays with K, drivers_probe is content with that.
    let rig = Rig::new();
    rig.driver(rig.actor("K"));
    rig.driver(rig.actor("V"));
    let a = rig.device("A");
    rig.trace.take();
    a.set_driver_override(Some("V"));
    rig.bus.sysfs().drivers_probe("A").expect("it has a driver");
    rig.expect(&[]);
    assert_eq!(rig.driver_of("A").as_deref(), Some("K"));
    rig.bus.sysfs().unbind("K", "A").expect("K is bound").wait();
    rig.bus.sysfs().drivers_probe("A").expect("V binds");
    assert_eq!(rig.driver_of("A").as_deref(), Some("V"));
}

#[test]
fn a_written_override_ends_at_the_newline() {
    // D17.
    let rig = Rig::new();
    let a = rig.device("A");
    for (text, reads) in [
        ("vfio-pci\n", Some("vfio-pci")),
        ("", None),
        ("K", Some("K")),
        ("\nV", None),
        ("two words\nand more\n", Some("two words")),
        ("\n", None),
    ] {
        a.write_driver_override(text).expect("it is short");
        assert_eq!(a.driver_override().as_deref(), reads, "{text:?}");
    }
    a.set_driver_override(Some("K"));
    let error = a.write_driver_override(&"x".repeat(4095)).expect_err("PAGE_SIZE - 1 is too long");
    assert_eq!((error.errno(), error.length), (Errno::EINVAL, 4095));
    assert_eq!(a.driver_override().as_deref(), Some("K"));
    a.write_driver_override(&"x".repeat(4094)).expect("the longest that fits");
}

proptest! {
    /// D16, D17 for any text: what is read back is the text up to the newline, and it demands exactly that driver.
    #[test]
    fn an_override_names_exactly_one_driver(text in "[ab\n]{0,6}", driver in "[ab]{0,6}") {
        use device_model::Override::{Demands, Excludes, Unset};
        let rig = Rig::new();
        let a = rig.device("A");
        a.write_driver_override(&text).expect("it is short");
        let name = text.split('\n').next().unwrap_or_default();
        let verdict = match name {
            "" => Unset,
            name if name == driver => Demands,
            _ => Excludes,
        };
        prop_assert_eq!(a.override_verdict(&driver), verdict);
    }

    /// Table Dt4 as a whole, for any row of drivers: who is probed, who binds, who waits.
    #[test]
    fn the_search_follows_dt4(rows in proptest::collection::vec(0_u8..6, 0..8)) {
        let rig = Rig::new();
        for (n, row) in rows.iter().copied().enumerate() {
            let actor = rig.actor(&format!("D{n}"));
            rig.driver(match row {
                0 => actor.fits(&[]),
                1 => actor.matching(|_| Match::Deferred(Awaits::Anything)),
                2 => actor.matching(|_| Match::Failed(Errno::EIO)),
                3 => actor,
                4 => actor.failing(Errno::EIO),
                _ => actor.probing(|_| Err(crate::rig::anything())),
            });
        }
        rig.device("A");
        let mut expected = Vec::new();
        let (mut bound, mut waits) = (None, false);
        for (n, row) in rows.iter().copied().enumerate() {
            if row >= 3 {
                expected.push(format!("D{n}"));
            }
            waits |= matches!(row, 1 | 5);
            if row == 3 {
                bound = Some(format!("D{n}"));
                waits = false;
            }
            if (1..=3).contains(&row) {
                break;
            }
        }
        prop_assert_eq!(probed(&rig), expected);
        prop_assert_eq!(rig.driver_of("A"), bound);
        prop_assert_eq!(rig.deferred().len(), usize::from(waits));
    }
}
