//! Bounds: what of the host filtered tasks may not see, and may not change.

use std::path::{Path, PathBuf};

use rustix::fs::{Dev, FileType, FsWord, major, minor, stat, statfs};

use crate::task::Task;

/// What `statfs` says of a sysfs, wherever it is mounted.
pub(crate) const SYSFS_MAGIC: FsWord = 0x6265_6572;

/// What the host has here is never seen: other ways to its devices, and to page faults that wait for a task.
const HIDDEN: [&str; 5] = ["/dev/kmem", "/dev/mem", "/dev/port", "/dev/userfaultfd", "/proc/bus/pci"];

/// `/dev/mem`, `/dev/kmem`, `/dev/port` and `/dev/vfio/vfio`.
const DEVICES: [(u32, u32); 4] = [(1, 1), (1, 2), (1, 4), (10, 196)];

/// Where no filtered task may change what the host has, wherever the path came from.
const BOUNDS: [&str; 5] = ["/dev/iommu", "/dev/vfio", "/proc/sys", "/proc/sysrq-trigger", "/sys"];

/// Whether what the host has at this path is not seen, though the room has nothing in its place.
pub(crate) fn is_hidden(path: &Path) -> bool {
    HIDDEN.iter().any(|hidden| path.starts_with(hidden))
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

    /// Whether the file behind this path, or link of `/proc/…/fd`, is out of bounds, whatever its name.
    pub(crate) fn exclude_file(&self, file: &Path) -> bool {
        let is_hosts = stat(file).is_ok_and(|found| match FileType::from_raw_mode(found.st_mode) {
            FileType::CharacterDevice => is_hosts_device(found.st_rdev),
            // Small writes to these are the most frequent.
            FileType::Fifo | FileType::Socket => false,
            _ => statfs(file).is_ok_and(|found| found.f_type == SYSFS_MAGIC),
        });
        is_hosts || Task::link(file).is_ok_and(|path| self.exclude(&path))
    }
}

/// Whether this is the number of a device file of the host's memory, VFIO or iommufd, wherever it lies.
fn is_hosts_device(number: Dev) -> bool {
    DEVICES.contains(&(major(number), minor(number))) || stat("/dev/iommu").is_ok_and(|found| found.st_rdev == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_hosts_and_what_is_not() {
        for path in ["/dev/mem", "/proc/bus/pci/00/03.0"] {
            assert!(is_hidden(Path::new(path)), "{path}");
        }
        for path in ["/dev/null", "/dev/memory", "/proc/self"] {
            assert!(!is_hidden(Path::new(path)), "{path}");
        }
        for path in ["/sys", "/sys/bus/usb/drivers/hub/unbind", "/proc/sys/vm/nr_hugepages", "/dev/vfio/7", "/dev/mem"]
        {
            assert!(Bounds::default().exclude(Path::new(path)), "{path}");
        }
        for path in ["/", "/tmp/sys", "/proc/self/comm", "/system", "/dev/shm/x", "/dev/vfio-not"] {
            assert!(!Bounds::default().exclude(Path::new(path)), "{path}");
        }
    }
}
