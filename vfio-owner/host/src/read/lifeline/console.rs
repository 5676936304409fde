//! The display, the console and the keyboard.

use std::collections::BTreeSet;

use vfio_owner::iommu_core::sysfs::{Snapshot, SysfsDevice, resolve};

use super::super::source::{PROC, lines, text};
use super::{Found, Purpose, function};

/// The base class of displays, the only ones that say whether they are the first.
const DISPLAY: u32 = 0x03;

impl Found<'_> {
    pub(super) fn displays(&mut self, pci: &Snapshot) {
        let display =
            |device: &&SysfsDevice| device.function.config.class().is_some_and(|class| class >> 16 == DISPLAY);
        for device in pci.devices.iter().filter(display) {
            let first = text(self.tree, &format!("{}/boot_vga", device.path));
            if first.is_some_and(|first| first.trim() == "1") {
                self.on_the_way_to(&device.path, &Purpose::BootDisplay);
            }
        }
    }

    pub(super) fn consoles(&mut self) {
        let active = text(self.tree, "class/tty/console/active").unwrap_or_default();
        for console in active.split_whitespace() {
            let number = console.strip_prefix("tty").unwrap_or_default();
            if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) {
                for name in self.tree.list("class/graphics").unwrap_or_default() {
                    self.console_at(&format!("class/graphics/{name}"));
                }
            } else if console.starts_with("hvc") {
                self.virtual_consoles();
            } else {
                self.console_at(&format!("class/tty/{console}"));
            }
        }
    }

    /// A console of a hypervisor has no device of its own in sysfs; it may be on each port.
    fn virtual_consoles(&mut self) {
        const FOLDER: &str = "bus/virtio/drivers/virtio_console";
        for name in self.tree.list(FOLDER).unwrap_or_default() {
            if name.starts_with("virtio") {
                self.console_at(&format!("{FOLDER}/{name}"));
            }
        }
    }

    fn console_at(&mut self, link: &str) {
        if let Some(path) = resolve(self.tree, link) {
            self.on_the_way_to(&path, &Purpose::Console);
        }
    }

    /// A keyboard that can stop the machine (by SysRq) is one that somebody types on; power buttons are none.
    pub(super) fn keyboards(&mut self) {
        let mut path = String::new();
        let mut keyboards = BTreeSet::new();
        for line in lines(self.tree, &format!("{PROC}/bus/input/devices")) {
            if let Some(at) = line.strip_prefix("S: Sysfs=") {
                at.trim().clone_into(&mut path);
            } else if let Some(handlers) = line.strip_prefix("H: Handlers=")
                && handlers.split_whitespace().any(|handler| handler == "sysrq")
            {
                keyboards.insert((function(&path), path.clone()));
            }
        }
        let functions: BTreeSet<_> = keyboards.iter().map(|(function, _)| *function).collect();
        // Another one, on this controller or elsewhere, would do.
        if let (1, Some((Some(_), path))) = (functions.len(), keyboards.first()) {
            let path = path.clone();
            self.on_the_way_to(&path, &Purpose::OnlyKeyboard);
        }
    }
}
