//! Readiness: what a guest with devices needs besides their bindings.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt as _;

use serde::Serialize;
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::{SysfsDevice, Tree, resolve};
use vfio_owner::vfio_pci;

use super::source::{PROC, lines, text};
use crate::{Host, HostTree, Source};

/// A requirement, and whether it is met.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// Subject of the check.
    pub subject: Subject,
    /// The device, if the check concerns one.
    pub device: Option<PciAddress>,
    /// Whether the requirement is met.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do if the requirement is not met.
    pub remedy: Option<String>,
}

/// Subject of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Subject {
    /// Whether there is an IOMMU.
    Iommu,
    /// Whether interrupts of devices are remapped.
    InterruptRemapping,
    /// Whether the driver and the IOMMU backend are loaded.
    Driver,
    /// Whether this user may open the files of VFIO.
    Permission,
    /// Whether this user may pin the memory of a guest.
    LockedMemory,
    /// Whether the device can be reset between owners.
    Reset,
    /// Whether something on the host shows pictures with it.
    Display,
}

/// Whether a requirement is met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum State {
    /// The requirement is met.
    Ready,
    /// The requirement is not met.
    NotReady,
    /// The source does not show it.
    Unknown,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iommu => "IOMMU",
            Self::InterruptRemapping => "interrupt remapping",
            Self::Driver => "drivers",
            Self::Permission => "permission",
            Self::LockedMemory => "locked memory",
            Self::Reset => "reset",
            Self::Display => "display",
        })
    }
}

/// Checks whether the machine of a tree is ready to run a guest with `devices` and `memory` bytes.
///
/// VFIO files are checked on the running kernel only. Group and device files are not opened, since only one process can
/// have them open.
pub fn readiness(tree: &HostTree, host: &Host, devices: &[PciAddress], memory: Option<u64>) -> Vec<Check> {
    let found = devices.iter().filter_map(|device| host.pci.device(*device));
    let mut checks = vec![iommu(host), interrupt_remapping(tree), drivers(tree, host), locked_memory(tree, memory)];
    if tree.source() == Source::Live {
        checks.push(permission("/dev/vfio/vfio", may_open));
    }
    for device in found {
        if tree.source() == Source::Live
            && let Some(group) = device.group
        {
            let check = permission(&format!("/dev/vfio/{group}"), may_open_by_mode);
            checks.push(Check { device: Some(device.function.address), ..check });
        }
        checks.push(reset(tree, host, device, devices));
        checks.extend(display(tree, device));
    }
    checks
}

fn check(subject: Subject, state: State, found: impl Into<String>, remedy: &str) -> Check {
    let remedy = Some(remedy.to_owned()).filter(|remedy| !remedy.is_empty() && state != State::Ready);
    Check { subject, device: None, state, found: found.into(), remedy }
}

fn iommu(host: &Host) -> Check {
    if host.pci.groups.is_empty() {
        let remedy = "switch it on in the firmware's settings (VT-d, AMD-Vi); Intel's also needs intel_iommu=on on the kernel's \
                      command line";
        return check(Subject::Iommu, State::NotReady, "there are no IOMMU groups", remedy);
    }
    check(Subject::Iommu, State::Ready, format!("{} groups", host.pci.groups.len()), "")
}

fn interrupt_remapping(tree: &dyn Tree) -> Check {
    let subject = Subject::InterruptRemapping;
    let interrupts = text(tree, &format!("{PROC}/interrupts")).unwrap_or_default();
    if interrupts.contains(" IR-") {
        return check(subject, State::Ready, "on", "");
    }
    // Only these are remapped by an IOMMU; other machines have a part for it that is always there.
    if !interrupts.contains("IO-APIC") && !interrupts.contains("PCI-MSI") {
        return check(subject, State::Unknown, "not shown", "");
    }
    let remedy = "switch it on in the firmware's settings; without it VFIO refuses devices, unless vfio_iommu_type1 is told \
                  allow_unsafe_interrupts=1, with which a guest can send interrupts to the host";
    check(subject, State::NotReady, "off", remedy)
}

fn drivers(tree: &dyn Tree, host: &Host) -> Check {
    let driver = host.pci.drivers.iter().any(|driver| driver.name == vfio_pci::NAME);
    let backend = tree.is_directory("module/vfio_iommu_type1") || tree.is_directory("module/iommufd");
    let missing: Vec<&str> = [(driver, vfio_pci::NAME), (backend, "vfio_iommu_type1")]
        .into_iter()
        .filter_map(|(there, name)| (!there).then_some(name))
        .collect();
    if missing.is_empty() {
        return check(Subject::Driver, State::Ready, "loaded", "");
    }
    let remedy = missing.iter().map(|name| format!("modprobe {name}")).collect::<Vec<_>>().join("; ");
    check(Subject::Driver, State::NotReady, format!("{} not loaded", missing.join(", ")), &remedy)
}

/// The capability to lock any amount of memory, by its number.
const CAP_IPC_LOCK: u32 = 14;

fn locked_memory(tree: &dyn Tree, memory: Option<u64>) -> Check {
    let subject = Subject::LockedMemory;
    let capable = lines(tree, &format!("{PROC}/self/status")).iter().any(|line| {
        let mask = line.strip_prefix("CapEff:").and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask >> CAP_IPC_LOCK & 1 == 1)
    });
    let limits = lines(tree, &format!("{PROC}/self/limits"));
    let limit = limits.iter().find_map(|line| line.strip_prefix("Max locked memory")?.split_whitespace().next());
    let remedy = "raise the limit for this user (limits.conf: memlock; systemd: LimitMEMLOCK=) to the guest's memory and some more";
    match (limit, limit.and_then(|limit| limit.parse::<u64>().ok()), memory) {
        _ if capable => check(subject, State::Ready, "no limit: this user may lock any amount", ""),
        (Some("unlimited"), ..) => check(subject, State::Ready, "no limit", ""),
        (_, Some(limit), Some(memory)) => {
            let state = if limit > memory { State::Ready } else { State::NotReady };
            check(subject, state, format!("limit {} MiB, the guest has {} MiB", limit >> 20, memory >> 20), remedy)
        }
        (_, Some(limit), None) => check(subject, State::Unknown, format!("limit {} MiB", limit >> 20), remedy),
        (..) => check(subject, State::Unknown, "not shown", ""),
    }
}

fn permission(path: &str, may: fn(&str) -> Option<bool>) -> Check {
    let subject = Subject::Permission;
    let remedy = format!(
        "a udev rule gives it to a user or group of users: SUBSYSTEM==\"vfio\", KERNEL==\"{}\", GROUP=\"kvm\", MODE=\"0660\"",
        path.rsplit('/').next().unwrap_or_default()
    );
    match may(path) {
        Some(true) => check(subject, State::Ready, format!("{path} may be opened"), ""),
        Some(false) => check(subject, State::NotReady, format!("{path} may not be opened by this user"), &remedy),
        None => {
            check(subject, State::NotReady, format!("{path} is not there"), "bind the device first: `vfio-host plan`")
        }
    }
}

/// A container can be opened and closed at no cost.
fn may_open(path: &str) -> Option<bool> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Some(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(_) => Some(false),
    }
}

/// Whether the mode of a file lets this user read and write it; it is not opened.
fn may_open_by_mode(path: &str) -> Option<bool> {
    let file = std::fs::metadata(path).ok()?;
    let own = File::open("/proc/self").and_then(|own| own.metadata()).ok()?;
    let bits = match () {
        () if own.uid() == 0 => return Some(true),
        () if own.uid() == file.uid() => file.mode() >> 6,
        () if own.gid() == file.gid() || groups_of_self().contains(&file.gid()) => file.mode() >> 3,
        () => file.mode(),
    };
    Some(bits & 0o6 == 0o6)
}

fn groups_of_self() -> Vec<u32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

fn reset(tree: &dyn Tree, host: &Host, device: &SysfsDevice, given: &[PciAddress]) -> Check {
    let address = device.function.address;
    let methods = text(tree, &format!("{}/reset_method", device.path));
    let known: Vec<&str> = methods.as_deref().unwrap_or_default().split_whitespace().collect();
    let checked = match known.as_slice() {
        _ if methods.is_none() => check(Subject::Reset, State::Unknown, "not shown", ""),
        [] => {
            let remedy = "what one guest leaves in it, the next one finds; the host may need a reboot to use it again";
            check(Subject::Reset, State::NotReady, "it has no reset", remedy)
        }
        ["bus", ..] => {
            let partners: Vec<String> = host
                .topology
                .functions_on_bus(address)
                .map(|function| function.address)
                .filter(|other| *other != address && !given.contains(other))
                .map(|other| other.to_string())
                .collect();
            let found = format!("by resetting its bus, with {}", partners.join(", "));
            match partners.as_slice() {
                [] => check(Subject::Reset, State::Ready, "by resetting its bus, on which nothing else is", ""),
                _ => check(Subject::Reset, State::NotReady, found, "give these to the same guest"),
            }
        }
        known => check(Subject::Reset, State::Ready, format!("by {}", known.join(", else ")), ""),
    };
    Check { device: Some(address), ..checked }
}

/// The base class of displays.
const DISPLAY: u32 = 0x03;

/// What on the host uses a display, besides its driver.
fn display(tree: &dyn Tree, device: &SysfsDevice) -> Option<Check> {
    if device.function.config.class()? >> 16 != DISPLAY {
        return None;
    }
    let path = &device.path;
    let on_device = |link: &str| resolve(tree, link).is_some_and(|target| target.starts_with(&format!("{path}/")));
    let mut users: Vec<String> = Vec::new();
    if text(tree, &format!("{path}/boot_vga")).is_some_and(|first| first.trim() == "1") {
        users.push("it is the boot display".to_owned());
    }
    let names = |folder: &str| tree.list(folder).unwrap_or_default();
    users.extend(
        names("class/graphics")
            .into_iter()
            .filter(|name| name != "fbcon" && on_device(&format!("class/graphics/{name}")))
            .map(|name| match text(tree, "class/vtconsole/vtcon1/bind").as_deref().map(str::trim) {
                Some("1") => format!("the text consoles are on its framebuffer {name}"),
                _ => format!("it has the framebuffer {name}"),
            }),
    );
    let nodes: Vec<String> =
        names("class/drm").into_iter().filter(|name| on_device(&format!("class/drm/{name}"))).collect();
    users.extend(processes_with(tree, &nodes));
    let remedy = "end the sessions, and unbind the text consoles (write 0 to /sys/class/vtconsole/vtcon1/bind), before it is unbound";
    let found = if users.is_empty() { "nothing uses it".to_owned() } else { users.join("; ") };
    let state = if users.is_empty() { State::Ready } else { State::NotReady };
    let checked = check(Subject::Display, state, found, remedy);
    Some(Check { device: Some(device.function.address), ..checked })
}

/// Who has one of these files of `/dev/dri` open.
fn processes_with(tree: &dyn Tree, nodes: &[String]) -> Vec<String> {
    let processes = tree.list(PROC).unwrap_or_default().into_iter().filter(|name| name.parse::<u32>().is_ok());
    let mut users = Vec::new();
    for process in processes {
        let folder = format!("{PROC}/{process}/fd");
        let open = tree.list(&folder).unwrap_or_default();
        let held = open
            .iter()
            .filter_map(|file| tree.link(&format!("{folder}/{file}")).ok())
            .find(|target| target.strip_prefix("/dev/dri/").is_some_and(|name| nodes.iter().any(|node| node == name)));
        if let Some(node) = held {
            let name = text(tree, &format!("{PROC}/{process}/comm")).unwrap_or_default();
            users.push(format!("process {process} ({}) has {node} open", name.trim()));
        }
    }
    users
}
