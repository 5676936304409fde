//! Which paths are the room's, and which the host's.

use std::path::{Path, PathBuf};

use rustix::fs::{FsWord, statfs};

use crate::task::Task;

/// What `statfs` says of a sysfs, wherever it is mounted.
const SYSFS_MAGIC: FsWord = 0x6265_6572;

/// Directories of which a room has some entries and the host the others.
const SHARED: [&str; 12] = [
    "/",
    "/dev",
    "/proc",
    "/sys",
    "/sys/bus",
    "/sys/class",
    "/sys/dev",
    "/sys/devices",
    "/sys/devices/virtual",
    "/sys/fs",
    "/sys/kernel",
    "/sys/module",
];

/// What the host has here is never seen, whether the room has something in its place or not.
const HIDDEN: [&str; 15] = [
    "/dev/iommu",
    "/dev/kmem",
    "/dev/mem",
    "/dev/port",
    "/dev/vfio",
    "/proc/bus/pci",
    "/sys/bus/pci",
    "/sys/bus/pci_express",
    "/sys/class/iommu",
    "/sys/class/pci_bus",
    "/sys/class/vfio",
    "/sys/class/vfio-dev",
    "/sys/devices/virtual/iommu",
    "/sys/devices/virtual/vfio",
    "/sys/kernel/iommu_groups",
];

/// Beginnings of names that are hidden as well: the host's PCI devices, and its modules for VFIO.
const HIDDEN_NAMES: [&str; 3] = ["/sys/devices/pci", "/sys/module/vfio", "/sys/module/iommufd"];

/// Where no filtered task may change what the host has, wherever the path came from.
const BOUNDS: [&str; 3] = ["/sys", "/proc/sys", "/proc/sysrq-trigger"];

/// Whether the host's entries of this directory are seen beside the room's.
pub(crate) fn is_shared(directory: &Path) -> bool {
    SHARED.iter().any(|shared| directory == Path::new(shared))
}

/// Whether nothing of the host's is seen at this path.
pub(crate) fn is_hidden(path: &Path) -> bool {
    let Some(text) = path.to_str() else { return false };
    HIDDEN.iter().any(|hidden| path.starts_with(hidden)) || HIDDEN_NAMES.iter().any(|hidden| text.starts_with(hidden))
}

/// What filtered tasks may not change, whether it is there or not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounds {
    /// Beside the host's sysfs, as asked for by the room's user.
    guarded: Vec<PathBuf>,
}

impl Bounds {
    pub(crate) fn guard(&mut self, directory: PathBuf) {
        self.guarded.push(directory);
    }

    /// Whether the path, which has no links, is out of bounds.
    pub(crate) fn exclude(&self, path: &Path) -> bool {
        let bounds = BOUNDS.iter().map(Path::new).chain(self.guarded.iter().map(PathBuf::as_path));
        is_hidden(path) || bounds.into_iter().any(|bound| path.starts_with(bound))
    }

    /// Whether the file behind this path of `/proc/…/fd` is out of bounds, whatever its name.
    pub(crate) fn exclude_file(&self, descriptor: &Path) -> bool {
        let named = || Task::link(descriptor).is_ok_and(|path| self.exclude(&path));
        statfs(descriptor).is_ok_and(|found| found.f_type == SYSFS_MAGIC) || named()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_hosts_and_what_is_not() {
        for path in ["/sys/bus/pci/drivers/e1000/unbind", "/dev/vfio", "/dev/vfio/7", "/sys/devices/pci0000:00", "/dev/mem"] {
            assert!(is_hidden(Path::new(path)), "{path}");
        }
        for path in ["/sys/bus/usb", "/dev/null", "/dev/vfio-not", "/sys/bus/pci2", "/proc/self", "/sys/devices/system"] {
            assert!(!is_hidden(Path::new(path)), "{path}");
        }
        for path in ["/sys", "/sys/bus/usb/drivers/hub/unbind", "/proc/sys/vm/nr_hugepages"] {
            assert!(Bounds::default().exclude(Path::new(path)), "{path}");
        }
        for path in ["/", "/tmp/sys", "/proc/self/comm", "/system", "/dev/shm/x"] {
            assert!(!Bounds::default().exclude(Path::new(path)), "{path}");
        }
    }
}
