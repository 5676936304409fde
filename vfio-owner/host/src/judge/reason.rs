//! Reasons that prevent a device from being assigned.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::reserved::ReservedRegion;
use vfio_owner::viability::{Standing, Verdict, region};

use crate::read::{Holder, IommuState, OtherMember};

/// Whether a device can be opened one way, and if not, why.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[non_exhaustive]
pub struct Answer {
    /// Everything that prevents it; empty if nothing does.
    pub reasons: Arc<[Reason]>,
}

impl Answer {
    pub(super) fn of(reasons: Vec<Reason>) -> Self {
        Self { reasons: reasons.into() }
    }

    /// Returns the verdict: the worst of the reasons.
    pub fn verdict(&self) -> Verdict {
        let worst = |verdict| self.reasons.iter().any(|reason| reason.verdict() == verdict);
        [Verdict::NotViable, Verdict::Unknown].into_iter().find(|verdict| worst(*verdict)).unwrap_or(Verdict::Viable)
    }
}

/// A reason as programs read it: its code and what it is about, its verdict, and the words for a person.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    reason: &'a Reason,
    verdict: Verdict,
    text: String,
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written<'a> {
            possible: &'static str,
            reasons: Vec<Told<'a>>,
        }
        let possible = match self.verdict() {
            Verdict::Viable => "yes",
            Verdict::NotViable => "no",
            Verdict::Unknown => "unknown",
        };
        let told = |reason| Told { reason, verdict: Reason::verdict(reason), text: reason.to_string() };
        Written { possible, reasons: self.reasons.iter().map(told).collect() }.serialize(serializer)
    }
}

/// Why a device cannot be assigned now. In JSON, `code` names the variant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// The device is in no group: no IOMMU serves it.
    NoGroup {
        /// The cause, as far as shown.
        iommu: IommuState,
    },
    /// The device's group is not shown.
    GroupNotShown,
    /// It is a bridge, which vfio-pci does not take.
    // V60.
    Bridge,
    /// vfio-pci does not take it, for users could do harm with it.
    // V60.
    Denied,
    /// It has virtual functions, so vfio-pci does not take it.
    // V60.
    VirtualFunctions {
        /// Number of virtual functions.
        count: usize,
    },
    /// It may have virtual functions; with them, vfio-pci does not take it.
    // V60.
    PerhapsVirtualFunctions {
        /// The functions that may be its own.
        devices: Vec<PciAddress>,
    },
    /// The device is not bound to vfio-pci or another VFIO driver.
    NotHandedOut {
        /// The driver that is bound.
        driver: Option<String>,
    },
    /// Another device of the group prevents a claim, or may do so.
    Neighbour {
        /// The device.
        device: PciAddress,
        /// Why it does.
        #[serde(flatten)]
        standing: Standing,
    },
    /// A device of the group that is not a PCI function prevents a claim, or may do so.
    OtherNeighbour {
        /// The device.
        #[serde(flatten)]
        member: OtherMember,
    },
    /// The device is a virtual function whose physical function prevents a claim: unbinding that one removes this one.
    PhysicalFunction {
        /// The physical function; one of these if there are several.
        devices: Vec<PciAddress>,
    },
    /// Firmware needs a device of the group to reach a range at all times.
    // I33.
    DirectRegion {
        /// The range.
        #[serde(with = "region")]
        region: ReservedRegion,
    },
    /// The kernel's log says that it refuses a device of the group, for firmware needs it mapped at all times.
    // I33.
    RefusedByKernel {
        /// The device.
        device: PciAddress,
    },
    /// The group may have devices that are not shown.
    MembersNotShown,
    /// Lines of the listing that may concern the group were not understood.
    LinesNotUnderstood {
        /// The lines, counted from 1.
        lines: Vec<usize>,
    },
    /// A process has the device or its group open.
    Held {
        /// The process.
        holder: Holder,
    },
    /// The group is open, but no process that is shown has it.
    HeldUnseen,
    /// The source does not show whether the group is open.
    PerhapsHeld,
    /// The device has no device file: the kernel was built without them.
    NoDeviceFile,
    /// The source does not show whether the device has a device file.
    DeviceFileNotShown,
}

impl Reason {
    /// Returns the verdict of this reason alone.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Neighbour { standing, .. } => standing.verdict(),
            Self::OtherNeighbour { member } => member.standing().verdict(),
            Self::GroupNotShown
            | Self::PerhapsVirtualFunctions { .. }
            | Self::MembersNotShown
            | Self::LinesNotUnderstood { .. }
            | Self::PerhapsHeld
            | Self::DeviceFileNotShown => Verdict::Unknown,
            _ => Verdict::NotViable,
        }
    }

    /// Returns whether no step of a plan can change it.
    pub fn is_final(&self) -> bool {
        match self {
            Self::NoGroup { .. }
            | Self::Bridge
            | Self::Denied
            | Self::VirtualFunctions { .. }
            | Self::PhysicalFunction { .. }
            | Self::DirectRegion { .. }
            | Self::RefusedByKernel { .. }
            | Self::Held { .. }
            | Self::HeldUnseen => true,
            Self::OtherNeighbour { .. } => self.verdict() == Verdict::NotViable,
            Self::Neighbour { .. } => self.is_direct_region(),
            _ => false,
        }
    }

    /// Returns whether the reason is that the source does not show what a plan needs to know.
    pub fn is_not_shown(&self) -> bool {
        match self {
            Self::GroupNotShown
            | Self::PerhapsVirtualFunctions { .. }
            | Self::MembersNotShown
            | Self::LinesNotUnderstood { .. } => true,
            Self::Neighbour { standing, .. } => *standing == Standing::DriverNotShown,
            Self::OtherNeighbour { .. } => self.verdict() == Verdict::Unknown,
            _ => false,
        }
    }

    /// Whether it is a device that firmware needs to reach a range.
    pub(super) const fn is_direct_region(&self) -> bool {
        matches!(
            self,
            Self::Neighbour { standing: Standing::DirectRegion { .. } | Standing::MaybeDirectRegion { .. }, .. }
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGroup { iommu } => write!(f, "it is in no IOMMU group: {iommu}"),
            Self::GroupNotShown => f.write_str("its IOMMU group is not shown"),
            Self::Bridge => f.write_str("it is a bridge, which vfio-pci does not take"),
            Self::Denied => f.write_str("vfio-pci does not take it: users could do harm to the machine with it"),
            Self::VirtualFunctions { count } => {
                write!(f, "it has {count} virtual functions; remove them first (write 0 to its sriov_numvfs)")
            }
            Self::PerhapsVirtualFunctions { devices } => {
                write!(f, "it may have virtual functions ({}); remove them first", listed(devices))
            }
            Self::NotHandedOut { driver: Some(driver) } => write!(f, "{driver} does not hand it to user space"),
            Self::NotHandedOut { driver: None } => f.write_str("it has no driver that hands it to user space"),
            Self::Neighbour { device, standing } => write!(f, "{device}: {standing}"),
            Self::OtherNeighbour { member } => write!(f, "{member}: {}", member.standing()),
            Self::PhysicalFunction { devices } => {
                let devices: Vec<String> = devices.iter().map(ToString::to_string).collect();
                let devices = devices.join(" or ");
                write!(
                    f,
                    "it is a virtual function of {devices}, which is in the way: when that is unbound, this one is removed"
                )
            }
            Self::DirectRegion { region } => write!(
                f,
                "firmware needs a device of the group to reach {} to {} at all times; no step clears that",
                region.first, region.last
            ),
            Self::RefusedByKernel { device } => write!(
                f,
                "the kernel's log says that it refuses {device}: firmware needs it mapped at all times (RMRR); no step \
                 clears that but firmware settings or another slot"
            ),
            Self::MembersNotShown => f.write_str("its group may have devices that are not shown"),
            Self::LinesNotUnderstood { lines } => {
                write!(f, "these lines may be about its group and were not understood: {}", listed(lines))
            }
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

fn listed(what: &[impl fmt::Display]) -> String {
    what.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
