//! Device configuration for other tools.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::vfio_pci;

use crate::{Host, NoSuchDevice};

/// A tool that assigns devices to guests, or binds them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NextTool {
    /// Options of `qemu-system-…`.
    Qemu,
    /// Elements for `<devices>` of a libvirt domain.
    Libvirt,
    /// Lines of a Proxmox VE configuration.
    Proxmox,
    /// `permittedHostDevices` of a KubeVirt resource.
    KubeVirt,
    /// driverctl commands, which bind devices persistently.
    Driverctl,
}

impl NextTool {
    /// Returns the configuration of the devices for this tool, in their order.
    ///
    /// # Errors
    /// Fails if there is no such device.
    pub fn write(self, host: &Host, devices: &[PciAddress]) -> Result<String, NoSuchDevice> {
        for device in devices {
            host.device(*device)?;
        }
        Ok(match self {
            Self::Qemu => qemu(devices),
            Self::Libvirt => devices.iter().map(|device| libvirt(*device)).collect(),
            Self::Proxmox => proxmox(host, devices),
            Self::KubeVirt => kubevirt(host, devices),
            Self::Driverctl => lines(devices, |device| format!("driverctl set-override {device} {}", vfio_pci::NAME)),
        })
    }
}

fn lines(devices: &[PciAddress], line: impl Fn(&PciAddress) -> String) -> String {
    devices.iter().map(|device| line(device) + "\n").collect()
}

fn qemu(devices: &[PciAddress]) -> String {
    lines(devices, |device| format!("-device {},host={device}", vfio_pci::NAME))
}

/// `managed='no'`: the binding is what plans change, and undo.
fn libvirt(device: PciAddress) -> String {
    let [domain, bus] = [device.domain(), u32::from(device.bus())];
    let [slot, function] = [device.devfn().slot(), device.devfn().function()];
    format!(
        "<hostdev mode='subsystem' type='pci' managed='no'>\n  <source>\n    \
         <address domain='0x{domain:04x}' bus='0x{bus:02x}' slot='0x{slot:02x}' function='0x{function:x}'/>\n  \
         </source>\n</hostdev>\n"
    )
}

/// A slot whose functions all go is one entry.
fn proxmox(host: &Host, devices: &[PciAddress]) -> String {
    let mut entries: Vec<String> = Vec::new();
    for device in devices {
        let slot: Vec<PciAddress> = host.topology.functions_in_slot(*device).map(|function| function.address).collect();
        let whole = slot.len() > 1 && slot.iter().all(|function| devices.contains(function));
        let name = device.to_string();
        let entry = match name.rsplit_once('.') {
            Some((slot, _)) if whole => slot.to_owned(),
            _ => name,
        };
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    entries.iter().enumerate().fold(String::new(), |mut out, (number, entry)| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "hostpci{number}: {entry},pcie=1");
        out
    })
}

/// KubeVirt names devices by their ids: every like device of the node is offered.
fn kubevirt(host: &Host, devices: &[PciAddress]) -> String {
    let ids = devices.iter().filter_map(|device| {
        let config = &host.pci.device(*device)?.function.config;
        Some((config.vendor()?, config.device()?))
    });
    let ids: BTreeSet<(u16, u16)> = ids.collect();
    let mut out = "permittedHostDevices:\n  pciHostDevices:\n".to_owned();
    for (vendor, device) in &ids {
        let _ = writeln!(
            out,
            "  - pciVendorSelector: \"{vendor:04X}:{device:04X}\"\n    resourceName: \"pci-{vendor:04x}/{device:04x}\""
        );
    }
    out
}
