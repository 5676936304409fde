use std::collections::BTreeMap;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use iommu_core::device_model::pci::ConfigSpace;
use iommu_core::sysfs::{MemoryTree, Snapshot};

use super::*;

fn sets(machine: &str) -> Vec<String> {
    let file = format!("{}/snapshots/{machine}.tree", env!("CARGO_MANIFEST_DIR"));
    let tree = MemoryTree::from_archive(&std::fs::read_to_string(file).unwrap()).unwrap();
    let snapshot = Snapshot::load(&tree).unwrap();
    let mut sets: BTreeMap<ResetScope, Vec<String>> = BTreeMap::new();
    for device in &snapshot.devices {
        sets.entry(reset_scope(&device.function)).or_default().push(device.function.address.to_string());
    }
    sets.into_values().map(|set| set.join(" ")).collect()
}

#[test]
fn v54_a_bus_is_a_set_and_functions_of_the_root_bus_are_alone() {
    let pc = [
        "0000:00:00.0",
        "0000:00:01.0",
        "0000:00:03.0",
        "0000:00:04.0",
        "0000:00:04.1",
        "0000:00:04.2",
        "0000:00:05.0",
        "0000:00:06.0",
        "0000:00:07.0",
        "0000:00:1f.0",
        "0000:00:1f.2",
        "0000:00:1f.3",
        "0000:01:00.0 0000:01:00.1",
        "0000:02:00.0",
        "0000:03:01.0 0000:03:02.0",
    ];
    assert_eq!(sets("pc"), pc);
    let workstation = [
        "0000:00:00.0",
        "0000:00:01.0",
        "0000:00:05.0",
        "0000:00:14.0",
        "0000:00:1c.0",
        "0000:00:1c.1",
        "0000:00:1f.0",
        "0000:00:1f.2",
        "0000:00:1f.3",
        "0000:01:00.0 0000:01:00.1",
        "0000:02:00.0",
        "0000:03:00.0",
    ];
    assert_eq!(sets("workstation"), workstation);
}

#[test]
fn v54_a_virtual_function_is_alone_beside_its_physical_one() {
    let port = Upstream::Bridge("00:1c.0".parse().unwrap());
    let function = |address: &str| PciFunction {
        upstream: port,
        ..PciFunction::new(address.parse().unwrap(), ConfigSpace::default())
    };
    let physical = function("02:00.0");
    let virtual_function = PciFunction { physical_function: Some(physical.address), ..function("02:00.1") };
    assert_eq!(reset_scope(&virtual_function), ResetScope::Alone(virtual_function.address));
    assert_eq!(reset_scope(&physical), ResetScope::Bus { domain: 0, bus: 2 });
    assert_ne!(reset_scope(&function("0001:02:00.0")), reset_scope(&physical), "another domain");
}

#[test]
fn without_a_bridge_by_name_the_bus_number_tells() {
    let function = |address: &str| PciFunction::new(address.parse().unwrap(), ConfigSpace::default());
    assert_eq!(reset_scope(&function("00:03.0")), ResetScope::Alone("00:03.0".parse().unwrap()));
    assert_eq!(reset_scope(&function("01:03.0")), ResetScope::Bus { domain: 0, bus: 1 });
}
