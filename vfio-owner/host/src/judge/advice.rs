//! Advice on what to run next if a source does not show enough.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::reason::Reason;
use crate::Source;

/// What the next command has to show.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Advice {
    /// Show the drivers.
    ShowDrivers,
    /// Show the groups with all their members.
    ShowGroups,
    /// Show who has files of VFIO open.
    ShowHolders,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ShowDrivers => "run `lspci -nnk` and add its output: it shows which driver each device is on",
            Self::ShowGroups => {
                "run `find /sys/kernel/iommu_groups -type l` and add its output: it shows every group with all members"
            }
            Self::ShowHolders => "run `vfio-host explain` as root on the machine: it looks who has the group open",
        })
    }
}

/// Returns what to run next so that these reasons get certain; nothing if one of them cannot be cleared.
pub(super) fn advice<'a>(reasons: impl Iterator<Item = &'a Reason> + Clone, source: Source) -> Vec<Advice> {
    if reasons.clone().any(Reason::is_final) {
        return Vec::new();
    }
    let mut advice: Vec<Advice> = reasons
        .filter_map(|reason| match reason {
            Reason::GroupNotShown | Reason::MembersNotShown | Reason::LinesNotUnderstood { .. } => {
                Some(Advice::ShowGroups)
            }
            Reason::PerhapsHeld | Reason::DeviceFileNotShown => Some(Advice::ShowHolders),
            Reason::Neighbour { .. } | Reason::OtherNeighbour { .. } if reason.is_not_shown() => {
                // A running kernel shows them.
                (source != Source::Live).then_some(Advice::ShowDrivers)
            }
            _ => None,
        })
        .collect();
    advice.sort_unstable();
    advice.dedup();
    advice
}
