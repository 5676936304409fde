//! Open groups and devices.

use super::{Mutant, VFIO, VFIO_OR_MODEL};

const GROUP: &str = "vfio-owner/src/group.rs";
const DEVICE: &str = "vfio-owner/src/device.rs";
const OPEN_DEVICE: &str = "vfio-owner/src/open_device.rs";
const REGISTRATION: &str = "vfio-owner/src/vfio.rs";
const GROUP_FILE: &str = "vfio-owner/src/group_file.rs";
const CONTAINER: &str = "vfio-owner/src/container.rs";
const HOT_RESET: &str = "vfio-owner/src/open_device/hot_reset.rs";
const INTERRUPTS: &str = "vfio-owner/src/vfio_pci/interrupts.rs";
const UAPI_ARGUMENT: &str = "vfio-owner/src/uapi/argument.rs";
const UAPI_CAPABILITIES: &str = "vfio-owner/src/uapi/capabilities.rs";
const UAPI_DEVICE_FILE: &str = "vfio-owner/src/uapi/device_file.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "group-opened-twice",
        file: GROUP,
        rule: "V19: a group has one open file",
        old: "        if state.file == File::Open {
            return Err(OpenGroupError::Open { group: group.id() });
        }",
        new: "",
        suites: VFIO,
    },
    Mutant {
        name: "group-opened-beside-device-file",
        file: GROUP,
        rule: "V37: no group is opened while a device of it is in use through its own file",
        old: "if let Some((device, _)) = state.device_files.first_key_value() {",
        new: "if let Some((device, _)) = state.device_files.first_key_value().filter(|_| false) {",
        suites: VFIO,
    },
    Mutant {
        name: "device-file-beside-group",
        file: GROUP,
        rule: "Vt11.4: no device file is bound while the file of its group is open",
        old: "        if state.file == File::Open {
            return Err(BindIommufdError::GroupOpen { group: self.id() });
        }",
        new: "",
        suites: VFIO,
    },
    Mutant {
        name: "container-left-under-devices",
        file: GROUP_FILE,
        rule: "V4: a group leaves no container while devices are open",
        old: "Some(Attachment::Container(_)) if group.in_use.devices() > 0 => {",
        new: "Some(Attachment::Container(_)) if group.in_use.devices() > 0 && false => {",
        suites: VFIO,
    },
    Mutant {
        name: "driver-does-not-close",
        file: OPEN_DEVICE,
        rule: "V30: the driver makes the device quiet when its last file is closed",
        old: "        self.device().ops().close();",
        new: "",
        suites: VFIO,
    },
    Mutant {
        name: "vfio-unbind-does-not-wait",
        file: REGISTRATION,
        rule: "V13: a driver's unbind waits until the device is closed",
        old: "        if users.inside() > 0 {",
        new: "        if users.inside() > usize::MAX - 1 {",
        suites: VFIO_OR_MODEL,
    },
    Mutant {
        name: "device-stays-occupied",
        file: DEVICE,
        rule: "V9: a device that was closed can be opened again",
        old: "let was = place.map(|place| set.open.swap_remove(place));",
        new: "let was = place;",
        suites: VFIO,
    },
    Mutant {
        name: "close-wakes-nobody",
        file: DEVICE,
        rule: "V9: whoever waits for a device that is being closed gets it",
        old: "        self.0.set.changed.notify_all();
        drop(was);",
        new: "        drop(was);",
        suites: VFIO_OR_MODEL,
    },
    Mutant {
        name: "hot-reset-of-others",
        file: HOT_RESET,
        rule: "V55: a hot reset wants a device of each group bound to the context",
        old: "            if !owned {",
        new: "            if !owned && false {",
        suites: VFIO,
    },
    Mutant {
        name: "hot-reset-under-unbind",
        file: HOT_RESET,
        rule: "Vt27.10: nothing is reset whose device lock an unbind holds",
        old: "member.ops().may_hot_reset().is_err()",
        new: "member.ops().may_hot_reset().is_err() && false",
        suites: VFIO,
    },
    Mutant {
        name: "call-before-bind",
        file: UAPI_DEVICE_FILE,
        rule: "V70: before it is bound, a device file answers EINVAL to every other call",
        old: "    let bound = file.bound().map_err(|error| argument.refuse(error.errno(), &error))?;
    numbers",
        new: "    let Ok(bound) = file.bound() else { return Err(Errno::ENOTTY) };
    numbers",
        suites: VFIO,
    },
    Mutant {
        name: "chain-cut-short",
        file: UAPI_CAPABILITIES,
        rule: "V75: a chain that does not fit is not copied at all",
        old: "if *argsz < needed {",
        new: "if *argsz < needed - 8 {",
        suites: VFIO,
    },
    Mutant {
        name: "answer-beyond-room",
        file: UAPI_ARGUMENT,
        rule: "V72: no more is written than the caller has room for",
        old: "self.put(0, some.unwrap_or(all))",
        new: "self.put(0, some.map_or(all, |_| all))",
        suites: VFIO,
    },
    Mutant {
        name: "bad-eventfd-keeps-those-before",
        file: INTERRUPTS,
        rule: "Vt24.4: a descriptor that is no eventfd removes the vectors before it",
        old: ".take(at + 1)",
        new: ".skip(at).take(1)",
        suites: VFIO,
    },
    Mutant {
        name: "containers-mix",
        file: CONTAINER,
        rule: "Vt7.2: groups with and without an IOMMU do not share a container",
        old: "if groups.is_empty() => {",
        new: "if groups.is_empty() || true => {",
        suites: VFIO,
    },
];
