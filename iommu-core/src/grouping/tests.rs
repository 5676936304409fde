use alloc::vec;

use device_model::pci::{ConfigBuilder, ConfigSpace, Upstream};

use super::*;

mod random;

const NONE: AcsBits = AcsBits::from_bits(0);

fn at(text: &str) -> PciAddress {
    text.parse().unwrap()
}

fn function(text: &str, config: ConfigBuilder) -> PciFunction {
    PciFunction::new(at(text), config.build())
}

fn conventional() -> ConfigBuilder {
    ConfigSpace::builder()
}

fn express(port_type: PortType) -> ConfigBuilder {
    ConfigSpace::builder().pcie(port_type)
}

fn isolating(port_type: PortType) -> ConfigBuilder {
    express(port_type).acs(ISOLATION, ISOLATION)
}

fn groups(functions: impl IntoIterator<Item = PciFunction>) -> Vec<Vec<PciAddress>> {
    partition(&functions.into_iter().collect())
}

fn expected(groups: &[&[&str]]) -> Vec<Vec<PciAddress>> {
    groups.iter().map(|group| group.iter().map(|text| at(text)).collect()).collect()
}

#[test]
fn i46_what_isolates() {
    use PortType::{
        DownstreamPort, Endpoint, EventCollector, IntegratedEndpoint, LegacyEndpoint, Other, PciToPcie, PcieToPci,
        RootPort, UpstreamPort,
    };
    let alone = |config: ConfigBuilder| isolates(&function("00:01.0", config));
    for port_type in [RootPort, DownstreamPort] {
        assert!(!alone(express(port_type)), "{port_type:?} needs the capability");
        assert!(alone(isolating(port_type)));
        assert!(!alone(express(port_type).acs(ISOLATION, NONE)), "switched off");
        assert!(alone(express(port_type).acs(NONE, NONE)), "what is not implemented counts as on");
    }
    for port_type in [Endpoint, LegacyEndpoint, UpstreamPort, IntegratedEndpoint] {
        assert!(alone(express(port_type)), "{port_type:?} is alone");
        assert!(!alone(express(port_type).multifunction()));
        assert!(alone(isolating(port_type).multifunction()));
    }
    for port_type in [PcieToPci, PciToPcie, EventCollector, Other(2)] {
        assert!(!alone(isolating(port_type)), "{port_type:?} never isolates");
    }
    assert!(!alone(conventional()));
    for (quirk, answer) in [(AcsQuirk::Isolated, true), (AcsQuirk::NotIsolated, false)] {
        for config in [conventional(), isolating(RootPort)] {
            let quirky = PciFunction { acs_quirk: Some(quirk), ..function("00:01.0", config) };
            assert_eq!(isolates(&quirky), answer, "the quirk speaks first");
        }
    }
}

#[test]
fn i45_each_of_the_four_services_is_needed() {
    for bit in (0..16).map(|bit| AcsBits::from_bits(1 << bit)) {
        let all = AcsBits::from_bits(0xffff);
        let without = AcsBits::from_bits(!bit.bits());
        let port = function("00:01.0", express(PortType::RootPort).acs(all, without));
        assert_eq!(isolates(&port), !ISOLATION.contains(bit), "{bit:?}");
    }
}

#[test]
fn i48_functions_of_one_device_share() {
    let multi = || express(PortType::Endpoint).multifunction();
    assert_eq!(
        groups([function("01:00.0", multi()), function("01:00.1", multi()), function("01:01.0", multi())]),
        expected(&[&["01:00.0", "01:00.1"], &["01:01.0"]])
    );
    let acs = || isolating(PortType::Endpoint).multifunction();
    assert_eq!(
        groups([function("01:00.0", multi()), function("01:00.1", acs()), function("01:00.2", multi())]),
        expected(&[&["01:00.0", "01:00.2"], &["01:00.1"]]),
        "only those without ACS"
    );
}

#[test]
fn i48_a_port_that_does_not_isolate_shares_with_all_below() {
    let tree = |upper: ConfigBuilder, lower: ConfigBuilder| {
        groups([
            function("00:01.0", upper.bridge(1, 3)),
            function("01:00.0", express(PortType::UpstreamPort).bridge(2, 3)),
            function("02:00.0", lower.bridge(3, 3)),
            function("03:00.0", express(PortType::Endpoint)),
        ])
    };
    let (root, down) = (PortType::RootPort, PortType::DownstreamPort);
    let apart = expected(&[&["00:01.0"], &["01:00.0"], &["02:00.0"], &["03:00.0"]]);
    assert_eq!(tree(isolating(root), isolating(down)), apart);
    let below = expected(&[&["00:01.0"], &["01:00.0"], &["02:00.0", "03:00.0"]]);
    assert_eq!(tree(isolating(root), express(down)), below);
    let all = expected(&[&["00:01.0", "01:00.0", "02:00.0", "03:00.0"]]);
    assert_eq!(tree(express(root), isolating(down)), all);
}

#[test]
fn i48_a_conventional_bus_shares_with_its_bridge() {
    let behind = |bridge: ConfigBuilder| {
        groups([
            function("00:01.0", isolating(PortType::RootPort).bridge(1, 2)),
            function("01:00.0", bridge.bridge(2, 2)),
            function("02:01.0", conventional()),
            function("02:02.0", conventional()),
        ])
    };
    let shared = expected(&[&["00:01.0"], &["01:00.0", "02:01.0", "02:02.0"]]);
    assert_eq!(behind(express(PortType::PcieToPci)), shared);
    assert_eq!(behind(conventional()), shared);
}

#[test]
fn i47_an_alias_joins_in_both_directions_and_on() {
    let alias = |text: &str, devfn: &str| PciFunction {
        dma_aliases: vec![at(devfn).devfn()],
        ..function(text, express(PortType::IntegratedEndpoint))
    };
    let plain = |text: &str| function(text, express(PortType::IntegratedEndpoint));
    let together = expected(&[&["00:02.0", "00:03.0", "00:04.0"], &["00:05.0"]]);
    assert_eq!(
        groups([alias("00:02.0", "00:03.0"), plain("00:03.0"), alias("00:04.0", "00:03.0"), plain("00:05.0")]),
        together
    );
    assert_eq!(
        groups([plain("00:02.0"), alias("00:03.0", "00:02.0"), alias("00:04.0", "00:03.0"), plain("00:05.0")]),
        together
    );
}

#[test]
fn virtual_functions_are_alone_unless_their_port_is_not_isolating() {
    let virtual_function = |text: &str| PciFunction {
        physical_function: Some(at("01:00.0")),
        upstream: Upstream::Bridge(at("00:01.0")),
        ..function(text, express(PortType::Endpoint))
    };
    let tree = |port: ConfigBuilder| {
        groups([
            function("00:01.0", port.bridge(1, 2)),
            function("01:00.0", express(PortType::Endpoint)),
            virtual_function("02:00.1"),
            virtual_function("02:00.2"),
        ])
    };
    assert_eq!(tree(isolating(PortType::RootPort)).len(), 4);
    assert_eq!(tree(express(PortType::RootPort)).len(), 1);
}

#[test]
fn i47_neighbours_in_a_slot_that_are_not_of_one_device_stay_apart() {
    let virtual_function = |text: &str| PciFunction {
        physical_function: Some(at("00:00.0")),
        acs_quirk: Some(AcsQuirk::NotIsolated),
        ..function(text, express(PortType::Endpoint))
    };
    assert_eq!(groups([virtual_function("01:00.1"), virtual_function("01:00.2")]).len(), 2);
}

#[test]
fn reasons_name_bridges_and_neighbours() {
    let topology: PciTopology = [
        function("00:1c.0", express(PortType::RootPort).multifunction().bridge(1, 2)),
        function("00:1c.1", express(PortType::RootPort).bridge(3, 3)),
        function("01:00.0", express(PortType::PcieToPci).bridge(2, 2)),
        function("02:00.0", conventional()),
    ]
    .into_iter()
    .collect();
    let slot = Shared::Multifunction { function: at("00:1c.0"), other: at("00:1c.1") };
    assert_eq!(
        reasons(&topology, at("02:00.0")),
        [Shared::AliasBehind(at("01:00.0")), Shared::NoAcsAbove(at("00:1c.0")), slot]
    );
    assert_eq!(reasons(&topology, at("00:1c.0")), [slot]);
    assert_eq!(reasons(&topology, at("05:00.0")), []);
    assert_eq!(group_key(&topology, at("05:00.0")), None);
    assert_eq!(anchors(&topology, at("02:00.0")), [at("00:1c.0"), at("00:1c.1")]);
}

#[test]
fn the_reasons_of_a_group_are_those_of_its_members() {
    let mut aliasing = function("04:00.0", conventional());
    aliasing.dma_aliases = vec![at("04:01.0").devfn()];
    let topology: PciTopology = [
        function("00:1c.0", express(PortType::RootPort).multifunction().bridge(1, 2)),
        function("00:1c.1", express(PortType::RootPort).bridge(3, 3)),
        function("01:00.0", express(PortType::PcieToPci).bridge(2, 2)),
        function("02:00.0", conventional()),
        function("02:01.0", conventional()),
        function("03:00.0", express(PortType::Endpoint)),
        function("00:1d.0", isolating(PortType::RootPort).bridge(4, 4)),
        aliasing,
        function("04:01.0", conventional()),
        function("00:02.0", conventional()),
    ]
    .into_iter()
    .collect();
    for members in partition(&topology) {
        let each: BTreeSet<Shared> = members.iter().flat_map(|member| reasons(&topology, *member)).collect();
        assert_eq!(group_reasons(&topology, &members), Some(each), "{members:?}");
    }
    assert_eq!(group_reasons(&topology, &[at("02:00.0"), at("00:02.0")]), None, "they do not share one");
    assert_eq!(group_reasons(&topology, &[at("7f:00.0")]), None, "it is not there");
}
