//! How the story is shown: 100 columns, coloured on a terminal.

use std::fmt;
use std::sync::Arc;

use anstream::println;
use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, Result};
use vfio_owner::backend::MapRequest;
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::software::{LockedPages, Process};
use vfio_owner::iommu_core::sysfs::Snapshot;
use vfio_owner::iommu_core::{Access, Attached, Group, Iova, Ownership, UserMemory as _};
use vfio_owner::testbed::Machine;

use super::{BUFFER, USER_TEXT};
use crate::style::{BOLD, DIM, GOOD};

const BAD: Style = AnsiColor::Red.on_default();
const KERNEL: Style = AnsiColor::Blue.on_default();
const USER: Style = AnsiColor::Magenta.on_default();

/// Width of what is done, so that the ownership after it stands in one column.
const ACTION: usize = 50;

/// The machine, and the group that the story is about.
pub(super) struct Stage {
    machine: Machine,
    group: Arc<Group>,
}

/// A device's name without the PCI domain that all share.
pub(super) fn short(device: &str) -> &str {
    device.strip_prefix("0000:").unwrap_or(device)
}

impl Stage {
    pub(super) fn new(machine: Machine, group: Arc<Group>) -> Self {
        Self { machine, group }
    }

    pub(super) fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(super) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    #[expect(clippy::unused_self, reason = "told on a stage like everything else")]
    pub(super) fn title(&self, text: &str) {
        println!("\n{BOLD}{text}{BOLD:#}");
    }

    #[expect(clippy::unused_self, reason = "told on a stage like everything else")]
    pub(super) fn note(&self, text: &str) {
        println!("  {DIM}{text}{DIM:#}");
    }

    /// The page of the guest, to be mapped at `iova`.
    pub(super) fn guest_page(&self, iova: Iova) -> Result<MapRequest> {
        let process = Process::new(self.machine.memory(), LockedPages::unlimited());
        let addr = process.allocate(PAGE_SIZE, Access::ReadWrite).context("no page for the guest")?;
        process.write(addr, USER_TEXT)?;
        Ok(MapRequest { iova, bytes: PAGE_SIZE, process, addr, access: Access::ReadWrite })
    }

    /// All groups, their members, and who holds them.
    pub(super) fn groups(&self, snapshot: &Snapshot) {
        println!(
            "  {DIM}{:>5}  {:<18}{:<22}{:<14}{}{DIM:#}",
            "group", "holder", "attached to", "device", "driver, class"
        );
        for group in self.machine.iommu().groups() {
            let (holder, style) = holder(&group.ownership());
            for (row, member) in group.members().iter().enumerate() {
                let (number, holder, attached) = match row {
                    0 => (group.id().to_string(), holder.clone(), group.attached().to_string()),
                    _ => Default::default(),
                };
                let device = short(&member.device);
                let driver = self.machine.driver(&member.device).unwrap_or_else(|| "-".into());
                let class = class(snapshot, &member.device);
                println!(
                    "  {number:>5}  {style}{holder:<18}{style:#}{attached:<22}{device:<14}{driver:<10}{DIM}{class}{DIM:#}"
                );
            }
        }
    }

    /// The group as it stands.
    pub(super) fn state(&self) {
        self.line(' ', Style::new(), "", "");
    }

    /// Something was done.
    pub(super) fn done(&self, action: &str, remark: &str) {
        self.line('+', GOOD, action, remark);
    }

    /// Something was refused: the number of Linux, and what our error says.
    pub(super) fn refused(&self, action: &str, errno: Errno, reason: &dyn fmt::Display) {
        self.line('x', BAD, &format!("{action}: {errno}"), "");
        println!("    {BAD}{reason}{BAD:#}");
    }

    fn line(&self, mark: char, style: Style, action: &str, remark: &str) {
        let (holder, holder_style) = holder(&self.group.ownership());
        let attached = match self.group.attached() {
            Attached::Own => "the owner's domain".to_owned(),
            other => other.to_string(),
        };
        // What is too long for its column has a line of its own.
        let action = if action.chars().count() < ACTION {
            action.to_owned()
        } else {
            println!("  {style}{mark}{style:#} {action}");
            String::new()
        };
        let mark = if action.is_empty() { ' ' } else { mark };
        println!(
            "  {style}{mark}{style:#} {action:<ACTION$}{DIM}group {}{DIM:#} {holder_style}{holder:<17}{holder_style:#}{DIM}{attached}{DIM:#}",
            self.group.id()
        );
        if !remark.is_empty() {
            println!("    {DIM}{remark}{DIM:#}");
        }
    }

    /// What a device reads when it does DMA to the buffer.
    pub(super) fn dma(&self, device: &str) -> Result<()> {
        let mut bytes = [0; 12];
        let result = self.machine.dma(device)?.read(BUFFER, &mut bytes);
        let device = short(device);
        match result {
            Ok(()) => println!("    DMA of {device} at {BUFFER} reads {GOOD}\"{}\"{GOOD:#}", bytes.escape_ascii()),
            Err(fault) => println!("    DMA of {device} at {BUFFER} reads {BAD}nothing{BAD:#}: {}", fault.reason),
        }
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "told on a stage like everything else")]
    pub(super) fn close(&self) {
        println!();
    }
}

/// Who holds a group, in the few columns that there are.
fn holder(ownership: &Ownership) -> (String, Style) {
    match ownership {
        Ownership::Idle => ("idle".to_owned(), DIM),
        Ownership::Kernel { users } => (format!("kernel, {users} in use"), KERNEL),
        Ownership::User { claims, .. } => {
            (format!("user, {claims} claim{}", if claims.get() == 1 { "" } else { "s" }), USER)
        }
    }
}

/// The class of a device in words.
fn class(snapshot: &Snapshot, device: &str) -> &'static str {
    let function = device.parse().ok().and_then(|address| snapshot.device(address)).map(|device| &device.function);
    match function.and_then(|function| function.config.class()).map(|class| class >> 8) {
        Some(0x0106) => "AHCI",
        Some(0x0200) => "Ethernet",
        Some(0x0300) => "display",
        Some(0x0600) => "host bridge",
        Some(0x0601) => "LPC bridge",
        Some(0x0604) => "PCI bridge",
        Some(0x0c05) => "SMBus",
        _ => "other",
    }
}
