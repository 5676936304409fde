//! Members of groups that are not PCI functions.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::sysfs::{Tree, Warning, WarningReason, resolve};
use vfio_owner::viability::{DmaBus, DriverDma, Standing, dma_on};

use crate::Fact;

/// The bus of mediated devices, each of which is in a group of its own; its parent stays on its driver.
pub(super) const MDEV: &str = "mdev";

/// Where sysfs keeps groups.
const GROUPS: &str = "kernel/iommu_groups";

/// A member of a group that is not a PCI function: a platform device, for example.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OtherMember {
    /// The group.
    pub group: u32,
    /// Name of the device in sysfs.
    pub name: String,
    /// The name of its bus.
    pub bus: Fact<String>,
    /// The driver that is bound.
    pub driver: Fact<String>,
}

impl OtherMember {
    /// Returns the kind of device, in words.
    pub fn kind(&self) -> &'static str {
        match self.bus.as_ref().map(String::as_str) {
            Fact::Is("platform") => "platform device",
            Fact::Is("amba") => "amba device",
            Fact::Is("fsl-mc") => "fsl-mc device",
            Fact::Is("cdx") => "cdx device",
            Fact::Is(MDEV) => "mediated device",
            _ => "no PCI device",
        }
    }

    /// Returns how the device stands to a claim of its group.
    ///
    /// A driver on a bus that takes no part in DMA ownership is never in the way.
    // D60.
    pub fn standing(&self) -> Standing {
        let bus = self.bus.as_ref().map(|name| DmaBus::of_name(name));
        if bus == Fact::Is(None) {
            return Standing::NotInUse;
        }
        let driver: Arc<str> = match &self.driver {
            Fact::Is(driver) => driver.as_str().into(),
            Fact::Absent => return Standing::NoDriver,
            Fact::Unknown => return Standing::DriverNotShown,
        };
        match bus.known().flatten().map(|bus| dma_on(bus, &driver)) {
            Some(DriverDma::Managed | DriverDma::UserSpace) => Standing::Managed { driver },
            Some(DriverDma::Kernel) => Standing::KernelUse { driver },
            Some(DriverDma::Unknown) | None => Standing::UnknownDriver { driver },
        }
    }
}

impl fmt::Display for OtherMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.bus {
            Fact::Is(bus) => write!(f, "{bus} device {}", self.name),
            Fact::Absent | Fact::Unknown => f.write_str(&self.name),
        }
    }
}

/// What is read of each.
pub(super) const LINKS: [&str; 2] = ["driver", "subsystem"];

/// Returns the group and the name of the member that a warning of the loader is about, if it is one that is no PCI
/// function.
pub(super) fn named_in(warning: &Warning) -> Option<(u32, &str)> {
    let below = warning.path.strip_prefix(GROUPS).filter(|_| warning.reason == WarningReason::NotAFunction)?;
    let (group, name) = below.strip_prefix('/')?.split_once("/devices/")?;
    Some((group.parse().ok()?, name))
}

/// Returns the folder of a member.
pub(super) fn folder(tree: &dyn Tree, group: u32, name: &str) -> Option<String> {
    resolve(tree, &format!("{GROUPS}/{group}/devices/{name}"))
}

/// The members that the loader passed over.
pub(super) fn other_members(tree: &dyn Tree, warnings: &[Warning]) -> Vec<OtherMember> {
    let members = warnings.iter().filter_map(named_in).map(|(group, name)| {
        let (folder, name) = (folder(tree, group, name), name.to_owned());
        let Some(path) = folder else {
            return OtherMember { group, name, bus: Fact::Unknown, driver: Fact::Unknown };
        };
        let target = |link: &str| tree.link(&format!("{path}/{link}")).ok();
        let last = |target: &String| target.rsplit('/').next().unwrap_or_default().to_string();
        let driver = target("driver");
        // A driver's folder is below its bus.
        let above = driver.as_ref().and_then(|target| target.split_once("bus/")?.1.split('/').next());
        let bus = target("subsystem").as_ref().map(last).or_else(|| above.map(ToOwned::to_owned));
        OtherMember {
            group,
            name,
            bus: bus.map_or(Fact::Unknown, Fact::Is),
            driver: driver.as_ref().map(last).map_or(Fact::Absent, Fact::Is),
        }
    });
    let mut members: Vec<OtherMember> = members.collect();
    members.sort_unstable();
    members
}

/// The bus of a device that is no PCI function, as far as its name tells: mediated devices are called by an UUID.
pub(super) fn bus_of(name: &str) -> Fact<String> {
    let lengths: Vec<usize> = name.split('-').map(str::len).collect();
    let hex = name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if hex && lengths == [8, 4, 4, 4, 12] { Fact::Is(MDEV.to_owned()) } else { Fact::Unknown }
}
