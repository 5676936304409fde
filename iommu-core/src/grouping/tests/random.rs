//! Trees made up at random, and a second way to group them.

use alloc::vec;

use device_model::pci::{Acs, ConfigSpace, Devfn};
use proptest::prelude::*;

use super::super::*;

/// What a function of a made-up tree is.
#[derive(Clone, Debug)]
struct Spec {
    /// Which of the buses so far.
    bus: u8,
    devfn: u8,
    port_type: Option<PortType>,
    is_bridge: bool,
    acs: Option<Acs>,
    quirk: Option<AcsQuirk>,
    aliases: Vec<Devfn>,
}

const PORT_TYPES: [PortType; 10] = [
    PortType::Endpoint,
    PortType::LegacyEndpoint,
    PortType::RootPort,
    PortType::UpstreamPort,
    PortType::DownstreamPort,
    PortType::PcieToPci,
    PortType::PciToPcie,
    PortType::IntegratedEndpoint,
    PortType::EventCollector,
    PortType::Other(3),
];

prop_compose! {
    fn spec()(
        bus: u8,
        slot in 0_u8..3,
        function in 0_u8..3,
        port_type in prop::option::weighted(0.9, prop::sample::select(&PORT_TYPES[..])),
        is_bridge: bool,
        acs in prop::option::weighted(0.7, prop::sample::select(vec![(0x5f, 0x1d), (0x5f, 0), (0, 0), (4, 4)])),
        quirk in prop::option::weighted(0.1, prop::sample::select(vec![AcsQuirk::Isolated, AcsQuirk::NotIsolated])),
        alias in prop::option::weighted(0.3, (0_u8..3, 0_u8..3)),
    ) -> Spec {
        use PortType::{DownstreamPort, PciToPcie, PcieToPci, RootPort, UpstreamPort};
        // An endpoint is no bridge, and a port is one.
        let is_bridge = match port_type {
            None => is_bridge,
            Some(port) => matches!(port, RootPort | UpstreamPort | DownstreamPort | PcieToPci | PciToPcie),
        };
        let acs = acs.map(|(capability, control)| Acs {
            capability: AcsBits::from_bits(capability),
            control: AcsBits::from_bits(control),
        });
        let aliases = alias.and_then(|(slot, function)| Devfn::new(slot, function)).into_iter().collect();
        Spec { bus, devfn: slot << 3 | function, port_type, is_bridge, acs, quirk, aliases }
    }
}

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    prop::collection::vec(spec(), 1..24)
}

/// The functions of a well-formed tree, bridges before what is below them; each with the number of its spec.
fn tree(specs: &[Spec]) -> Vec<(usize, PciFunction)> {
    let mut buses = 1;
    let mut taken = BTreeMap::new();
    let mut functions = Vec::new();
    for (number, spec) in specs.iter().enumerate() {
        let address = PciAddress::new(0, spec.bus % buses, Devfn::from_byte(spec.devfn));
        if taken.insert(address, number).is_none() {
            functions.push((number, address, spec.is_bridge.then_some(buses)));
            buses += u8::from(spec.is_bridge);
        }
    }
    let build = |(number, address, secondary): (usize, PciAddress, Option<u8>)| {
        let spec = &specs[number];
        let mates = taken.keys().filter(|other| (other.bus(), other.slot()) == (address.bus(), address.slot()));
        let mut config = ConfigSpace::builder();
        if mates.count() > 1 {
            config = config.multifunction();
        }
        if let Some(bus) = secondary {
            config = config.bridge(bus, 0xff);
        }
        if let Some(port_type) = spec.port_type {
            config = config.pcie(port_type);
        }
        if let Some(acs) = spec.acs {
            config = config.acs(acs.capability, acs.control);
        }
        let mut function = PciFunction::new(address, config.build());
        function.acs_quirk = spec.quirk;
        function.dma_aliases.clone_from(&spec.aliases);
        (number, function)
    };
    functions.into_iter().map(build).collect()
}

/// I47 word by word: each function, as it arrives, looks for a group to join.
fn one_by_one(topology: &PciTopology, order: &[PciAddress]) -> Vec<Vec<PciAddress>> {
    let mut group_of: BTreeMap<PciAddress, usize> = BTreeMap::new();
    let mut count = 0;
    for &address in order {
        let group = find_group(topology, &group_of, topology.get(address).unwrap()).unwrap_or_else(|| {
            count += 1;
            count
        });
        group_of.insert(address, group);
    }
    let mut groups: BTreeMap<usize, Vec<PciAddress>> = BTreeMap::new();
    for (address, group) in group_of {
        groups.entry(group).or_default().push(address);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort();
    groups
}

fn find_group(topology: &PciTopology, group_of: &BTreeMap<PciAddress, usize>, arriving: &PciFunction) -> Option<usize> {
    let group = |function: &PciFunction| group_of.get(&function.address).copied();
    let mut device = arriving;
    for bridge in topology.bridges_above(arriving.address).filter(|bridge| takes_over_ids(bridge)) {
        if let Some(group) = group(bridge) {
            return Some(group);
        }
        device = bridge;
    }
    while let Some(bridge) = topology.bridge_above(device.address) {
        if isolates(bridge) && topology.bridges_above(bridge.address).all(isolates) {
            break;
        }
        if let Some(group) = group(bridge) {
            return Some(group);
        }
        device = bridge;
    }
    let mut seen = BTreeSet::new();
    alias_group(topology, group_of, device, &mut seen).or_else(|| {
        if !device.is_multifunction() || isolates(device) {
            return None;
        }
        let mates = topology.functions_in_slot(device.address).filter(|mate| mate.address != device.address);
        mates
            .filter(|mate| !isolates(mate))
            .find_map(|mate| group(mate).or_else(|| alias_group(topology, group_of, mate, &mut seen)))
    })
}

fn alias_group(
    topology: &PciTopology,
    group_of: &BTreeMap<PciAddress, usize>,
    device: &PciFunction,
    seen: &mut BTreeSet<PciAddress>,
) -> Option<usize> {
    if !seen.insert(device.address) {
        return None;
    }
    if let Some(group) = group_of.get(&device.address) {
        return Some(*group);
    }
    let aliases = |one: &PciFunction, other: &PciFunction| one.dma_aliases.contains(&other.address.devfn());
    topology
        .functions_on_bus(device.address)
        .filter(|other| aliases(device, other) || aliases(other, device))
        .find_map(|other| alias_group(topology, group_of, other, seen))
}

proptest! {
    #[test]
    fn i48_the_partition_is_what_linux_comes_to_function_by_function(mut specs in specs()) {
        // With aliases it depends on the order of arrival.
        for spec in &mut specs {
            spec.aliases.clear();
        }
        let tree = tree(&specs);
        let order: Vec<_> = tree.iter().map(|(_, function)| function.address).collect();
        let topology: PciTopology = tree.into_iter().map(|(_, function)| function).collect();
        prop_assert_eq!(partition(&topology), one_by_one(&topology, &order));
    }

    #[test]
    fn no_order_of_arrival_makes_groups_across_the_partition(
        (specs, order) in specs().prop_flat_map(|specs| {
            let addresses: Vec<_> = tree(&specs).iter().map(|(_, function)| function.address).collect();
            (Just(specs), Just(addresses).prop_shuffle())
        }),
    ) {
        let topology: PciTopology = tree(&specs).into_iter().map(|(_, function)| function).collect();
        for group in one_by_one(&topology, &order) {
            let keys: BTreeSet<_> = group.iter().map(|&address| group_key(&topology, address)).collect();
            prop_assert_eq!(keys.len(), 1, "{:?}", group);
        }
    }

    #[test]
    fn each_function_is_in_the_one_group_of_its_key(specs in specs()) {
        let tree = tree(&specs);
        let topology: PciTopology = tree.iter().map(|(_, function)| function.clone()).collect();
        let backwards: PciTopology = tree.into_iter().rev().map(|(_, function)| function).collect();
        let groups = partition(&topology);
        prop_assert_eq!(&groups, &partition(&backwards));
        prop_assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), topology.len());
        prop_assert!(groups.is_sorted_by_key(|group| group[0]));
        let mut keys = BTreeSet::new();
        for group in &groups {
            prop_assert!(group.is_sorted());
            let key = group_key(&topology, group[0]).unwrap();
            prop_assert_eq!(key.first_member(), group[0]);
            prop_assert!(keys.insert(key), "a key of its own");
            for &member in group {
                prop_assert_eq!(group_key(&topology, member), Some(key));
                prop_assert!(anchors(&topology, member).iter().all(|anchor| group.contains(anchor)));
            }
            let why: BTreeSet<_> = group.iter().flat_map(|&member| reasons(&topology, member)).collect();
            prop_assert_eq!(why.is_empty(), group.len() == 1, "a reason if and only if there is something to explain");
        }
    }

    #[test]
    fn switching_acs_on_never_merges(specs in specs(), chosen in prop::collection::vec(any::<bool>(), 24)) {
        let before: PciTopology = tree(&specs).into_iter().map(|(_, function)| function).collect();
        let mut improved = specs;
        for (spec, _) in improved.iter_mut().zip(chosen).filter(|(_, chosen)| *chosen) {
            spec.acs = Some(Acs { capability: ISOLATION, control: ISOLATION });
        }
        let after: PciTopology = tree(&improved).into_iter().map(|(_, function)| function).collect();
        for group in partition(&after) {
            let keys: BTreeSet<_> = group.iter().map(|&address| group_key(&before, address)).collect();
            prop_assert_eq!(keys.len(), 1, "{:?}", group);
        }
    }
}
