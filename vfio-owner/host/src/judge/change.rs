//! Differences between two machines, or two states of one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::viability::Verdict;

use super::explanation::verdicts;
use crate::{Fact, Host};

/// A difference.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Change {
    /// A device was added.
    Added {
        /// The device.
        device: PciAddress,
    },
    /// A device was removed.
    Removed {
        /// The device.
        device: PciAddress,
    },
    /// Devices share groups with other devices than before.
    Regrouped {
        /// The groups of the devices before, each with its members.
        before: Vec<Vec<PciAddress>>,
        /// The groups of the devices after.
        after: Vec<Vec<PciAddress>>,
    },
    /// A group has the same devices and another number.
    Renumbered {
        /// The number before.
        before: u32,
        /// The number after.
        after: u32,
    },
    /// A device is bound to another driver.
    Driver {
        /// The device.
        device: PciAddress,
        /// The driver before.
        before: Fact<String>,
        /// The driver after.
        after: Fact<String>,
    },
    /// Whether a device can be assigned through its group has changed.
    Verdict {
        /// The device.
        device: PciAddress,
        /// The verdict before.
        before: Verdict,
        /// The verdict after.
        after: Verdict,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { device } => write!(f, "{device} is new"),
            Self::Removed { device } => write!(f, "{device} has gone"),
            Self::Regrouped { before, after } => {
                write!(f, "groups were {}, are {}", listed(before), listed(after))
            }
            Self::Renumbered { before, after } => write!(f, "group {before} is group {after}"),
            Self::Driver { device, before, after } => {
                let name = |driver: &Fact<String>| match driver {
                    Fact::Is(driver) => driver.clone(),
                    Fact::Absent => "no driver".to_string(),
                    Fact::Unknown => "a driver that is not shown".to_string(),
                };
                write!(f, "{device} was on {}, is on {}", name(before), name(after))
            }
            Self::Verdict { device, before, after } => {
                let word = |verdict: &Verdict| match verdict {
                    Verdict::Viable => "yes",
                    Verdict::NotViable => "no",
                    Verdict::Unknown => "unknown",
                };
                write!(f, "may {device} be given to user space: was {}, is {}", word(before), word(after))
            }
        }
    }
}

fn listed(groups: &[Vec<PciAddress>]) -> String {
    let one = |members: &Vec<PciAddress>| {
        format!("[{}]", members.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    };
    groups.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Returns the differences of `after`: devices, grouping, drivers, and verdicts.
pub fn changes(before: &Host, after: &Host) -> Vec<Change> {
    let [old, new] = [before, after].map(verdicts);
    let mut changes: Vec<Change> = Vec::new();
    for device in old.keys().filter(|device| !new.contains_key(device)) {
        changes.push(Change::Removed { device: *device });
    }
    for (device, is) in &new {
        let Some(was) = old.get(device) else {
            changes.push(Change::Added { device: *device });
            continue;
        };
        let drivers = [before, after].map(|host| host.driver(*device).map(ToOwned::to_owned));
        if drivers[0] != drivers[1] {
            let [before, after] = drivers;
            changes.push(Change::Driver { device: *device, before, after });
        }
        if was != is {
            changes.push(Change::Verdict { device: *device, before: *was, after: *is });
        }
    }
    changes.extend(regrouped(before, after));
    changes.sort();
    changes
}

/// What changed about groups. Groups before and after that have devices in common are told together.
fn regrouped(before: &Host, after: &Host) -> Vec<Change> {
    let [old, new] = [before, after].map(Groups::of);
    let mut done: BTreeSet<usize> = BTreeSet::new();
    let mut changes = Vec::new();
    for start in 0..old.members.len() {
        let (mut olds, mut news) = (BTreeSet::new(), BTreeSet::new());
        let mut open = vec![start];
        while let Some(place) = open.pop() {
            if !done.insert(place) {
                continue;
            }
            olds.insert(place);
            for joined in old.overlapping(place, &new) {
                if news.insert(joined) {
                    open.extend(new.overlapping(joined, &old));
                }
            }
        }
        let members = |groups: &Groups, places: &BTreeSet<usize>| -> Vec<Vec<PciAddress>> {
            places.iter().filter_map(|place| groups.members.get(*place).cloned()).collect()
        };
        let (was, is) = (members(&old, &olds), members(&new, &news));
        if was.is_empty() || is.is_empty() {
            continue;
        }
        if was == is {
            let number = |groups: &Groups, places: &BTreeSet<usize>| {
                places.first().and_then(|place| groups.numbers.get(*place).copied().flatten())
            };
            let numbers = number(&old, &olds).zip(number(&new, &news)).filter(|(before, after)| before != after);
            changes.extend(numbers.map(|(before, after)| Change::Renumbered { before, after }));
        } else {
            changes.push(Change::Regrouped { before: was, after: is });
        }
    }
    changes
}

/// The groups of a host; a device that is known to be in none makes one of its own, without a number.
struct Groups {
    members: Vec<Vec<PciAddress>>,
    numbers: Vec<Option<u32>>,
    places: BTreeMap<PciAddress, usize>,
}

impl Groups {
    fn of(host: &Host) -> Self {
        let mut groups = Self { members: Vec::new(), numbers: Vec::new(), places: BTreeMap::new() };
        for group in host.pci.groups.iter().filter(|group| !group.members.is_empty()) {
            groups.add(Some(group.number), group.members.clone());
        }
        for device in host.pci.devices.iter().map(|device| device.function.address) {
            if host.group(device) == Fact::Absent {
                groups.add(None, vec![device]);
            }
        }
        groups
    }

    fn add(&mut self, number: Option<u32>, members: Vec<PciAddress>) {
        self.places.extend(members.iter().map(|member| (*member, self.members.len())));
        self.members.push(members);
        self.numbers.push(number);
    }

    /// The groups of `other` that have a member of this one.
    fn overlapping<'a>(&'a self, place: usize, other: &'a Self) -> impl Iterator<Item = usize> + 'a {
        self.members.get(place).into_iter().flatten().filter_map(|member| other.places.get(member).copied())
    }
}
