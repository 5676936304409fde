//! Explanations: whether a device can be assigned now, what prevents it, and why it shares its group.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::{SysfsDevice, SysfsGroup};
use vfio_owner::vfio_pci::reset_scope;
use vfio_owner::viability::Verdict;

use super::advice::{Advice, advice};
use super::naming::Names;
use super::neighbour::{Neighbour, Part, direct_region, neighbour, standings};
use super::obstacle::{device_file_missing, held, is_bridge, own_reasons};
use super::reason::{Answer, Reason};
use super::tie::{Tie, ties};
use crate::host::NoSuchDevice;
use crate::read::OtherMember;
use crate::{Fact, Host, Source};

/// So many devices that stand alone are named.
const MOST_ALTERNATIVES: usize = 8;

/// Whether a device can be assigned to user space now, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The device.
    pub device: PciAddress,
    /// Kind of device.
    pub class: Cow<'static, str>,
    /// Vendor and name.
    pub name: Arc<str>,
    /// Vendor and device id.
    pub ids: Option<Ids>,
    /// The driver that is bound.
    pub driver: Fact<Arc<str>>,
    /// Number of the group.
    pub group: Fact<u32>,
    /// The group file, `/dev/vfio/3`.
    pub group_file: Option<Arc<str>>,
    /// Name of the device file, `vfio3`.
    pub device_file: Option<String>,
    /// NUMA node.
    pub numa_node: Option<u32>,
    /// Whether the group can be claimed, as far as kernel drivers and firmware are concerned; not whether the device is
    /// bound to vfio-pci, or the group in use.
    pub viable: Answer,
    /// Whether it can be opened through its VFIO group (group file).
    pub by_group: Answer,
    /// Whether it can be opened as a VFIO device (cdev, iommufd).
    pub by_device: Answer,
    /// All PCI functions of the group, including the device, and what each means for a claim.
    pub members: Arc<[Neighbour]>,
    /// Members of the group that are not PCI functions.
    pub other_members: Arc<[OtherMember]>,
    /// Other functions of the same card, if the group is not shown: they share it unless ACS isolates them.
    pub same_card: Vec<Neighbour>,
    /// Devices of other groups that are reset together with it.
    pub reset_partners: Vec<PciAddress>,
    /// Devices of the same kind that are alone in their groups, if this one is not.
    pub alternatives: Arc<[PciAddress]>,
    /// Why the devices share the group; `None` if the source does not show enough.
    pub ties: Option<Arc<[Tie]>>,
    /// What to run next, if the source does not show enough.
    pub next: Vec<Advice>,
}

/// Vendor and device id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Ids {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
}

impl Explanation {
    /// Explains a device.
    ///
    /// # Errors
    /// Fails if there is no device at the address.
    pub fn of(host: &Host, device: PciAddress) -> Result<Self, NoSuchDevice> {
        Ok(Self::of_each(host, &[device])?.remove(0))
    }

    /// Explains several devices, in their order. Determines what a group has in common once.
    ///
    /// # Errors
    /// Fails if there is no device at one of the addresses.
    pub fn of_each(host: &Host, devices: &[PciAddress]) -> Result<Vec<Self>, NoSuchDevice> {
        let mut groups: BTreeMap<Option<u32>, GroupFacts> = BTreeMap::new();
        let (mut alone, mut names) = (None, Names::default());
        let mut explanations = Vec::with_capacity(devices.len());
        for device in devices {
            let found = host.device(*device)?;
            let facts = groups.entry(found.group).or_insert_with(|| GroupFacts::of(host, found.group));
            let mut explanation = Self::in_group(host, found, facts, &mut names);
            if facts.is_shared() {
                let alone = alone.get_or_insert_with(|| StandingAlone::of(host));
                explanation.alternatives = facts.alternatives(alone, kind(found), found.group);
            }
            explanations.push(explanation);
        }
        Ok(explanations)
    }

    fn in_group(host: &Host, device: &SysfsDevice, group: &GroupFacts, names: &mut Names) -> Self {
        let address = device.function.address;
        let [viable, by_group, by_device] = answers(host, device, group);
        let next = advice(by_group.reasons.iter().chain(&*by_device.reasons), host.source);
        let config = &device.function.config;
        let ids = config.vendor().zip(config.device()).map(|(vendor, device)| Ids { vendor, device });
        let Neighbour { class, driver, .. } = group.member(address).cloned().unwrap_or_else(|| neighbour(host, device));
        Self {
            device: address,
            class,
            name: names.of(host, device),
            ids: ids.filter(|ids| ids.vendor != 0),
            driver,
            group: host.numbered(host.group_of(device)),
            group_file: group.file.clone(),
            device_file: host.device_files.get(&address).cloned(),
            numa_node: host.numa_nodes.get(&address).copied(),
            viable,
            by_group,
            by_device,
            members: Arc::clone(&group.members),
            other_members: Arc::clone(&group.others),
            same_card: same_card(host, device),
            reset_partners: reset_partners(host, device, group),
            alternatives: Arc::default(),
            ties: group.ties.clone(),
            next,
        }
    }
}

/// Returns whether each of the devices of a host may be given to user space through its group. What a group says is
/// found out once.
pub(super) fn verdicts(host: &Host) -> BTreeMap<PciAddress, Verdict> {
    let mut groups: BTreeMap<u32, Verdict> = BTreeMap::new();
    let told = host.pci.devices.iter().map(|device| {
        let mut reasons = own_reasons(host, device);
        let group = if let Some(number) = device.group {
            *groups.entry(number).or_insert_with(|| {
                let facts = GroupFacts::without_ties(host, Some(number));
                let mut reasons = group_reasons(host, device, &facts);
                reasons.extend(facts.held);
                Answer::of(reasons).verdict()
            })
        } else {
            reasons.extend(group_reasons(host, device, &GroupFacts::without_ties(host, None)));
            Verdict::Viable
        };
        let verdict = match (Answer::of(reasons).verdict(), group) {
            (Verdict::NotViable, _) | (_, Verdict::NotViable) => Verdict::NotViable,
            (Verdict::Unknown, _) | (_, Verdict::Unknown) => Verdict::Unknown,
            (Verdict::Viable, Verdict::Viable) => Verdict::Viable,
        };
        (device.function.address, verdict)
    });
    told.collect()
}

/// Whether the group can be claimed, the way through the group, and the way through the device's own file. Answers that
/// are the same share their reasons.
fn answers(host: &Host, device: &SysfsDevice, group: &GroupFacts) -> [Answer; 3] {
    let viable = group.viable.clone().unwrap_or_else(|| Answer::of(group_reasons(host, device, group)));
    let own = own_reasons(host, device);
    let with = |file: Option<Reason>| {
        if own.is_empty() && file.is_none() && group.held.is_none() {
            return viable.clone();
        }
        Answer { reasons: own.iter().chain(&*viable.reasons).chain(&file).chain(&group.held).cloned().collect() }
    };
    let by_group = with(None);
    let by_device = match device_file_missing(host, device) {
        None => by_group.clone(),
        file => with(file),
    };
    [viable, by_group, by_device]
}

/// What is the same for every device of a group.
struct GroupFacts {
    file: Option<Arc<str>>,
    members: Arc<[Neighbour]>,
    others: Arc<[OtherMember]>,
    in_the_way: Vec<Reason>,
    /// Whether it can be claimed; `None` for devices in no group, of which each has reasons of its own.
    viable: Option<Answer>,
    held: Option<Reason>,
    ties: Option<Arc<[Tie]>>,
    /// The devices of a kind that stand alone in other groups, by kind.
    alternatives: BTreeMap<u32, Arc<[PciAddress]>>,
}

impl GroupFacts {
    fn of(host: &Host, number: Option<u32>) -> Self {
        let group = number.and_then(|number| host.pci.group(number));
        // A listing shows nothing of what would explain it.
        let shows_config = host.source != Source::Listing;
        let ties = group.filter(|_| shows_config).and_then(|group| ties(&host.topology, &group.members));
        let mut facts = Self { ties: ties.map(Arc::from), ..Self::without_ties(host, number) };
        facts.viable = number.map(|_| Answer::of(shared_reasons(host, &facts)));
        facts
    }

    fn without_ties(host: &Host, number: Option<u32>) -> Self {
        let group = number.and_then(|number| host.pci.group(number));
        let addresses: &[PciAddress] = group.map_or(&[], |group| &group.members);
        let members: Arc<[Neighbour]> = number.map_or_else(Vec::new, |number| standings(host, number)).into();
        let others: Arc<[OtherMember]> = number.map_or(&[][..], |number| host.other_members(number)).into();
        let in_the_way = in_the_way(host, group, &members, &others);
        let held = held(host, number, addresses);
        let shown = number.and_then(|number| host.numbered(Fact::Is(number)).known());
        let file = shown.map(|number| format!("/dev/vfio/{number}").into());
        Self { file, members, others, in_the_way, viable: None, held, ties: None, alternatives: BTreeMap::new() }
    }

    fn member(&self, address: PciAddress) -> Option<&Neighbour> {
        let found = self.members.binary_search_by_key(&address, |member| member.device).ok()?;
        self.members.get(found)
    }

    fn alternatives(&mut self, alone: &StandingAlone, kind: u32, group: Option<u32>) -> Arc<[PciAddress]> {
        Arc::clone(self.alternatives.entry(kind).or_insert_with(|| alone.outside(group, kind)))
    }

    /// Whether several devices, bridges aside, are in it.
    fn is_shared(&self) -> bool {
        self.members.iter().filter(|member| member.part != Part::Stays).count() + self.others.len() > 1
    }
}

/// What speaks against a claim of a group.
fn in_the_way(host: &Host, group: Option<&SysfsGroup>, members: &[Neighbour], others: &[OtherMember]) -> Vec<Reason> {
    let speaking = members.iter().filter(|member| member.standing.verdict() != Verdict::Viable);
    let mut reasons: Vec<Reason> =
        speaking.map(|member| Reason::Neighbour { device: member.device, standing: member.standing.clone() }).collect();
    let others = others.iter().filter(|member| member.standing().verdict() != Verdict::Viable);
    reasons.extend(others.map(|member| Reason::OtherNeighbour { member: member.clone() }));
    // A device that is in the way anyhow does not tell its region.
    if !reasons.iter().any(Reason::is_direct_region) {
        let region = group.and_then(direct_region);
        reasons.extend(region.map(|region| Reason::DirectRegion { region }));
    }
    let refused = members.iter().filter(|member| host.refused.contains(&member.device));
    reasons.extend(refused.map(|member| Reason::RefusedByKernel { device: member.device }));
    if group.is_some_and(|group| host.gaps.members.contains(&group.number)) {
        reasons.push(Reason::MembersNotShown);
    }
    reasons
}

/// What speaks against a claim of the group of a device.
fn group_reasons(host: &Host, device: &SysfsDevice, group: &GroupFacts) -> Vec<Reason> {
    let address = device.function.address;
    let mut reasons = match host.group_of(device) {
        Fact::Is(_) => return shared_reasons(host, group),
        Fact::Absent => vec![Reason::NoGroup { iommu: host.iommu }],
        Fact::Unknown => {
            let mut reasons = vec![Reason::GroupNotShown];
            // By itself it would be in the way of any group.
            let neighbour = neighbour(host, device);
            if neighbour.standing.verdict() != Verdict::Viable {
                reasons.push(Reason::Neighbour { device: address, standing: neighbour.standing });
            }
            let refused = host.refused.contains(&address);
            reasons.extend(refused.then_some(Reason::RefusedByKernel { device: address }));
            reasons
        }
    };
    reasons.extend(not_understood(host));
    reasons
}

/// What speaks against a claim of a group, whichever device it is asked about.
fn shared_reasons(host: &Host, group: &GroupFacts) -> Vec<Reason> {
    group.in_the_way.iter().cloned().chain(not_understood(host)).collect()
}

fn not_understood(host: &Host) -> Option<Reason> {
    let lines = &host.gaps.doubtful_lines;
    (!lines.is_empty()).then(|| Reason::LinesNotUnderstood { lines: lines.clone() })
}

/// The other functions of a device whose group is not shown.
fn same_card(host: &Host, device: &SysfsDevice) -> Vec<Neighbour> {
    let address = device.function.address;
    if host.group_of(device) != Fact::Unknown {
        return Vec::new();
    }
    let beside = host.topology.functions_in_slot(address).filter(|other| other.address != address);
    beside.filter_map(|other| host.pci.device(other.address)).map(|other| neighbour(host, other)).collect()
}

/// Devices of other groups that a reset of the whole bus takes along.
// V54.
fn reset_partners(host: &Host, device: &SysfsDevice, group: &GroupFacts) -> Vec<PciAddress> {
    if device.group.is_none() {
        return Vec::new();
    }
    let scope = reset_scope(&device.function);
    let beside = host.topology.functions_on_bus(device.function.address).filter(|other| reset_scope(other) == scope);
    beside.map(|other| other.address).filter(|other| group.member(*other).is_none()).collect()
}

/// What devices have in common that do the same: class and subclass.
fn kind(device: &SysfsDevice) -> u32 {
    device.function.config.class().unwrap_or_default() >> 8
}

/// The devices that share their groups with no other device but functions of the same slot and bridges, with their
/// groups, by kind.
struct StandingAlone(BTreeMap<u32, Vec<(PciAddress, u32)>>);

impl StandingAlone {
    fn of(host: &Host) -> Self {
        let mut alone: BTreeMap<u32, Vec<(PciAddress, u32)>> = BTreeMap::new();
        for group in host.pci.groups.iter().filter(|group| !host.gaps.members.contains(&group.number)) {
            let devices = group.members.iter().filter_map(|member| host.pci.device(*member));
            let devices: Vec<&SysfsDevice> = devices.filter(|device| !is_bridge(device)).collect();
            let slot = |device: &SysfsDevice| {
                let address = device.function.address;
                (address.domain(), address.bus(), address.slot())
            };
            let one_slot = devices.windows(2).all(|pair| matches!(pair, [one, other] if slot(one) == slot(other)));
            if one_slot && host.other_members(group.number).is_empty() {
                for device in devices.into_iter().filter(|device| kind(device) != 0) {
                    alone.entry(kind(device)).or_default().push((device.function.address, group.number));
                }
            }
        }
        Self(alone)
    }

    /// Those of a kind outside a group.
    fn outside(&self, group: Option<u32>, kind: u32) -> Arc<[PciAddress]> {
        let like = self.0.get(&kind).into_iter().flatten();
        like.filter(|(_, own)| Some(*own) != group).map(|(device, _)| *device).take(MOST_ALTERNATIVES).collect()
    }
}
