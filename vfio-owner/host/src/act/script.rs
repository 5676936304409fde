//! A plan as a shell script, which looks at every step whether it did what it should, and can undo all of them.

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

# restore DEVICE DRIVER OVERRIDE: back to that, from wherever it is
restore() {
    found=$(driver_of "$1")
    if [ -n "$found" ] && [ "$found" != "$2" ]; then unbind "$1" "$found"; found=; fi
    set_override "$1" "$3"
    if [ -n "$2" ] && [ "$found" != "$2" ]; then bind "$1" "$2"; fi
}
"#;

impl Plan {
    /// The plan as a shell script: without an argument it does what the plan says, and stops at the first step that does
    /// not do what it should; with `undo` it brings every device back to what `host` shows.
    pub fn to_script(&self, host: &Host) -> String {
        let devices: Vec<String> = self.devices.iter().map(|device| format!("{device}")).collect();
        let mut script = format!("#!/bin/sh\n# Gives {} to user space; `undo` takes it back.", devices.join(" "));
        script.push_str(HEAD);
        script.push_str("\nif [ \"${1:-}\" = undo ]; then\n");
        for (device, before) in self.befores(host).into_iter().rev() {
            let [driver, driver_override] = [before.driver, before.driver_override].map(Option::unwrap_or_default);
            // Writing to a string cannot fail.
            let _ = writeln!(script, "    restore {device} '{driver}' '{driver_override}'");
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
