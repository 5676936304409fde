use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::pci::ConfigSpace;

fn at(text: &str) -> PciAddress {
    text.parse().unwrap()
}

fn endpoint(text: &str) -> PciFunction {
    PciFunction::new(at(text), ConfigSpace::builder().build())
}

fn bridge(text: &str, secondary: u8) -> PciFunction {
    PciFunction::new(at(text), ConfigSpace::builder().bridge(secondary, 0xff).build())
}

fn addresses<'a>(functions: impl Iterator<Item = &'a PciFunction>) -> Vec<PciAddress> {
    functions.map(|function| function.address).collect()
}

#[test]
fn bridges_are_found_by_bus_number() {
    let topology: PciTopology =
        [endpoint("02:00.0"), bridge("01:00.0", 2), bridge("00:01.0", 1), endpoint("0001:02:00.0")]
            .into_iter()
            .collect();
    assert_eq!(addresses(topology.bridges_above(at("02:00.0"))), [at("01:00.0"), at("00:01.0")]);
    assert_eq!(topology.bridge_above(at("00:01.0")), None);
    assert_eq!(topology.bridge_above(at("0001:02:00.0")), None, "another domain");
}

#[test]
fn what_a_function_knows_wins_for_the_whole_bus() {
    let mut known = endpoint("05:00.0");
    known.upstream = Upstream::Bridge(at("00:02.0"));
    let mut topology: PciTopology =
        [bridge("00:01.0", 5), bridge("00:02.0", 9), endpoint("05:01.0")].into_iter().collect();
    assert_eq!(topology.bridge_above(at("05:01.0")).unwrap().address, at("00:01.0"));
    topology.insert(known.clone());
    assert_eq!(topology.bridge_above(at("05:00.0")).unwrap().address, at("00:02.0"));
    assert_eq!(topology.bridge_above(at("05:01.0")).unwrap().address, at("00:02.0"));
    known.upstream = Upstream::RootBus;
    topology.insert(known);
    assert_eq!(topology.bridge_above(at("05:01.0")), None);
}

#[test]
fn unplugging_the_bridge_cuts_the_way_up() {
    let mut topology: PciTopology = [bridge("00:01.0", 1), endpoint("01:00.0")].into_iter().collect();
    assert_eq!(topology.remove(at("00:01.0")).unwrap().address, at("00:01.0"));
    assert_eq!(topology.remove(at("00:01.0")), None);
    assert_eq!(topology.bridge_above(at("01:00.0")), None);
    assert_eq!(topology.len(), 1);
}

#[test]
fn a_bridge_that_is_replaced_leaves_its_old_bus() {
    let mut topology: PciTopology = [bridge("00:01.0", 1), endpoint("01:00.0")].into_iter().collect();
    assert!(topology.insert(bridge("00:01.0", 2)).is_some());
    assert_eq!(topology.bridge_above(at("01:00.0")), None);
}

#[test]
fn slot_and_bus_are_listed_in_order() {
    let names = ["00:04.2", "00:05.0", "01:04.1", "00:04.0", "00:03.7"];
    let topology: PciTopology = names.into_iter().map(endpoint).collect();
    assert_eq!(addresses(topology.functions_in_slot(at("00:04.1"))), [at("00:04.0"), at("00:04.2")]);
    assert_eq!(
        addresses(topology.functions_on_bus(at("00:00.0"))),
        [at("00:03.7"), at("00:04.0"), at("00:04.2"), at("00:05.0")]
    );
}

#[test]
fn only_a_virtual_function_may_have_a_number_and_be_alone() {
    let mut function = endpoint("01:00.1");
    assert!(function.is_multifunction());
    function.physical_function = Some(at("01:00.0"));
    assert!(!function.is_multifunction());
    function.config = ConfigSpace::builder().multifunction().build();
    assert!(function.is_multifunction());
}

prop_compose! {
    /// Bridges that point anywhere, at themselves and each other too.
    fn arbitrary_function()(bus in 0_u8..6, devfn in 0_u8..4, secondary: Option<u8>, named in 0_u8..8, alias: Option<u8>) -> PciFunction {
        let address = PciAddress::new(0, bus, Devfn::from_byte(devfn));
        let builder = ConfigSpace::builder();
        let config = secondary.map_or(builder.clone(), |bus| builder.bridge(bus % 6, 0xff)).build();
        let upstream = match named {
            0 => Upstream::RootBus,
            1..6 => Upstream::Bridge(PciAddress::new(0, named, Devfn::from_byte(0))),
            _ => Upstream::ByBusNumber,
        };
        let dma_aliases = alias.map(Devfn::from_byte).into_iter().collect();
        PciFunction { upstream, dma_aliases, ..PciFunction::new(address, config) }
    }
}

proptest! {
    #[test]
    fn every_way_up_ends_and_order_of_insertion_does_not_count(
        functions in prop::collection::btree_map(any::<u8>(), arbitrary_function(), 0..24),
    ) {
        let mut by_address = BTreeMap::new();
        by_address.extend(functions.into_values().map(|function| (function.address, function)));
        let forwards: PciTopology = by_address.values().cloned().collect();
        let backwards: PciTopology = by_address.values().rev().cloned().collect();
        for function in forwards.iter() {
            let up = addresses(forwards.bridges_above(function.address));
            prop_assert!(up.iter().map(|bridge| bridge.bus()).rev().is_sorted());
            prop_assert!(up.len() < 6);
            prop_assert_eq!(up, addresses(backwards.bridges_above(function.address)));
            let beside = forwards.functions_on_bus(function.address);
            let aliasing = addresses(beside.filter(|function| !function.dma_aliases.is_empty()));
            prop_assert_eq!(aliasing, addresses(forwards.aliasing_functions_on_bus(function.address)));
        }
        prop_assert_eq!(&forwards, &backwards);

        let mut emptied = forwards.clone();
        for address in by_address.keys() {
            emptied.remove(*address);
        }
        prop_assert_eq!(emptied, PciTopology::new());
    }
}
