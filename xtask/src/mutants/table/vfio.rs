//! Open groups and devices.

use super::{Mutant, VFIO, VFIO_OR_MODEL};

const GROUP: &str = "vfio-owner/src/group.rs";
const DEVICE: &str = "vfio-owner/src/device.rs";
const OPEN_DEVICE: &str = "vfio-owner/src/open_device.rs";
const GROUP_FILE: &str = "vfio-owner/src/group_file.rs";
const HOT_RESET: &str = "vfio-owner/src/open_device/hot_reset.rs";

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
        old: "if let Some(device) = state.device_files.first() {",
        new: "if let Some(device) = state.device_files.first().filter(|_| false) {",
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
        old: "Some(Attachment::Container { in_use, .. }) if in_use.devices() > 0 => {",
        new: "Some(Attachment::Container { in_use, .. }) if in_use.devices() > 0 && false => {",
        suites: VFIO,
    },
    Mutant {
        name: "driver-does-not-close",
        file: OPEN_DEVICE,
        rule: "V30: the driver makes the device quiet when its last file is closed",
        old: "        self.device.ops().close();",
        new: "",
        suites: VFIO,
    },
    Mutant {
        name: "user-leaves-before-close",
        file: OPEN_DEVICE,
        rule: "V13: a driver's unbind waits until the device is closed",
        old: "    session: Arc<Session<dyn Way>>,
    /// Leaves after everything else is given back.
    _user: Arc<UserGuard>,",
        new: "    _user: Arc<UserGuard>,
    session: Arc<Session<dyn Way>>,",
        suites: VFIO_OR_MODEL,
    },
    Mutant {
        name: "device-stays-occupied",
        file: DEVICE,
        rule: "V9: a device that was closed can be opened again",
        old: "let was = self.0.lock_set().open.remove(&self.0.id);",
        new: "let was = self.0.lock_set().open.get(&self.0.id).is_some();",
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
        old: "self.owner_by_iommufd(member) != AffectedOwner::NotOwned",
        new: "self.owner_by_iommufd(member) != AffectedOwner::NotOwned || true",
        suites: VFIO,
    },
];
