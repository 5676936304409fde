//! What is drawn as one area: devices of one group that follow each other.

use std::collections::{BTreeMap, BTreeSet};

use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::viability::Verdict;

use super::Acs;
use super::svg::{Colour, Hue};
use super::tree::{Node, in_order};
use crate::judge::{Explanation, GroupEntry, Neighbour, Possession, Tie, overview};
use crate::{Host, Source};

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
        let group = host.pci.device(node.device).and_then(|device| device.group);
        match runs.last_mut() {
            Some(run) if run.group == group && (node.depth > 1 || run.is_beside(node)) => run.nodes.push(node),
            _ => runs.push(Run { group, nodes: vec![node] }),
        }
    }
    let mut cards = Vec::new();
    let mut begun = BTreeSet::new();
    let last: BTreeMap<Option<u32>, usize> = runs.iter().enumerate().map(|(place, run)| (run.group, place)).collect();
    let mut bus = None;
    for (place, run) in runs.iter().enumerate() {
        let Some(first) = run.nodes.first() else { continue };
        let own = (first.device.domain(), first.device.bus());
        if first.depth == 1 && bus != Some(own) {
            bus = Some(own);
            cards.push(bus_card(first.device));
        }
        let Some(entry) = groups.iter().find(|entry| entry.group == run.group) else { continue };
        let again = !begun.insert(run.group);
        cards.push(card(host, entry, run, again, last.get(&run.group) == Some(&place)));
    }
    cards
}

/// Devices of one group that follow each other.
struct Run {
    group: Option<u32>,
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
    if !matches!(host.source, Source::Listing | Source::ListingWithoutDrivers) {
        return in_order(host);
    }
    let devices = host.pci.devices.iter().map(|device| (device.group.is_none(), device.group, device.function.address));
    devices.collect::<BTreeSet<_>>().into_iter().map(|(_, _, device)| Node { device, depth: 0 }).collect()
}

fn bus_card(device: PciAddress) -> Card {
    let bus = Some(format!("bus {:04x}:{:02x}", device.domain(), device.bus()));
    let (title, possession) = (String::new(), String::new());
    let (colour, hue) = (Colour::INK, Hue::of(0));
    Card { title, possession, colour, hue, rows: Vec::new(), ties: Vec::new(), unexplained: false, bus }
}

fn card(host: &Host, entry: &GroupEntry, run: &Run, again: bool, last: bool) -> Card {
    let mut title = entry.group.map_or_else(|| "no group".to_owned(), |number| format!("group {number}"));
    title.push_str(if again { ", continued" } else { "" });
    let colour = match entry.possession {
        Possession::Free => Colour::GREEN,
        Possession::Kernel { .. } | Possession::Blocked { .. } => Colour::RED,
        _ => Colour::AMBER,
    };
    let explanation = run.nodes.first().and_then(|node| Explanation::of(host, node.device).ok());
    let members = explanation.as_ref().map_or(&[][..], |explanation| &explanation.members);
    let rows = run.nodes.iter().filter_map(|node| row(host, entry, members, *node)).collect();
    let together = explanation.as_ref().filter(|explanation| last && explanation.members.len() > 1);
    let unexplained = together.is_some_and(|explanation| explanation.ties.is_none());
    let ties = together.and_then(|explanation| explanation.ties.as_ref()).into_iter().flatten();
    let hue = Hue::of(entry.group.and_then(|number| usize::try_from(number).ok()).unwrap_or(5));
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
    let colour = match (standing, &device.driver) {
        (Some(Verdict::NotViable), _) => Colour::RED,
        (Some(Verdict::Viable) | None, None) => Colour::GREY,
        (Some(Verdict::Viable), Some(_)) => Colour::GREEN,
        (Some(Verdict::Unknown), _) | (None, Some(_)) => Colour::AMBER,
    };
    let shown = host.source != Source::ListingWithoutDrivers;
    let without = if shown { "no driver" } else { "driver not shown" };
    Some(Row {
        depth: node.depth,
        address: device.device.to_string(),
        class: device.class.clone(),
        name: device.name.clone(),
        driver: device.driver.clone().unwrap_or_else(|| without.to_owned()),
        colour,
        acs: host.topology.get(node.device).and_then(Acs::of),
        remarks: device.purposes.iter().map(ToString::to_string).collect(),
    })
}
