//! Computes which PCI functions share an IOMMU group.
//!
//! Two functions share a group when the IOMMU cannot tell them apart, or when requests can pass from one to the other
//! without being translated. Both follow from the topology alone:
//!
//! 1. Walk up from the function to the highest bridge that puts its own requester ID on requests from below, or that
//!    does not isolate what is below. If there is none, stay at the function. (Linux does this in two walks that end at
//!    the same place.)
//! 2. There, on one bus, add all functions that share a requester ID, and the functions of the same device unless they
//!    isolate.
//!
//! The functions found in this way are the group's [`anchors`]; all other members are below them. Linux looks for a
//! group to join for each function as it appears. The resulting partition is the same, unless a function appears that
//! connects functions that have different groups already. Existing groups then stay as they are, and [`anchors`] says
//! which one to join.
// I45 to I48.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::fmt;

use device_model::pci::{AcsBits, AcsQuirk, PciAddress, PciFunction, PciTopology, PortType};

/// The services that isolate only all together.
// I45.
pub const ISOLATION: AcsBits = AcsBits::SOURCE_VALIDATION
    .union(AcsBits::REQUEST_REDIRECT)
    .union(AcsBits::COMPLETION_REDIRECT)
    .union(AcsBits::UPSTREAM_FORWARDING);

/// Whether the function isolates: no request passes through or beside it without going up to the IOMMU.
///
/// An unknown port type isolates nothing.
// I46.
pub fn isolates(function: &PciFunction) -> bool {
    match function.acs_quirk {
        Some(AcsQuirk::Isolated) => return true,
        Some(AcsQuirk::NotIsolated) => return false,
        None => {}
    }
    let has_acs = || function.config.acs().is_some_and(|acs| acs.has_enabled(ISOLATION));
    match function.config.pcie().map(|pcie| pcie.port_type) {
        None | Some(PortType::PcieToPci | PortType::PciToPcie | PortType::EventCollector | PortType::Other(_)) => false,
        Some(PortType::RootPort | PortType::DownstreamPort) => has_acs(),
        Some(PortType::Endpoint | PortType::LegacyEndpoint | PortType::UpstreamPort | PortType::IntegratedEndpoint) => {
            !function.is_multifunction() || has_acs()
        }
    }
}

/// Whether this bridge puts its own requester ID on requests from below: only PCI Express ports preserve IDs.
fn takes_over_ids(bridge: &PciFunction) -> bool {
    let port_type = bridge.config.pcie().map(|pcie| pcie.port_type);
    !matches!(port_type, Some(PortType::RootPort | PortType::UpstreamPort | PortType::DownstreamPort))
}

/// Identifies a group: equal for two functions if and only if they share a group of this topology.
///
/// It is the lowest address in the group, so keys sort as groups do. Keys of different topologies must not be compared:
/// adding a function with a lower address changes its group's key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupKey(PciAddress);

impl GroupKey {
    /// Returns the group's lowest address.
    pub const fn first_member(self) -> PciAddress {
        self.0
    }
}

/// Returns the group of the function at `address`, or `None` if no function is there. The cost grows with the number of
/// bridges above and of functions on one bus, not with the topology.
pub fn group_key(topology: &PciTopology, address: PciAddress) -> Option<GroupKey> {
    // The anchors' bus is the lowest of the group's buses: all other members are below.
    anchors(topology, address).first().copied().map(GroupKey)
}

/// Returns the topmost members of the group of `address`, in order, all on one bus; the other members are below them.
/// Empty if no function is at `address`.
///
/// A hot-plugged function joins the group of the first of these, itself excepted, that has one, and otherwise gets a
/// new group. The cost is that of [`group_key`].
pub fn anchors(topology: &PciTopology, address: PciAddress) -> Vec<PciAddress> {
    topology.get(address).map_or_else(Vec::new, |function| anchors_beside(topology, top(topology, function)))
}

fn anchors_beside(topology: &PciTopology, top: &PciFunction) -> Vec<PciAddress> {
    let mut found = BTreeSet::new();
    spread(topology, top, &mut found, |_| {});
    found.into_iter().collect()
}

/// Returns all groups in the order of their lowest addresses, members in order: each function is in exactly one. The
/// cost of the walk up does not grow with the number of bridges above.
pub fn partition(topology: &PciTopology) -> Vec<Vec<PciAddress>> {
    let mut groups: BTreeMap<GroupKey, Vec<PciAddress>> = BTreeMap::new();
    // Where the way up ends for the functions of each bus. A bridge is on a lower bus than what is below, so it comes first.
    let mut tops: BTreeMap<(u32, u8), Option<&PciFunction>> = BTreeMap::new();
    for function in topology.iter() {
        let bus = |address: PciAddress| (address.domain(), address.bus());
        let top = tops.get(&bus(function.address)).copied().unwrap_or_else(|| {
            let bridge = topology.bridge_above(function.address);
            let above = bridge.and_then(|bridge| tops.get(&bus(bridge.address)).copied().flatten());
            above.or(bridge.filter(|bridge| ties(bridge)))
        });
        tops.insert(bus(function.address), top);
        if let Some(&first) = anchors_beside(topology, top.unwrap_or(function)).first() {
            groups.entry(GroupKey(first)).or_default().push(function.address);
        }
    }
    groups.into_values().collect()
}

/// Where the way up ends: the highest bridge above that ties what is below to itself, else the function.
fn top<'a>(topology: &'a PciTopology, function: &'a PciFunction) -> &'a PciFunction {
    topology.bridges_above(function.address).filter(|bridge| ties(bridge)).last().unwrap_or(function)
}

fn ties(bridge: &PciFunction) -> bool {
    takes_over_ids(bridge) || !isolates(bridge)
}

/// Adds to `found` what shares a group with `start` by being beside it, and tells of each step from one to the next.
fn spread(topology: &PciTopology, start: &PciFunction, found: &mut BTreeSet<PciAddress>, mut step: impl FnMut(Shared)) {
    let with_aliases: Vec<&PciFunction> = topology.aliasing_functions_on_bus(start.address).collect();
    found.insert(start.address);
    let mut reached = alloc::vec![start];
    while let Some(function) = reached.pop() {
        let mut take = |other: &'_ PciFunction, shared| {
            let new = found.insert(other.address);
            if new {
                step(shared);
            }
            new
        };
        let own = function.dma_aliases.iter().filter_map(|&alias| topology.get(function.address.on_same_bus(alias)));
        reached.extend(
            own.filter(|other| take(other, Shared::DmaAlias { function: function.address, alias: other.address })),
        );
        let theirs = with_aliases.iter().filter(|other| other.dma_aliases.contains(&function.address.devfn()));
        reached.extend(
            theirs.filter(|other| take(other, Shared::DmaAlias { function: other.address, alias: function.address })),
        );
        let in_slot = (!isolates(function)).then(|| topology.functions_in_slot(function.address));
        let beside = in_slot.into_iter().flatten().filter(|other| shares_slot(function, other));
        reached.extend(
            beside.filter(|other| {
                take(other, Shared::Multifunction { function: function.address, other: other.address })
            }),
        );
    }
}

/// Whether requests can pass between two functions of one slot, of which one does not isolate.
fn shares_slot(one: &PciFunction, other: &PciFunction) -> bool {
    (one.is_multifunction() || other.is_multifunction()) && !isolates(other)
}

/// Why a function shares its group with others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Shared {
    /// Requests appear under the requester ID of this bridge above.
    AliasBehind(PciAddress),
    /// This bridge above does not isolate what is below (no ACS).
    NoAcsAbove(PciAddress),
    /// Both functions belong to one device, which does not isolate them.
    Multifunction {
        /// One function.
        function: PciAddress,
        /// The other function.
        other: PciAddress,
    },
    /// Requests of one function also appear under the requester ID of the other.
    DmaAlias {
        /// The function with the quirk.
        function: PciAddress,
        /// The function whose ID it uses.
        alias: PciAddress,
    },
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AliasBehind(bridge) => write!(f, "requests from behind {bridge} appear under its id"),
            Self::NoAcsAbove(bridge) => write!(f, "{bridge} does not isolate what is behind it (ACS)"),
            Self::Multifunction { function, other } => {
                write!(f, "{function} and {other} are functions of one device that does not isolate them (ACS)")
            }
            Self::DmaAlias { function, alias } => write!(f, "{function} also uses the id of {alias}"),
        }
    }
}

/// Returns why the function at `address` shares its group: first the bridges above it, nearest first, then what
/// connects the anchors to each other. Empty if only functions below other members connect it, or if no function is
/// there.
///
/// The reasons of all members together explain the whole group.
pub fn reasons(topology: &PciTopology, address: PciAddress) -> Vec<Shared> {
    let Some(function) = topology.get(address) else { return Vec::new() };
    let bridges = topology.bridges_above(address).filter(|bridge| ties(bridge));
    let mut reasons: Vec<Shared> = bridges.map(tied_by).collect();
    spread(topology, top(topology, function), &mut BTreeSet::new(), |shared| reasons.push(shared));
    reasons
}

/// Returns why functions share a group, the reasons of all together; `None` if they do not share one in this topology.
/// What is the same for all functions of a bus is found out once.
pub fn group_reasons(topology: &PciTopology, members: &[PciAddress]) -> Option<BTreeSet<Shared>> {
    let (mut key, mut reasons, mut tied_buses) = (None, BTreeSet::new(), BTreeSet::new());
    for function in members.iter().map(|member| topology.get(*member)) {
        let function = function?;
        let bus = (function.address.domain(), function.address.bus());
        if tied_buses.contains(&bus) {
            continue;
        }
        let mut top = function;
        for bridge in topology.bridges_above(function.address).filter(|bridge| ties(bridge)) {
            reasons.insert(tied_by(bridge));
            tied_buses.insert(bus);
            top = bridge;
        }
        let mut anchors = BTreeSet::new();
        spread(topology, top, &mut anchors, |shared| {
            reasons.insert(shared);
        });
        if *key.get_or_insert_with(|| anchors.first().copied()) != anchors.first().copied() {
            return None;
        }
    }
    Some(reasons)
}

/// How a bridge ties what is below to itself.
fn tied_by(bridge: &PciFunction) -> Shared {
    if takes_over_ids(bridge) { Shared::AliasBehind(bridge.address) } else { Shared::NoAcsAbove(bridge.address) }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
