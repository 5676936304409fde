//! What programs set, and nothing else of the machine depends on.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use iommu_core::device_model::sync::Mutex;
use iommu_core::device_model::{Device, DeviceId};

use super::super::machine::{Machine, Pci};
use super::attribute::is_set;
use super::error::AttributeError;
use crate::vfio_pci::NAME as VFIO_PCI;

/// The settings of all devices. The locks are leaf locks.
#[derive(Debug, Default)]
pub(in super::super) struct Settings {
    /// Those that were set once.
    switches: Mutex<BTreeMap<(DeviceId, Switch), bool>>,
    /// Configuration spaces that were written to.
    configs: Mutex<BTreeMap<DeviceId, Vec<u8>>>,
    /// How faults are injected, by file.
    faults: Mutex<BTreeMap<&'static str, String>>,
}

/// Something of a device that is on or off.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Switch {
    Enabled,
    /// Whether the device may sleep while nobody uses it.
    RuntimePower,
    ColdSleep,
    MessageInterrupts,
    BrokenParity,
    /// Whether drivers are tried on new virtual functions; the simulated ones are, in any case.
    VirtualAutoprobe,
}

impl Switch {
    /// What it is while nobody has set it. vfio-pci lets devices sleep.
    // V105.
    fn at_first(self, dev: &Device<Pci>) -> bool {
        match self {
            Self::RuntimePower => dev.driver_hint().as_deref() == Some(VFIO_PCI),
            Self::ColdSleep | Self::MessageInterrupts | Self::VirtualAutoprobe => true,
            Self::Enabled | Self::BrokenParity => false,
        }
    }

    pub(super) const fn text(self, on: bool) -> &'static str {
        match (self, on) {
            (Self::RuntimePower, true) => "auto\n",
            (Self::RuntimePower, false) => "on\n",
            (_, true) => "1\n",
            (_, false) => "0\n",
        }
    }

    pub(super) fn parse(self, text: &str) -> Result<bool, AttributeError> {
        if self != Self::RuntimePower {
            return is_set(text);
        }
        match text.trim_end_matches('\n') {
            "auto" => Ok(true),
            "on" => Ok(false),
            _ => Err(AttributeError::Malformed { text: text.into(), expected: "auto or on" }),
        }
    }
}

/// What can be written of a configuration space: the command, the size of a cache line and the latency, the line of the
/// interrupt. Each with the bits that stay.
const WRITABLE: [(usize, u8); 5] = [(0x04, 0x47), (0x05, 0x05), (0x0c, 0xff), (0x0d, 0xff), (0x3c, 0xff)];

impl Settings {
    pub(super) fn is_on(&self, dev: &Device<Pci>, switch: Switch) -> bool {
        let set = self.switches.lock().get(&(dev.id(), switch)).copied();
        set.unwrap_or_else(|| switch.at_first(dev))
    }

    pub(super) fn set(&self, machine: &Machine, dev: DeviceId, switch: Switch, on: bool) {
        let there = present(machine);
        let mut switches = self.switches.lock();
        switches.retain(|(dev, _), _| there.contains(dev));
        switches.insert((dev, switch), on);
    }

    /// What was set last of how faults are injected.
    pub(super) fn fault_setting(&self, file: &str) -> Option<String> {
        self.faults.lock().get(file).cloned()
    }

    /// Takes a setting of how faults are injected: a switch or a number, as it was first. Anything else changes nothing.
    pub(super) fn set_fault_setting(&self, file: &'static str, initial: &str, text: &str) {
        let is_switch = initial.starts_with(['Y', 'N']);
        let value = match text.trim_end().to_ascii_lowercase() {
            text if is_switch && (text.starts_with(['y', '1']) || text.starts_with("on")) => "Y\n".into(),
            text if is_switch && (text.starts_with(['n', '0']) || text.starts_with("of")) => "N\n".into(),
            text if !is_switch && text.parse::<u32>().is_ok() => text + "\n",
            _ => return,
        };
        self.faults.lock().insert(file, value);
    }

    /// The configuration space of a function, with what was written to it.
    pub(super) fn config(&self, dev: &Device<Pci>) -> Vec<u8> {
        let written = self.configs.lock().get(&dev.id()).cloned();
        written.unwrap_or_else(|| dev.description().config.bytes())
    }

    /// Takes the bits that can be written.
    pub(super) fn write_config(&self, machine: &Machine, dev: &Device<Pci>, offset: u64, bytes: &[u8]) {
        let there = present(machine);
        let mut configs = self.configs.lock();
        configs.retain(|dev, _| there.contains(dev));
        let config = configs.entry(dev.id()).or_insert_with(|| dev.description().config.bytes());
        for (at, mask) in WRITABLE {
            let written = usize::try_from(offset).ok().and_then(|offset| bytes.get(at.checked_sub(offset)?));
            if let (Some(byte), Some(written)) = (config.get_mut(at), written) {
                *byte = *byte & !mask | written & mask;
            }
        }
    }
}

fn present(machine: &Machine) -> Vec<DeviceId> {
    machine.pci().devices().iter().map(|dev| dev.id()).collect()
}
