//! The guest as a machine: its devices, and their drivers changed by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};

const DEVICES: &str = "/sys/bus/pci/devices";
const DRIVERS: &str = "/sys/bus/pci/drivers";

/// How long disks and interfaces may take to come back.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// Mounts what every program expects.
pub(crate) fn mount_kernel_file_systems() -> Result<()> {
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run"), ("tmpfs", "/tmp")]
    {
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>).context(at)?;
    }
    Ok(())
}

/// What there is to be restored: by device its driver and override, the disks and the interfaces.
#[derive(PartialEq, Eq)]
pub(crate) struct State(BTreeSet<String>);

impl State {
    /// What is in one and not in the other.
    pub(crate) fn differences(&self, now: &Self) -> Vec<String> {
        let gone = self.0.difference(&now.0).map(|line| format!("gone: {line}"));
        gone.chain(now.0.difference(&self.0).map(|line| format!("new: {line}"))).collect()
    }
}

/// Loads the drivers that the devices ask for, as udev does, and those of VFIO.
pub(crate) fn bring_up() -> Result<()> {
    let mut aliases = BTreeSet::new();
    // Drivers make new devices, which ask for drivers.
    loop {
        let known = aliases.len();
        collect_aliases(Path::new("/sys/devices"), &mut aliases);
        if aliases.len() == known {
            break;
        }
        for alias in &aliases {
            // A device without a driver is no failure.
            let _ = Command::new("modprobe").args(["-q", alias]).status();
        }
    }
    for module in ["sd_mod", "vfio_iommu_type1", "vfio-pci"] {
        let loaded = Command::new("modprobe").arg(module).status().context("modprobe")?;
        anyhow::ensure!(loaded.success(), "modprobe {module}: {loaded}");
    }
    settle()
}

/// Every PCI function.
pub(crate) fn devices() -> Result<Vec<String>> {
    names(DEVICES)
}

/// The driver that a device is on.
pub(crate) fn driver(device: &str) -> Option<String> {
    let target = fs::read_link(format!("{DEVICES}/{device}/driver")).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The members of a device's group that are no bridges, itself first.
pub(crate) fn group_of(device: &str) -> Vec<String> {
    let members = names(&format!("{DEVICES}/{device}/iommu_group/devices")).unwrap_or_default();
    let others = members.into_iter().filter(|member| member != device && !is_bridge(member));
    std::iter::once(device.to_owned()).chain(others).collect()
}

fn is_bridge(device: &str) -> bool {
    let class = fs::read_to_string(format!("{DEVICES}/{device}/class")).unwrap_or_default();
    class.starts_with("0x0604")
}

/// What there is now.
pub(crate) fn state() -> Result<State> {
    let mut lines = BTreeSet::new();
    for device in devices()? {
        let only = fs::read_to_string(format!("{DEVICES}/{device}/driver_override")).unwrap_or_default();
        let driver = driver(&device).unwrap_or_else(|| "no driver".to_owned());
        lines.insert(format!("{device} on {driver}, override {}", only.trim()));
    }
    for class in ["block", "net"] {
        for name in names(&format!("/sys/class/{class}")).unwrap_or_default() {
            lines.insert(format!("{class} {name}"));
        }
    }
    Ok(State(lines))
}

/// Waits until everything is as it was in `before`; what is different when patience ends.
pub(crate) fn wait_for(before: &State) -> Result<Vec<String>> {
    let begin = Instant::now();
    loop {
        let left = before.differences(&state()?);
        if left.is_empty() || begin.elapsed() > PATIENCE {
            return Ok(left);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Waits until nothing has changed for a while: drivers probe in the background.
pub(crate) fn settle() -> Result<()> {
    let begin = Instant::now();
    let (mut last, mut since) = (state()?, Instant::now());
    while since.elapsed() < Duration::from_secs(1) && begin.elapsed() < PATIENCE {
        std::thread::sleep(PAUSE);
        let now = state()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// Binds devices to vfio-pci as far as the kernel lets, has `look` look, and binds them back.
pub(crate) fn by_hand<T>(devices: &[String], look: impl FnOnce() -> Result<T>) -> Result<T> {
    let before: BTreeMap<&String, Option<String>> = devices.iter().map(|device| (device, driver(device))).collect();
    for (device, driver) in &before {
        set_override(device, "vfio-pci");
        if let Some(driver) = driver {
            write(&format!("{DRIVERS}/{driver}/unbind"), device);
        }
        write(&format!("{DRIVERS}/vfio-pci/bind"), device);
    }
    let seen = look();
    for (device, wanted) in &before {
        bring_back(device, wanted.as_deref());
    }
    seen
}

fn bring_back(device: &str, wanted: Option<&str>) {
    let now = driver(device);
    if let Some(now) = now.as_deref().filter(|now| Some(*now) != wanted) {
        write(&format!("{DRIVERS}/{now}/unbind"), device);
    }
    set_override(device, "\n");
    if let Some(driver) = wanted.filter(|wanted| now.as_deref() != Some(*wanted)) {
        write(&format!("{DRIVERS}/{driver}/bind"), device);
    }
}

fn set_override(device: &str, driver: &str) {
    write(&format!("{DEVICES}/{device}/driver_override"), driver);
}

/// What the kernel refuses is seen in what is there afterwards.
fn write(path: &str, contents: &str) {
    let _ = fs::write(path, contents);
}

fn names(folder: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| folder.to_owned())?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

fn collect_aliases(folder: &Path, aliases: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path: PathBuf = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_aliases(&path, aliases);
        } else if entry.file_name() == "modalias"
            && let Ok(alias) = fs::read_to_string(&path)
            && !alias.trim().is_empty()
        {
            aliases.insert(alias.trim().to_owned());
        }
    }
}
