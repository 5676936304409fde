//! The devices of a group, and how each stands to a claim of it.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::reserved::{RegionKind, ReservedRegion};
use vfio_owner::iommu_core::sysfs::{SysfsDevice, SysfsGroup};
use vfio_owner::viability::{DriverDma, Standing, Verdict};

use super::naming::class_of;
use super::obstacle::is_bridge;
use crate::read::Purpose;
use crate::{Fact, Host};

const CLASS_HOST_BRIDGE: u32 = 0x0600;

/// A device of the group.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[non_exhaustive]
pub struct Neighbour {
    /// The device.
    pub device: PciAddress,
    /// Kind of device.
    pub class: Cow<'static, str>,
    /// The driver that is bound.
    pub driver: Fact<Arc<str>>,
    /// What has to happen to it for the group to be viable.
    pub part: Part,
    /// What it means for a claim of the group.
    pub standing: Standing,
    /// What the host uses it for, as far as known.
    pub purposes: Vec<Purpose>,
}

/// What has to happen to a member for its group to be viable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Part {
    /// Nothing.
    None,
    /// The device is a bridge, which keeps its driver (pcieport), or has none.
    Stays,
    /// The device must be unbound from its driver, unless that is a VFIO driver.
    Leaves,
    /// Neither driver nor kind of the device are shown: a bridge stays, anything else must be unbound.
    Perhaps,
}

impl Serialize for Neighbour {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written<'a> {
            device: PciAddress,
            class: &'a str,
            driver: &'a Fact<Arc<str>>,
            part: Part,
            standing: &'a Standing,
            in_the_way: &'static str,
            text: String,
            purposes: &'a [Purpose],
        }
        let Self { device, class, driver, part, standing, purposes } = self;
        let in_the_way = match standing.verdict() {
            Verdict::Viable => "no",
            Verdict::NotViable => "yes",
            Verdict::Unknown => "perhaps",
        };
        let text = standing.to_string();
        Written { device: *device, class, driver, part: *part, standing, in_the_way, text, purposes }
            .serialize(serializer)
    }
}

/// How each PCI function of a group stands.
pub(super) fn standings(host: &Host, number: u32) -> Vec<Neighbour> {
    let Some(group) = host.pci.group(number) else { return Vec::new() };
    let devices = group.members.iter().filter_map(|address| host.pci.device(*address));
    let mut members: Vec<Neighbour> = devices.map(|device| neighbour(host, device)).collect();
    blame_direct_region(group, &mut members);
    members
}

/// How a PCI function stands, as far as it shows by itself.
pub(super) fn neighbour(host: &Host, device: &SysfsDevice) -> Neighbour {
    let address = device.function.address;
    let driver: Fact<Arc<str>> = host.driver_of(device).map(Arc::from);
    let is_managed = |driver: &Arc<str>| host.dma_of(driver) == DriverDma::Managed;
    let standing = match driver.clone() {
        Fact::Is(driver) => match host.dma_of(&driver) {
            DriverDma::Kernel => Standing::KernelUse { driver },
            DriverDma::Managed | DriverDma::UserSpace => Standing::Managed { driver },
            DriverDma::Unknown => Standing::UnknownDriver { driver },
        },
        Fact::Absent => Standing::NoDriver,
        Fact::Unknown => Standing::DriverNotShown,
    };
    let part = match standing.verdict() {
        _ if is_bridge(device) && driver.as_ref().known().is_none_or(is_managed) => Part::Stays,
        Verdict::Viable => Part::None,
        Verdict::Unknown if driver == Fact::Unknown && may_have_no_driver(host, device) => Part::Perhaps,
        Verdict::NotViable | Verdict::Unknown => Part::Leaves,
    };
    Neighbour {
        device: address,
        class: class_of(host, device),
        driver,
        part,
        standing,
        purposes: host.purposes(address).cloned().collect(),
    }
}

/// Whether a device whose driver is not shown may well have none that has to let it go: one of which it is not shown that
/// it is no bridge, and a bridge to the processor.
fn may_have_no_driver(host: &Host, device: &SysfsDevice) -> bool {
    let class = device.function.config.class().unwrap_or_default() >> 8;
    class == CLASS_HOST_BRIDGE
        || class == 0 && host.words.get(&device.function.address).is_none_or(|words| words.class.is_empty())
}

/// The tree tells the regions of a group, not whose they are.
fn blame_direct_region(group: &SysfsGroup, members: &mut [Neighbour]) {
    let Some(region) = direct_region(group) else { return };
    let alone = members.len() == 1;
    for member in members.iter_mut().filter(|member| member.standing.verdict() != Verdict::NotViable) {
        member.standing =
            if alone { Standing::DirectRegion { region } } else { Standing::MaybeDirectRegion { region } };
    }
}

/// The range that firmware needs a device of the group to reach, if there is one.
pub(super) fn direct_region(group: &SysfsGroup) -> Option<ReservedRegion> {
    group.reserved.iter().find(|region| region.kind == RegionKind::Direct).copied()
}
