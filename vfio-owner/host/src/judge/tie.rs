//! Why devices share a group, and what would split it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Serialize, Serializer};
use vfio_owner::iommu_core::device_model::pci::{PciAddress, PciTopology};
use vfio_owner::iommu_core::grouping::{self, GroupKey, Shared};

/// One thing that ties devices of a group together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Tie {
    /// What.
    pub cause: Shared,
    /// What would undo it.
    pub remedy: Remedy,
}

/// What would undo a tie.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// The function can isolate, but is not told to.
    SwitchAcsOn,
    /// The function cannot isolate; only another slot, or a kernel that is told to believe otherwise.
    MoveOrOverride,
    /// The functions are of one device; only a kernel that is told to believe that they are apart.
    Override,
    /// Nothing but another slot.
    Move,
    /// Nothing: the device itself mixes its ids up.
    Nothing,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const RISK: &str = "which isolates nothing: with it, a device can reach the others' memory unseen by the IOMMU";
        match self {
            Self::SwitchAcsOn => f.write_str(
                "it has ACS, switched off: switch it on in the firmware's settings (no risk but speed between peers)",
            ),
            Self::MoveOrOverride => {
                write!(f, "put the device into a slot behind a port with ACS; else the ACS override patch, {RISK}")
            }
            Self::Override => {
                write!(f, "give the whole device away; else the ACS override patch (multifunction), {RISK}")
            }
            Self::Move => f.write_str("put the device into a PCI Express slot that is not behind this bridge"),
            Self::Nothing => f.write_str("nothing: it is a flaw of the device"),
        }
    }
}

impl Serialize for Tie {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let told: BTreeMap<&str, String> = [
            ("cause", self.cause.to_string()),
            ("at", at(self.cause).to_string()),
            ("what_would_split", self.remedy.to_string()),
        ]
        .into();
        told.serialize(serializer)
    }
}

/// Where the flaw is.
const fn at(cause: Shared) -> PciAddress {
    match cause {
        Shared::AliasBehind(bridge) | Shared::NoAcsAbove(bridge) => bridge,
        Shared::Multifunction { function, .. } | Shared::DmaAlias { function, .. } => function,
    }
}

fn remedy(topology: &PciTopology, cause: Shared) -> Remedy {
    match cause {
        Shared::AliasBehind(_) => Remedy::Move,
        Shared::DmaAlias { .. } => Remedy::Nothing,
        Shared::Multifunction { .. } => Remedy::Override,
        Shared::NoAcsAbove(port) => match topology.get(port).and_then(|port| port.config.acs()) {
            Some(acs) if acs.capability.contains(grouping::ISOLATION) => Remedy::SwitchAcsOn,
            _ => Remedy::MoveOrOverride,
        },
    }
}

/// What ties the members of a group together; `None` if the topology does not explain that they are in one group.
pub(super) fn ties(topology: &PciTopology, members: &[PciAddress]) -> Option<Vec<Tie>> {
    let keys: BTreeSet<Option<GroupKey>> =
        members.iter().map(|member| grouping::group_key(topology, *member)).collect();
    if keys.len() > 1 {
        return None;
    }
    let causes: BTreeSet<Shared> =
        members.iter().flat_map(|member| grouping::reasons(topology, *member)).map(lower_first).collect();
    // Of functions that all are tied to each other, each is told beside the first.
    let told: BTreeSet<PciAddress> = causes.iter().filter_map(second).collect();
    let causes = causes.iter().copied().filter(|cause| match cause {
        Shared::Multifunction { function, .. } => !told.contains(function),
        _ => true,
    });
    Some(causes.map(|cause| Tie { cause, remedy: remedy(topology, cause) }).collect())
}

/// Two functions of one device are tied to each other, whichever is looked at.
const fn lower_first(cause: Shared) -> Shared {
    match cause {
        Shared::Multifunction { function, other } if other.devfn().byte() < function.devfn().byte() => {
            Shared::Multifunction { function: other, other: function }
        }
        cause => cause,
    }
}

const fn second(cause: &Shared) -> Option<PciAddress> {
    match cause {
        Shared::Multifunction { other, .. } => Some(*other),
        _ => None,
    }
}
