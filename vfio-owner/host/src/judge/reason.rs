//! What speaks against giving a device to user space.

use std::fmt;

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::reserved::ReservedRegion;
use vfio_owner::viability::{Standing, Verdict};

use crate::read::Holder;

/// Whether one way is open, and if not, why.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// Everything that speaks against it; empty if nothing does.
    pub reasons: Vec<Reason>,
}

impl Answer {
    /// The sum of the reasons.
    pub fn verdict(&self) -> Verdict {
        let worst = self.reasons.iter().map(Reason::verdict);
        if worst.clone().any(|verdict| verdict == Verdict::NotViable) {
            Verdict::NotViable
        } else if worst.clone().any(|verdict| verdict == Verdict::Unknown) {
            Verdict::Unknown
        } else {
            Verdict::Viable
        }
    }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let possible = match self.verdict() {
            Verdict::Viable => "yes",
            Verdict::NotViable => "no",
            Verdict::Unknown => "unknown",
        };
        let mut out = serializer.serialize_struct("Answer", 2)?;
        out.serialize_field("possible", possible)?;
        let reasons: Vec<String> = self.reasons.iter().map(ToString::to_string).collect();
        out.serialize_field("reasons", &reasons)?;
        out.end()
    }
}

/// What speaks against giving a device away now.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// It is in no group: no IOMMU serves it.
    NoGroup,
    /// It is a bridge, which vfio-pci does not take (V60).
    Bridge,
    /// vfio-pci does not take it, for users could do harm with it (V60).
    Denied,
    /// It has virtual functions, so vfio-pci does not take it (V60).
    VirtualFunctions {
        /// How many there are.
        count: usize,
    },
    /// It is on no driver that hands it to user space.
    NotHandedOut {
        /// The driver that it is on.
        driver: Option<String>,
    },
    /// A device of the group is in the way, or may be.
    Neighbour {
        /// The device.
        device: PciAddress,
        /// How it stands.
        standing: Standing,
    },
    /// Firmware needs a device of the group to reach a range at all times (I33).
    DirectRegion {
        /// The range.
        region: ReservedRegion,
    },
    /// User space has it, or its group.
    Held {
        /// Who.
        holder: Holder,
    },
    /// Someone has its group, but no process that is shown.
    HeldUnseen,
    /// It is not shown whether user space has the group.
    PerhapsHeld,
    /// It has no file of its own: the kernel was built without.
    NoDeviceFile,
    /// It is not shown whether it has a file of its own.
    DeviceFileNotShown,
}

impl Reason {
    /// What this alone would come to.
    pub const fn verdict(&self) -> Verdict {
        match self {
            Self::Neighbour { standing, .. } => standing.verdict(),
            Self::PerhapsHeld | Self::DeviceFileNotShown => Verdict::Unknown,
            _ => Verdict::NotViable,
        }
    }

    /// Whether no step of a plan can clear it.
    pub const fn is_final(&self) -> bool {
        match self {
            Self::NoGroup
            | Self::Bridge
            | Self::Denied
            | Self::VirtualFunctions { .. }
            | Self::DirectRegion { .. }
            | Self::Held { .. }
            | Self::HeldUnseen => true,
            Self::Neighbour { .. } => self.is_direct_region(),
            _ => false,
        }
    }

    pub(super) const fn is_direct_region(&self) -> bool {
        match self {
            Self::DirectRegion { .. } => true,
            Self::Neighbour { standing, .. } => {
                matches!(standing, Standing::DirectRegion { .. } | Standing::MaybeDirectRegion { .. })
            }
            _ => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGroup => f.write_str("it is in no IOMMU group: there is no IOMMU, or it is switched off"),
            Self::Bridge => f.write_str("it is a bridge, which vfio-pci does not take"),
            Self::Denied => f.write_str("vfio-pci does not take it: users could do harm to the machine with it"),
            Self::VirtualFunctions { count } => {
                write!(f, "it has {count} virtual functions; remove them first (write 0 to its sriov_numvfs)")
            }
            Self::NotHandedOut { driver: Some(driver) } => write!(f, "{driver} does not hand it to user space"),
            Self::NotHandedOut { driver: None } => f.write_str("it has no driver that hands it to user space"),
            Self::Neighbour { device, standing } => write!(f, "{device}: {standing}"),
            Self::DirectRegion { region } => write!(
                f,
                "firmware needs a device of the group to reach {} to {} at all times; no step clears that",
                region.first, region.last
            ),
            Self::Held { holder } => write!(f, "{holder} has it"),
            Self::HeldUnseen => f.write_str("its group is in use (EBUSY), by no process that is shown"),
            Self::PerhapsHeld => f.write_str("it is not shown whether user space has the group open"),
            Self::NoDeviceFile => {
                f.write_str("it has no file of its own: the kernel has none (CONFIG_VFIO_DEVICE_CDEV)")
            }
            Self::DeviceFileNotShown => f.write_str("it is not shown whether it has a file of its own"),
        }
    }
}
