//! Whether an IOMMU is enabled, and if not, why.

use std::fmt;

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::sysfs::Tree;

use super::source::{PROC, text};

/// Whether an IOMMU is enabled, as far as firmware, command line and log show.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum IommuState {
    /// Enabled: a device without a group is not behind an IOMMU.
    On,
    /// Disabled by the command line.
    SwitchedOff,
    /// Described by firmware, but not used by the kernel.
    NotSwitchedOn,
    /// Not described by firmware.
    NotDescribed,
    /// Not shown.
    #[default]
    NotShown,
}

impl fmt::Display for IommuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "other devices are in groups, so there is no IOMMU in front of this one",
            Self::SwitchedOff => {
                "the kernel's command line switches the IOMMU off: remove `iommu=off`, `intel_iommu=off` or \
                 `amd_iommu=off` and boot again"
            }
            Self::NotSwitchedOn => {
                "firmware describes an IOMMU that the kernel does not use: boot with `intel_iommu=on` (Intel) or \
                 without `amd_iommu=off` (AMD)"
            }
            Self::NotDescribed => {
                "firmware describes no IOMMU: switch on VT-d, AMD-Vi or SMMU in its settings (of a virtual machine: \
                 give it a virtual IOMMU)"
            }
            Self::NotShown => "there is no IOMMU, or it is switched off in firmware or on the kernel's command line",
        })
    }
}

impl IommuState {
    /// Reads a tree whose `/proc` and firmware tables are those of a running kernel.
    pub(super) fn of_tree(tree: &dyn Tree) -> Self {
        let list = |path: &str| tree.list(path).unwrap_or_default();
        if !list("class/iommu").is_empty() || !list("kernel/iommu_groups").is_empty() {
            return Self::On;
        }
        if text(tree, &format!("{PROC}/cmdline")).as_deref().and_then(Self::of_command_line) == Some(Self::SwitchedOff)
        {
            return Self::SwitchedOff;
        }
        let tables = list("firmware/acpi/tables");
        if tables.is_empty() {
            Self::NotShown
        } else if tables.iter().any(|table| matches!(&**table, "DMAR" | "IVRS" | "IORT" | "VIOT")) {
            Self::NotSwitchedOn
        } else {
            Self::NotDescribed
        }
    }

    /// Reads a kernel's command line; `None` if it says nothing.
    pub(super) fn of_command_line(line: &str) -> Option<Self> {
        let off = |word: &str| matches!(word, "iommu=off" | "intel_iommu=off" | "amd_iommu=off");
        line.split_whitespace().any(off).then_some(Self::SwitchedOff)
    }

    /// Whether a line of a kernel's log names a table in which firmware describes an IOMMU.
    pub(super) fn is_described(line: &str) -> bool {
        ["ACPI: DMAR 0x", "ACPI: IVRS 0x", "ACPI: IORT 0x", "ACPI: VIOT 0x"].iter().any(|words| line.contains(words))
    }

    /// Reads a line of a kernel's log; `None` if it says nothing.
    pub(super) fn of_log(line: &str) -> Option<Self> {
        let lower = line.to_ascii_lowercase();
        let says = |words: &str| lower.contains(words);
        if says("dmar: iommu enabled")
            || says("amd-vi: interrupt remapping enabled")
            || says("iommu: default domain type")
        {
            // Which of the devices it serves is another question.
            None
        } else if says("no dmar devices found") || says("dmar: no dmar") || says("no iommu found") {
            Some(Self::NotDescribed)
        } else if says("command line:") {
            Self::of_command_line(line)
        } else {
            None
        }
    }
}
