//! What is in the way of one device: what it is, its own files, and who has it.

use vfio_owner::iommu_core::device_model::pci::{HeaderLayout, PciAddress};
use vfio_owner::iommu_core::sysfs::SysfsDevice;
use vfio_owner::vfio_pci::{self, VfioPciRefusal};
use vfio_owner::viability::DriverDma;

use super::reason::Reason;
use crate::read::{HeldFile, Holders, Trial};
use crate::{Fact, Host, Source};

/// What is in the way of a device by itself, whatever its group.
pub(super) fn own_reasons(host: &Host, device: &SysfsDevice) -> Vec<Reason> {
    let address = device.function.address;
    let mut reasons = Vec::new();
    let dma = host.driver_of(device).map(|driver| host.dma_of(driver));
    if dma == Fact::Is(DriverDma::UserSpace) {
        return reasons;
    }
    reasons.extend(refusal(host, device));
    reasons.extend(physical_function(host, device));
    if let Some(devices) = host.children.get(&address) {
        reasons.push(Reason::PerhapsVirtualFunctions { devices: devices.clone() });
    }
    // One that does DMA for the kernel is told among the devices of the group.
    let harmless = matches!(dma, Fact::Absent | Fact::Is(DriverDma::Managed));
    let group = host.group_of(device);
    if group == Fact::Absent && dma != Fact::Unknown || harmless && group != Fact::Unknown {
        reasons.push(Reason::NotHandedOut { driver: device.driver.clone() });
    }
    reasons
}

/// Why vfio-pci would refuse the device.
fn refusal(host: &Host, device: &SysfsDevice) -> Option<Reason> {
    let count = host.virtual_functions(device.function.address);
    if count > 0 {
        return Some(Reason::VirtualFunctions { count });
    }
    if is_bridge(device) {
        return Some(Reason::Bridge);
    }
    match vfio_pci::admits(&device.function) {
        Err(VfioPciRefusal::Denied { .. }) => Some(Reason::Denied),
        _ => None,
    }
}

pub(super) fn is_bridge(device: &SysfsDevice) -> bool {
    device.function.config.layout().is_some_and(|layout| layout != HeaderLayout::Endpoint)
}

/// A virtual function cannot outlive the driver of its physical function, which is in the way if it is in the group.
fn physical_function(host: &Host, device: &SysfsDevice) -> Option<Reason> {
    let address = device.function.address;
    let known = device.function.physical_function.map(|parent| vec![parent]);
    let parents = known.or_else(|| host.parents.get(&address).cloned()).filter(|parents| !parents.is_empty())?;
    let in_the_way = |parent: &PciAddress| {
        let used = host.driver(*parent).known().is_some_and(|driver| host.dma_of(driver) == DriverDma::Kernel);
        used && device.group.is_some() && host.pci.device(*parent).is_some_and(|parent| parent.group == device.group)
    };
    parents.iter().all(in_the_way).then_some(Reason::PhysicalFunction { devices: parents })
}

/// Why a device cannot be opened by its own file, though its driver hands it out.
pub(super) fn device_file_missing(host: &Host, device: &SysfsDevice) -> Option<Reason> {
    if !host.hands_out(device) || host.device_files.contains_key(&device.function.address) {
        return None;
    }
    Some(match host.source {
        Source::Live | Source::Capture => Reason::NoDeviceFile,
        Source::Tree | Source::Listing => Reason::DeviceFileNotShown,
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
    let all_known = matches!(host.holders, Holders::All(_));
    let some = host.holders.of(&HeldFile::SomeDevice).is_some();
    ((some || !all_known) && members.iter().any(|member| host.is_handed_out(*member))).then_some(Reason::PerhapsHeld)
}

fn tried(host: &Host, group: Option<u32>) -> Option<Trial> {
    host.trials.get(&group?).copied()
}
