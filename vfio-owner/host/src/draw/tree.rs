//! The order in which devices are drawn: each bridge before what is behind it.

use std::collections::BTreeSet;

use vfio_owner::iommu_core::device_model::pci::{PciAddress, PciFunction};

use crate::Host;

/// A device, and how many bridges are above it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Node {
    pub(super) device: PciAddress,
    pub(super) depth: usize,
}

/// Every device, each right after the bridge above it and what is behind its elder siblings.
pub(super) fn in_order(host: &Host) -> Vec<Node> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    let roots = host.topology.iter().filter(|function| host.topology.bridge_above(function.address).is_none());
    for root in roots {
        below(host, root, 1, &mut order, &mut seen);
    }
    // What is left hangs on bridges that are behind themselves.
    for function in host.topology.iter() {
        below(host, function, 1, &mut order, &mut seen);
    }
    order
}

fn below(host: &Host, top: &PciFunction, depth: usize, order: &mut Vec<Node>, seen: &mut BTreeSet<PciAddress>) {
    let mut waiting = vec![(top, depth)];
    while let Some((function, depth)) = waiting.pop() {
        if !seen.insert(function.address) {
            continue;
        }
        order.push(Node { device: function.address, depth });
        let mut children: Vec<&PciFunction> = children(host, function).collect();
        children.reverse();
        waiting.extend(children.into_iter().map(|child| (child, depth + 1)));
    }
}

/// The functions right behind a bridge.
fn children<'a>(host: &'a Host, bridge: &'a PciFunction) -> impl Iterator<Item = &'a PciFunction> {
    let secondary = bridge.config.secondary_bus().filter(|bus| *bus != 0);
    let segment = bridge.address.domain();
    let on_bus = secondary.map(|bus| PciAddress::new(segment, bus, bridge.address.devfn()));
    on_bus.into_iter().flat_map(|address| host.topology.functions_on_bus(address)).filter(move |function| {
        host.topology.bridge_above(function.address).is_some_and(|above| above.address == bridge.address)
    })
}
