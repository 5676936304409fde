//! `lspci`: what it says of every function, against the machine.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use vfio_owner::iommu_core::device_model::pci::{BarKind, PciFunction};
use vfio_owner::testbed::{Machine, pc, sriov, workstation};
use vfio_room::Room;

use super::{Checks, Client, Need, limited, text};

pub(super) const CLIENT: Client = Client {
    name: "lspci",
    shows: "every function with its numbers, IOMMU group and driver, as the machine has it",
    needs: &[Need::Program("lspci", "pciutils")],
    wants: &[],
    run,
};

fn run(checks: &mut Checks) -> Result<()> {
    for (name, snapshot) in [("pc", pc()), ("workstation", workstation()), ("sriov", sriov())] {
        let machine = Arc::new(Machine::boot(&snapshot));
        let room = Room::new(&machine)?;
        let listing = text(limited(&room, "lspci").args(["-vvv", "-nn", "-D"]))?;
        let listed: Vec<Listed<'_>> = listing.split("\n\n").filter_map(Listed::of).collect();
        checks.check(&format!("{name}: every function"), || {
            let there = snapshot.devices.iter().map(|device| device.function.address.to_string());
            ensure!(listed.iter().map(|function| function.address).eq(there), "not those of the machine: {listing}");
            Ok(())
        });
        for (function, device) in listed.iter().zip(&snapshot.devices) {
            let agree = || function.agrees(&device.function, &machine);
            checks.check(&format!("{name}: {}", function.address), agree);
        }
    }
    Ok(())
}

/// A function, as `lspci` lists it.
struct Listed<'a> {
    address: &'a str,
    heading: &'a str,
    details: Vec<&'a str>,
}

impl<'a> Listed<'a> {
    fn of(paragraph: &'a str) -> Option<Self> {
        let mut lines = paragraph.lines();
        let (address, heading) = lines.next()?.split_once(' ')?;
        Some(Self { address, heading, details: lines.map(str::trim).collect() })
    }

    fn detail(&self, name: &str) -> Option<&str> {
        self.details.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn agrees(&self, function: &PciFunction, machine: &Machine) -> Result<()> {
        let config = &function.config;
        let id = format!("[{:04x}:{:04x}]", config.vendor().unwrap_or(0), config.device().unwrap_or(0));
        ensure!(self.heading.contains(&id), "no {id} in {}", self.heading);
        let class = format!("[{:04x}]: ", config.class().unwrap_or(0) >> 8);
        ensure!(self.heading.contains(&class), "no {class} in {}", self.heading);
        let group = machine.group(self.address)?.id().to_string();
        ensure!(self.detail("IOMMU group") == Some(&group), "not in group {group}");
        let driver = machine.driver(self.address);
        ensure!(self.detail("Kernel driver in use") == driver.as_deref(), "its driver is {driver:?}");
        for (slot, bar) in function.bars.iter() {
            let region = self.detail(&format!("Region {slot}")).with_context(|| format!("no region {slot}"))?;
            let space = if bar.kind() == BarKind::Io { "I/O ports" } else { "Memory" };
            let place =
                format!("{space} at {:0width$x} ", bar.address(), width = if space == "Memory" { 8 } else { 4 });
            ensure!(region.starts_with(&place) && region.contains(&size(bar.size())), "{slot}: {region}: not {bar:?}");
        }
        for capability in config.capabilities() {
            let place = format!("Capabilities: [{:02x}]", capability.offset);
            ensure!(self.details.iter().any(|line| line.starts_with(&place)), "no {place}");
        }
        Ok(())
    }
}

/// Writes a size as `lspci` does.
fn size(bytes: u64) -> String {
    let units = ["", "K", "M", "G", "T"];
    let power = (bytes.trailing_zeros() / 10).min(4);
    format!("[size={}{}]", bytes >> (10 * power), units.get(power as usize).unwrap_or(&""))
}
