//! What is different between two machines, or two states of one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::viability::Verdict;

use super::explanation::Explanation;
use crate::Host;

/// A difference.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// A device is new.
    Added {
        /// The device.
        device: PciAddress,
    },
    /// A device has gone.
    Removed {
        /// The device.
        device: PciAddress,
    },
    /// A device shares its group with others than before.
    Regrouped {
        /// The device.
        device: PciAddress,
        /// With whom it shares it now.
        joined: Vec<PciAddress>,
        /// With whom no more.
        left: Vec<PciAddress>,
    },
    /// A group has the same devices and another number.
    Renumbered {
        /// What it was.
        before: u32,
        /// What it is.
        after: u32,
    },
    /// A device is on another driver.
    Driver {
        /// The device.
        device: PciAddress,
        /// What it was on.
        before: Option<String>,
        /// What it is on.
        after: Option<String>,
    },
    /// Whether a device may be given to user space through its group is another answer.
    Verdict {
        /// The device.
        device: PciAddress,
        /// What it was.
        before: &'static str,
        /// What it is.
        after: &'static str,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { device } => write!(f, "{device} is new"),
            Self::Removed { device } => write!(f, "{device} has gone"),
            Self::Regrouped { device, joined, left } => {
                let list =
                    |devices: &[PciAddress]| devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let parts = [("now shares its group with", joined), ("no more with", left)];
                let parts: Vec<String> = parts
                    .iter()
                    .filter(|(_, devices)| !devices.is_empty())
                    .map(|(words, devices)| format!("{words} {}", list(devices)))
                    .collect();
                write!(f, "{device} {}", parts.join(", "))
            }
            Self::Renumbered { before, after } => write!(f, "group {before} is group {after}"),
            Self::Driver { device, before, after } => {
                let name = |driver: &Option<String>| driver.clone().unwrap_or_else(|| "no driver".to_string());
                write!(f, "{device} was on {}, is on {}", name(before), name(after))
            }
            Self::Verdict { device, before, after } => {
                write!(f, "may {device} be given to user space: was {before}, is {after}")
            }
        }
    }
}

/// What is different in `after`: devices, grouping, drivers, and whether devices may be given away.
pub fn changes(before: &Host, after: &Host) -> Vec<Change> {
    let [old, new] = [before, after].map(addresses);
    let gone = old.difference(&new).map(|device| Change::Removed { device: *device });
    let added = new.difference(&old).map(|device| Change::Added { device: *device });
    let mut changes: Vec<Change> = gone.chain(added).collect();
    let [old_groups, new_groups] = [before, after].map(companions);
    let mut renumbered = BTreeSet::new();
    for device in old.intersection(&new) {
        let (Some(was), Some(is)) = (before.pci.device(*device), after.pci.device(*device)) else { continue };
        let [with, now_with] = [(&old_groups, was.group), (&new_groups, is.group)].map(|(groups, number)| {
            number.and_then(|number| groups.get(&number)).cloned().unwrap_or_else(|| BTreeSet::from([*device]))
        });
        if with == now_with {
            renumbered.extend(was.group.zip(is.group).filter(|(was, is)| was != is));
        } else {
            let joined = now_with.difference(&with).copied().collect();
            let left = with.difference(&now_with).copied().collect();
            changes.push(Change::Regrouped { device: *device, joined, left });
        }
        if was.driver != is.driver {
            changes.push(Change::Driver { device: *device, before: was.driver.clone(), after: is.driver.clone() });
        }
        let [was, is] = [before, after].map(|host| verdict(host, *device));
        if was != is {
            changes.push(Change::Verdict { device: *device, before: was, after: is });
        }
    }
    changes.extend(renumbered.into_iter().map(|(before, after)| Change::Renumbered { before, after }));
    changes.sort();
    changes
}

fn addresses(host: &Host) -> BTreeSet<PciAddress> {
    host.pci.devices.iter().map(|device| device.function.address).collect()
}

fn companions(host: &Host) -> BTreeMap<u32, BTreeSet<PciAddress>> {
    host.pci.groups.iter().map(|group| (group.number, group.members.iter().copied().collect())).collect()
}

fn verdict(host: &Host, device: PciAddress) -> &'static str {
    let answer = Explanation::of(host, device).map(|explanation| explanation.by_group.verdict());
    match answer {
        Ok(Verdict::Viable) => "yes",
        Ok(Verdict::NotViable) => "no",
        Ok(Verdict::Unknown) | Err(_) => "unknown",
    }
}
