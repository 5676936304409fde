//! Why devices share a group, and what would split it.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use vfio_owner::iommu_core::device_model::pci::{PciAddress, PciTopology};
use vfio_owner::iommu_core::grouping::{self, Shared};

/// A reason why devices share a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(try_from = "Written")]
pub struct Tie {
    /// The cause.
    pub cause: Shared,
    /// What would remove the cause.
    pub remedy: Remedy,
}

/// What would split a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Remedy {
    /// Enable ACS, which the function supports but has disabled.
    SwitchAcsOn,
    /// Move the card to another slot, or use the ACS override patch: the function cannot isolate.
    MoveOrOverride,
    /// Use the ACS override patch: the functions belong to one device.
    Override,
    /// Move the card to another slot.
    Move,
    /// Nothing: the device itself uses several requester IDs.
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

/// A tie as programs read it.
#[derive(Serialize, Deserialize)]
struct Written {
    code: Code,
    /// Where the flaw is.
    at: PciAddress,
    /// The other function, if two are tied to each other.
    with: Option<PciAddress>,
    remedy: Remedy,
    #[serde(default, skip_deserializing)]
    cause: String,
    #[serde(default, skip_deserializing)]
    what_would_split: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Code {
    AliasBehind,
    NoAcsAbove,
    Multifunction,
    DmaAlias,
}

impl Serialize for Tie {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (code, at, with) = match self.cause {
            Shared::AliasBehind(bridge) => (Code::AliasBehind, bridge, None),
            Shared::NoAcsAbove(bridge) => (Code::NoAcsAbove, bridge, None),
            Shared::Multifunction { function, other } => (Code::Multifunction, function, Some(other)),
            Shared::DmaAlias { function, alias } => (Code::DmaAlias, function, Some(alias)),
        };
        let (cause, what_would_split) = (self.cause.to_string(), self.remedy.to_string());
        Written { code, at, with, remedy: self.remedy, cause, what_would_split }.serialize(serializer)
    }
}

impl TryFrom<Written> for Tie {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { code, at, with, remedy, .. } = written;
        let with = with.ok_or("`with` is missing");
        let cause = match code {
            Code::AliasBehind => Shared::AliasBehind(at),
            Code::NoAcsAbove => Shared::NoAcsAbove(at),
            Code::Multifunction => Shared::Multifunction { function: at, other: with? },
            Code::DmaAlias => Shared::DmaAlias { function: at, alias: with? },
        };
        Ok(Self { cause, remedy })
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

/// The shortest configuration space in which capabilities can be seen, in bytes.
const WITH_CAPABILITIES: usize = 256;

/// What ties the members of a group together; `None` if the topology does not explain that they are in one group, or if
/// the capabilities of one of them, or of a bridge above, cannot be seen.
pub(super) fn ties(topology: &PciTopology, members: &[PciAddress]) -> Option<Vec<Tie>> {
    // All on one bus are below the same bridges.
    let one_bus = |one: &PciAddress, other: &PciAddress| (one.domain(), one.bus()) == (other.domain(), other.bus());
    let buses = members.chunk_by(one_bus).filter_map(|on_bus| on_bus.first());
    let above = buses.flat_map(|member| topology.bridges_above(*member));
    let mut shown = members.iter().filter_map(|member| topology.get(*member)).chain(above);
    if shown.any(|function| function.config.len() < WITH_CAPABILITIES) {
        return None;
    }
    let causes = grouping::group_reasons(topology, members)?;
    let causes: BTreeSet<Shared> = causes.into_iter().map(lower_first).collect();
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
