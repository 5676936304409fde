//! One device: whether it may be given to user space now, what is in the way, and why it shares its group.

use std::collections::BTreeMap;

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};
use vfio_owner::iommu_core::device_model::pci::{HeaderLayout, PciAddress};
use vfio_owner::iommu_core::reserved::{RegionKind, ReservedRegion};
use vfio_owner::iommu_core::sysfs::{SysfsDevice, SysfsGroup};
use vfio_owner::vfio_pci;
use vfio_owner::viability::{DriverDma, Standing, Verdict, dma_of, of_snapshot};

use super::naming::{class_name, device_name};
use super::reason::{Answer, Reason};
use super::tie::{Tie, ties};
use crate::read::Purpose;
use crate::read::{HeldFile, Holders, Trial};
use crate::{Host, NoSuchDevice, Source};

/// Whether a device may be given to user space now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation {
    /// The device.
    pub device: PciAddress,
    /// What kind of device it is.
    pub class: String,
    /// Its maker and name.
    pub name: String,
    /// The driver that it is on.
    pub driver: Option<String>,
    /// The number of its group.
    pub group: Option<u32>,
    /// The way of VFIO's groups.
    pub by_group: Answer,
    /// The way of iommufd: the device's own file.
    pub by_device: Answer,
    /// Every device of the group, itself among them, and how it stands.
    pub members: Vec<Neighbour>,
    /// What ties the group together; `None` when the topology that is shown does not explain it.
    pub ties: Option<Vec<Tie>>,
}

/// A device of the group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// The device.
    pub device: PciAddress,
    /// What kind of device it is.
    pub class: String,
    /// The driver that it is on.
    pub driver: Option<String>,
    /// How it stands to a claim of the group.
    pub standing: Standing,
    /// What the machine has it for, as far as that is known.
    pub purposes: Vec<Purpose>,
}

impl Serialize for Neighbour {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Neighbour", 6)?;
        out.serialize_field("device", &self.device)?;
        out.serialize_field("class", &self.class)?;
        out.serialize_field("driver", &self.driver)?;
        out.serialize_field("in_the_way", in_the_way(self.standing.verdict()))?;
        out.serialize_field("because", &self.standing.to_string())?;
        out.serialize_field("purposes", &self.purposes)?;
        out.end()
    }
}

const fn in_the_way(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Viable => "no",
        Verdict::NotViable => "yes",
        Verdict::Unknown => "perhaps",
    }
}

impl Explanation {
    /// Explains a device.
    ///
    /// # Errors
    /// There is none at the address.
    pub fn of(host: &Host, device: PciAddress) -> Result<Self, NoSuchDevice> {
        let found = host.device(device)?;
        Ok(Self::in_group(host, found, &GroupFacts::of(host, found.group)))
    }

    /// Explains devices, in their order. What a group has in common is found out once.
    ///
    /// # Errors
    /// There is none at one of the addresses.
    pub fn of_each(host: &Host, devices: &[PciAddress]) -> Result<Vec<Self>, NoSuchDevice> {
        let mut groups: BTreeMap<Option<u32>, GroupFacts> = BTreeMap::new();
        let explain = |device: &PciAddress| {
            let found = host.device(*device)?;
            let facts = groups.entry(found.group).or_insert_with(|| GroupFacts::of(host, found.group));
            Ok(Self::in_group(host, found, facts))
        };
        devices.iter().map(explain).collect()
    }

    fn in_group(host: &Host, device: &SysfsDevice, group: &GroupFacts) -> Self {
        let own = own_reasons(host, device);
        let file = device_file_missing(host, device);
        let answer = |file: Option<Reason>| Answer {
            reasons: own.iter().chain(&group.in_the_way).chain(&file).chain(&group.held).cloned().collect(),
        };
        let (by_group, by_device) = (answer(None), answer(file));
        Self {
            device: device.function.address,
            class: class_name(&device.function.config),
            name: device_name(&device.function.config),
            driver: device.driver.clone(),
            group: device.group,
            by_group,
            by_device,
            members: group.members.clone(),
            ties: group.ties.clone(),
        }
    }
}

/// What is the same for every device of a group.
struct GroupFacts {
    members: Vec<Neighbour>,
    in_the_way: Vec<Reason>,
    held: Option<Reason>,
    ties: Option<Vec<Tie>>,
}

impl GroupFacts {
    fn of(host: &Host, number: Option<u32>) -> Self {
        let group = number.and_then(|number| host.pci.group(number));
        let addresses: &[PciAddress] = group.map_or(&[], |group| &group.members);
        let members = number.map_or_else(Vec::new, |number| standings(host, number));
        let speaking = members.iter().filter(|member| member.standing.verdict() != Verdict::Viable);
        let mut in_the_way: Vec<Reason> = speaking
            .map(|member| Reason::Neighbour { device: member.device, standing: member.standing.clone() })
            .collect();
        // A device that is in the way anyhow does not tell its region.
        if !in_the_way.iter().any(Reason::is_direct_region) {
            let region = group.and_then(direct_region);
            in_the_way.extend(region.map(|region| Reason::DirectRegion { region }));
        }
        let (held, ties) = (held(host, number, addresses), ties(&host.topology, addresses));
        Self { members, in_the_way, held, ties }
    }
}

/// How each device of a group stands.
pub(super) fn standings(host: &Host, number: u32) -> Vec<Neighbour> {
    let Some(group) = host.pci.group(number) else { return Vec::new() };
    let viability = of_snapshot(&host.pci, number);
    let devices = viability.map_or_else(Vec::new, |viability| viability.devices);
    let members = group.members.iter().zip(devices).filter_map(|(address, viability)| {
        let device = host.pci.device(*address)?;
        let standing = match viability.standing {
            Standing::NoDriver if host.source == Source::ListingWithoutDrivers => Standing::DriverNotShown,
            standing => standing,
        };
        let class = class_name(&device.function.config);
        let purposes = host.purposes(*address).cloned().collect();
        Some(Neighbour { device: *address, class, driver: device.driver.clone(), standing, purposes })
    });
    members.collect()
}

/// The range that firmware needs a device of the group to reach, if there is one.
pub(super) fn direct_region(group: &SysfsGroup) -> Option<ReservedRegion> {
    group.reserved.iter().find(|region| region.kind == RegionKind::Direct).copied()
}

/// What is in the way of a device by itself, whatever its group.
fn own_reasons(host: &Host, device: &SysfsDevice) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if device.group.is_none() {
        reasons.push(Reason::NoGroup);
    }
    let users_driver = device.driver.as_deref().is_some_and(|driver| dma_of(driver) == DriverDma::UserSpace);
    if users_driver {
        return reasons;
    }
    reasons.extend(refusal(host, device));
    // One that does DMA for the kernel is told among the devices of the group.
    let drivers_do_count = device.driver.as_deref().map(dma_of);
    let shown = host.source != Source::ListingWithoutDrivers;
    if shown && matches!(drivers_do_count, None | Some(DriverDma::Managed)) || device.group.is_none() {
        reasons.push(Reason::NotHandedOut { driver: device.driver.clone() });
    }
    reasons
}

/// Why vfio-pci would refuse the device.
pub(crate) fn refusal(host: &Host, device: &SysfsDevice) -> Option<Reason> {
    let count = host.virtual_functions(device.function.address);
    if count > 0 {
        return Some(Reason::VirtualFunctions { count });
    }
    let layout = device.function.config.layout();
    if layout.is_some_and(|layout| layout != HeaderLayout::Endpoint) {
        return Some(Reason::Bridge);
    }
    match vfio_pci::admits(&device.function) {
        Err(vfio_pci::VfioPciRefusal::Denied { .. }) => Some(Reason::Denied),
        _ => None,
    }
}

fn device_file_missing(host: &Host, device: &SysfsDevice) -> Option<Reason> {
    let handed_out = device.driver.as_deref().is_some_and(|driver| dma_of(driver) == DriverDma::UserSpace);
    if !handed_out || host.device_files.contains_key(&device.function.address) {
        return None;
    }
    Some(match host.source {
        Source::Live | Source::Capture => Reason::NoDeviceFile,
        Source::Tree | Source::Listing | Source::ListingWithoutDrivers => Reason::DeviceFileNotShown,
    })
}

/// Whether user space has a device of the group, or may have.
pub(crate) fn held(host: &Host, group: Option<u32>, members: &[PciAddress]) -> Option<Reason> {
    let file = group.map(HeldFile::Group);
    let devices = members.iter().filter_map(|member| host.device_files.get(member).cloned().map(HeldFile::Device));
    let holder = file.into_iter().chain(devices).find_map(|file| host.holders.of(&file).cloned());
    if let Some(holder) = holder {
        return Some(Reason::Held { holder });
    }
    match tried(host, group) {
        Some(Trial::Free) => return None,
        Some(Trial::Busy) => {
            // A device or a mapping that is open does not show which one it is, but somebody has this group.
            let some = host.holders.of(&HeldFile::SomeDevice).cloned();
            return Some(some.map_or(Reason::HeldUnseen, |holder| Reason::Held { holder }));
        }
        None => {}
    }
    let handed_out = |member: &PciAddress| {
        let driver = host.pci.device(*member).and_then(|device| device.driver.as_deref());
        driver.is_some_and(|driver| dma_of(driver) == DriverDma::UserSpace)
    };
    let all_known = matches!(host.holders, Holders::All(_));
    let some = host.holders.of(&HeldFile::SomeDevice).is_some();
    ((some || !all_known) && members.iter().any(handed_out)).then_some(Reason::PerhapsHeld)
}

fn tried(host: &Host, group: Option<u32>) -> Option<Trial> {
    host.trials.get(&group?).copied()
}
