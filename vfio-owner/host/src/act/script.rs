//! Plans as shell scripts that check every step and can undo all of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::binding::Binding;
use super::plan::{Plan, Step};
use crate::Host;

const HEAD: &str = r#"
set -eu
sys=${SYSFS:-/sys}

driver_of() {
    if [ -e "$sys/bus/pci/devices/$1/driver" ]; then basename "$(readlink -f "$sys/bus/pci/devices/$1/driver")"; fi
}

stop() { echo "$0: $1" >&2; exit 1; }

# expect DEVICE DRIVER: an empty driver is none
expect() {
    found=$(driver_of "$1")
    [ "$found" = "$2" ] || stop "$1 is on '${found:-no driver}', not on '${2:-no driver}'"
}

load() {
    [ -d "$sys/bus/pci/drivers/$1" ] || modprobe -- "$1"
    [ -d "$sys/bus/pci/drivers/$1" ] || stop "there is no driver $1"
}

set_override() {
    echo "$2" > "$sys/bus/pci/devices/$1/driver_override"
}

unbind() {
    expect "$1" "$2"
    printf %s "$1" > "$sys/bus/pci/drivers/$2/unbind"
    expect "$1" ""
}

bind() {
    printf %s "$1" > "$sys/bus/pci/drivers/$2/bind"
    expect "$1" "$2"
}

# same DEVICE VENDOR ID: another device may be at the address by now
same() {
    at="$sys/bus/pci/devices/$1"
    [ -e "$at" ] || stop "$1 is not there"
    [ ! -e "$at/vendor" ] || [ "$(cat "$at/vendor") $(cat "$at/device")" = "$2 $3" ] || stop "another device is at $1"
}

# restore DEVICE DRIVER OVERRIDE LEFT: back to that, from no driver or the one that it was left on
restore() {
    found=$(driver_of "$1")
    if [ -n "$found" ] && [ "$found" != "$2" ] && [ "$found" != "$4" ]; then
        echo "$0: $1 is on $found by now, and was left alone" >&2
        return
    fi
    if [ -n "$found" ] && [ "$found" != "$2" ]; then unbind "$1" "$found"; found=; fi
    # An override keeps every other driver from binding.
    if [ -n "$2" ] && [ "$found" != "$2" ]; then set_override "$1" ""; bind "$1" "$2"; fi
    set_override "$1" "$3"
}
"#;

impl Plan {
    /// Returns the plan as a shell script. Without arguments it carries out the plan, and stops at the first step that
    /// fails; with `undo` it restores the bindings that `host` shows, except for devices that were bound to another
    /// driver since. It checks that the devices are the same, but neither whether the host uses them nor which
    /// processes have them open: [`CheckedPlan`](crate::CheckedPlan) does.
    pub fn to_script(&self, host: &Host) -> String {
        let devices: Vec<String> = self.devices.iter().map(|device| format!("{device}")).collect();
        let mut script = format!("#!/bin/sh\n# Gives {} to user space; `undo` takes it back.", devices.join(" "));
        script.push_str(HEAD);
        script.push('\n');
        for device in self.touched() {
            let config = host.pci.device(device).map(|found| &found.function.config);
            if let Some((vendor, id)) = config.and_then(|config| config.vendor().zip(config.device())) {
                let _ = writeln!(script, "same {device} {vendor:#06x} {id:#06x}");
            }
        }
        script.push_str("if [ \"${1:-}\" = undo ]; then\n");
        for (device, before) in self.befores(host).into_iter().rev() {
            let [driver, driver_override] = [before.driver, before.driver_override].map(Option::unwrap_or_default);
            // Writing to a string cannot fail.
            let bound = self.steps.iter().find_map(|step| match step {
                Step::Bind { device: bound, driver } if *bound == device => Some(driver.as_str()),
                _ => None,
            });
            let left = bound.unwrap_or_default();
            let _ = writeln!(script, "    restore {device} '{driver}' '{driver_override}' '{left}'");
        }
        script.push_str("    exit 0\nfi\n\n");
        for step in &self.steps {
            let _ = match step {
                Step::Load { driver } => writeln!(script, "load '{driver}'"),
                Step::Override { device, driver } => writeln!(script, "set_override {device} '{driver}'"),
                Step::Unbind { device, driver } => writeln!(script, "unbind {device} '{driver}'"),
                Step::Bind { device, driver } => writeln!(script, "bind {device} '{driver}'"),
            };
        }
        script
    }

    /// What every device of the plan is bound to before it.
    fn befores(&self, host: &Host) -> BTreeMap<PciAddress, Binding> {
        let touched = self.touched().into_iter().filter_map(|device| {
            let found = host.pci.device(device)?;
            let binding = Binding { driver: found.driver.clone(), driver_override: found.driver_override.clone() };
            Some((device, binding))
        });
        touched.collect()
    }
}
