//! What is drawn as one area: devices of one group that follow each other.

use std::collections::{BTreeMap, BTreeSet};

use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::viability::Verdict;

use super::Acs;
use super::svg::{Colour, Hue};
use super::tree::{Node, in_order};
use crate::judge::{Explanation, GroupEntry, Neighbour, Possession, Tie, overview};
use crate::{Fact, Host, OtherMember, Source};

/// An area.
pub(super) struct Card {
    pub(super) title: String,
    pub(super) possession: String,
    pub(super) colour: Colour,
    pub(super) hue: Hue,
    pub(super) rows: Vec<Row>,
    /// Told in the last area of a group.
    pub(super) ties: Vec<TieText>,
    /// Whether it is not known why the devices are together.
    pub(super) unexplained: bool,
    /// In place of all that: the name of a bus that no bridge is above.
    pub(super) bus: Option<String>,
}

/// A device.
pub(super) struct Row {
    pub(super) depth: usize,
    /// Whether it hangs on the bus or bridge above it: other members have a place of their own.
    pub(super) in_tree: bool,
    pub(super) address: String,
    pub(super) class: String,
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) colour: Colour,
    pub(super) acs: Option<Acs>,
    /// What the machine has it for.
    pub(super) remarks: Vec<String>,
}

/// Why the devices of a group are together: what one thing would split.
pub(super) struct TieText {
    pub(super) causes: Vec<String>,
    pub(super) remedy: String,
}

impl Card {
    /// How far it is moved to the right.
    pub(super) fn depth(&self) -> usize {
        self.rows.iter().map(|row| row.depth).min().unwrap_or(0)
    }
}

/// The areas of a machine, in their order.
pub(super) fn cards(host: &Host) -> Vec<Card> {
    let groups = overview(host);
    let mut runs: Vec<Run> = Vec::new();
    for node in order(host) {
        let group = group_of(host, node.device);
        match runs.last_mut() {
            Some(run) if run.group == group && (node.depth > 1 || run.is_beside(node)) => run.nodes.push(node),
            _ => runs.push(Run { group, nodes: vec![node] }),
        }
    }
    let mut cards = Vec::new();
    let mut begun = BTreeSet::new();
    let last: BTreeMap<Fact<u32>, usize> = runs.iter().enumerate().map(|(place, run)| (run.group, place)).collect();
    let mut entries: BTreeMap<PciAddress, &GroupEntry> = BTreeMap::new();
    for entry in &groups {
        entries.extend(entry.devices.iter().map(|device| (device.device, entry)));
    }
    let mut bus = None;
    for (place, run) in runs.iter().enumerate() {
        let Some(first) = run.nodes.first() else { continue };
        let own = (first.device.domain(), first.device.bus());
        if first.depth == 1 && bus != Some(own) {
            bus = Some(own);
            cards.push(bus_card(first.device));
        }
        let Some(entry) = entries.get(&first.device) else { continue };
        let again = !begun.insert(run.group);
        cards.push(card(host, entry, run, again, last.get(&run.group) == Some(&place)));
    }
    let without = groups.iter().filter(|entry| entry.devices.is_empty());
    cards.extend(without.map(|entry| card(host, entry, &Run { group: entry.group, nodes: Vec::new() }, false, true)));
    cards
}

/// Devices of one group that follow each other.
struct Run {
    group: Fact<u32>,
    nodes: Vec<Node>,
}

impl Run {
    /// Whether a device without a bridge above it is on the bus of the first one.
    fn is_beside(&self, node: Node) -> bool {
        let bus = |device: PciAddress| (device.domain(), device.bus());
        self.nodes.first().is_some_and(|first| first.depth != 1 || bus(first.device) == bus(node.device))
    }
}

/// A listing shows groups and no tree.
fn order(host: &Host) -> Vec<Node> {
    if host.source != Source::Listing {
        return in_order(host);
    }
    let devices = host.pci.devices.iter().map(|device| device.function.address);
    let by_group: BTreeSet<(Fact<u32>, PciAddress)> = devices.map(|device| (group_of(host, device), device)).collect();
    by_group.into_iter().map(|(_, device)| Node { device, depth: 0 }).collect()
}

/// The group of a device, also where its number is not shown.
fn group_of(host: &Host, device: PciAddress) -> Fact<u32> {
    host.pci.device(device).map_or(Fact::Unknown, |found| host.group_of(found))
}

fn bus_card(device: PciAddress) -> Card {
    let bus = Some(format!("bus {:04x}:{:02x}", device.domain(), device.bus()));
    let (title, possession) = (String::new(), String::new());
    let (colour, hue) = (Colour::INK, Hue::of(0));
    Card { title, possession, colour, hue, rows: Vec::new(), ties: Vec::new(), unexplained: false, bus }
}

fn card(host: &Host, entry: &GroupEntry, run: &Run, again: bool, last: bool) -> Card {
    let mut title = match entry.group {
        Fact::Is(number) => format!("group {number}"),
        Fact::Absent => "no group".to_owned(),
        Fact::Unknown => "group not shown".to_owned(),
    };
    title.push_str(if again { ", continued" } else { "" });
    let colour = match entry.possession {
        Possession::Free => Colour::GREEN,
        Possession::Kernel { .. } | Possession::Blocked { .. } => Colour::RED,
        _ => Colour::AMBER,
    };
    let explanation = run.nodes.first().and_then(|node| Explanation::of(host, node.device).ok());
    let members = explanation.as_ref().map_or(&[][..], |explanation| &explanation.members);
    let mut rows: Vec<Row> = run.nodes.iter().filter_map(|node| row(host, entry, members, *node)).collect();
    let depth = rows.iter().map(|row| row.depth).min().unwrap_or(0);
    rows.extend(entry.other_members.iter().filter(|_| last).map(|member| other_row(member, depth)));
    let together = explanation.as_ref().filter(|explanation| last && explanation.members.len() > 1);
    let unexplained = together.is_some_and(|explanation| explanation.ties.is_none());
    let ties = together.and_then(|explanation| explanation.ties.as_deref()).into_iter().flatten();
    let hue = Hue::of(entry.group.known().and_then(|number| usize::try_from(number).ok()).unwrap_or(5));
    Card {
        title,
        possession: entry.possession.to_string(),
        colour,
        hue,
        rows,
        ties: told(ties),
        unexplained,
        bus: None,
    }
}

/// A member of a group that is no PCI function.
fn other_row(member: &OtherMember, depth: usize) -> Row {
    Row {
        depth,
        in_tree: false,
        address: member.name.clone(),
        class: member.kind().to_owned(),
        name: String::new(),
        driver: driver(&member.driver),
        colour: colour(Some(member.standing().verdict()), &member.driver),
        acs: None,
        remarks: Vec::new(),
    }
}

fn colour(standing: Option<Verdict>, driver: &Fact<String>) -> Colour {
    match (standing, driver) {
        (Some(Verdict::NotViable), _) => Colour::RED,
        (Some(Verdict::Viable) | None, Fact::Absent) => Colour::GREY,
        (Some(Verdict::Viable), Fact::Is(_)) => Colour::GREEN,
        _ => Colour::AMBER,
    }
}

/// What has the same remedy is told together.
fn told<'a>(ties: impl Iterator<Item = &'a Tie>) -> Vec<TieText> {
    let mut texts: Vec<TieText> = Vec::new();
    for tie in ties {
        let (cause, remedy) = (tie.cause.to_string(), tie.remedy.to_string());
        match texts.iter_mut().find(|text| text.remedy == remedy) {
            Some(text) => text.causes.push(cause),
            None => texts.push(TieText { causes: vec![cause], remedy }),
        }
    }
    texts
}

fn row(host: &Host, entry: &GroupEntry, members: &[Neighbour], node: Node) -> Option<Row> {
    let device = entry.devices.iter().find(|device| device.device == node.device)?;
    let standing = members.iter().find(|member| member.device == node.device).map(|member| member.standing.verdict());
    Some(Row {
        depth: node.depth,
        in_tree: true,
        address: device.device.to_string(),
        class: device.class.to_string(),
        name: device.name.to_string(),
        driver: driver(&device.driver),
        colour: colour(standing, &device.driver),
        acs: host.topology.get(node.device).and_then(Acs::of),
        remarks: device.purposes.iter().map(ToString::to_string).collect(),
    })
}

fn driver(driver: &Fact<String>) -> String {
    match driver {
        Fact::Is(name) => name.clone(),
        Fact::Absent => "no driver".to_owned(),
        Fact::Unknown => "driver not shown".to_owned(),
    }
}
