//! Bindings through the files of sysfs: the running kernel's, or those of a copy, in which what the kernel would do is
//! imitated.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::{DirTree, Tree as _, resolve};

use super::binding::{Binding, BindingError, Bindings};
use crate::judge::Reason;
use crate::judge::held;
use crate::read::text;
use crate::{Host, HostTree, Source};

const DRIVERS: &str = "bus/pci/drivers";

/// The bindings of a tree of sysfs.
#[derive(Debug)]
pub struct SysfsBindings {
    tree: DirTree,
    kernel: Kernel,
}

/// Who answers to what is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kernel {
    Running,
    /// Nobody: files and links are changed as the kernel would.
    Imitated,
}

impl SysfsBindings {
    /// The bindings of this host: those of the running kernel, or of a copy on disk.
    pub fn new(host: &HostTree) -> Self {
        let kernel = if host.source() == Source::Live { Kernel::Running } else { Kernel::Imitated };
        Self { tree: DirTree::new(host.sysfs()), kernel }
    }

    fn device(&self, device: PciAddress) -> Result<String, BindingError> {
        let link = device_link(device);
        resolve(&self.tree, &link).ok_or_else(|| BindingError::new(self.disk(&link).display(), "no such device"))
    }

    fn disk(&self, path: &str) -> PathBuf {
        self.tree.root().join(path)
    }

    fn write(&self, path: &str, contents: &str) -> Result<(), BindingError> {
        let path = self.disk(path);
        // The kernel's files are there; those of a copy may have been left out.
        let imitated = self.kernel == Kernel::Imitated;
        let file = OpenOptions::new().write(true).create(imitated).truncate(imitated).open(&path);
        let written = file.and_then(|mut file| file.write_all(contents.as_bytes()));
        written.map_err(|error| BindingError::new(path.display(), error))
    }

    /// A link as the copy has them: of the file system, or a text.
    fn make_link(&self, device: PciAddress, at: &str, target: &str) -> io::Result<()> {
        let up = "../".repeat(at.matches('/').count());
        let (target, at) = (format!("{up}{target}"), self.disk(at));
        if self.disk(&device_link(device)).is_symlink() { symlink(target, at) } else { fs::write(at, target) }
    }

    /// What the kernel does at a write to `unbind`.
    fn imitate_unbind(&self, device: PciAddress, path: &str, driver: &str) -> io::Result<()> {
        remove(&self.disk(&format!("{DRIVERS}/{driver}/{device}")))?;
        remove(&self.disk(&format!("{path}/driver")))
    }

    /// What the kernel does at a write to `bind`.
    fn imitate_bind(&self, device: PciAddress, path: &str, driver: &str) -> io::Result<()> {
        self.make_link(device, &format!("{path}/driver"), &format!("{DRIVERS}/{driver}"))?;
        self.make_link(device, &format!("{DRIVERS}/{driver}/{device}"), path)
    }

    /// The kernel would let the write wait until user space has let go, with no way to call it off.
    fn refuse_if_held(&self, device: PciAddress) -> Result<(), BindingError> {
        if self.kernel == Kernel::Imitated {
            return Ok(());
        }
        let host = Host::of_tree(&HostTree::live()).map_err(|error| BindingError::new(device, error))?;
        let group = host.pci.device(device).and_then(|device| device.group);
        match held(&host, group, &[device]) {
            Some(Reason::Held { holder }) => Err(BindingError::new(device, format!("{holder} has it open"))),
            _ => Ok(()),
        }
    }
}

impl Bindings for SysfsBindings {
    fn binding(&self, device: PciAddress) -> Result<Binding, BindingError> {
        let path = self.device(device)?;
        let driver =
            resolve(&self.tree, &format!("{path}/driver")).filter(|target| *target != format!("{path}/driver"));
        let driver = driver.and_then(|target| target.rsplit('/').next().map(ToString::to_string));
        let written = text(&self.tree, &format!("{path}/driver_override")).unwrap_or_default();
        let name = written.lines().next().unwrap_or_default();
        let driver_override = Some(name).filter(|name| !name.is_empty() && *name != "(null)").map(ToString::to_string);
        Ok(Binding { driver, driver_override })
    }

    fn load(&self, driver: &str) -> Result<(), BindingError> {
        let folder = format!("{DRIVERS}/{driver}");
        if self.tree.list(&folder).is_ok() {
            return Ok(());
        }
        let path = self.disk(&folder);
        if self.kernel == Kernel::Imitated {
            return fs::create_dir_all(&path).map_err(|error| BindingError::new(path.display(), error));
        }
        let loaded = std::process::Command::new("modprobe").arg("--").arg(driver).status();
        match loaded {
            Ok(status) if status.success() && self.tree.list(&folder).is_ok() => Ok(()),
            Ok(status) => Err(BindingError::new(path.display(), format!("modprobe {driver}: {status}"))),
            Err(error) => Err(BindingError::new(path.display(), format!("modprobe: {error}"))),
        }
    }

    fn set_override(&self, device: PciAddress, driver: Option<&str>) -> Result<(), BindingError> {
        let path = format!("{}/driver_override", self.device(device)?);
        let none = if self.kernel == Kernel::Imitated { "(null)" } else { "" };
        self.write(&path, &format!("{}\n", driver.unwrap_or(none)))
    }

    fn unbind(&self, device: PciAddress, driver: &str) -> Result<(), BindingError> {
        let path = self.device(device)?;
        let at = self.disk(&format!("{DRIVERS}/{driver}/unbind"));
        if self.binding(device)?.driver.as_deref() != Some(driver) {
            return Err(BindingError::new(at.display(), format!("{device} is not on {driver}")));
        }
        self.refuse_if_held(device)?;
        match self.kernel {
            Kernel::Running => self.write(&format!("{DRIVERS}/{driver}/unbind"), &device.to_string()),
            Kernel::Imitated => {
                self.imitate_unbind(device, &path, driver).map_err(|error| BindingError::new(at.display(), error))
            }
        }
    }

    fn bind(&self, device: PciAddress, driver: &str) -> Result<(), BindingError> {
        let path = self.device(device)?;
        let at = self.disk(&format!("{DRIVERS}/{driver}/bind"));
        if self.tree.list(&format!("{DRIVERS}/{driver}")).is_err() {
            return Err(BindingError::new(at.display(), "no such driver"));
        }
        match self.kernel {
            Kernel::Running => self.write(&format!("{DRIVERS}/{driver}/bind"), &device.to_string()),
            Kernel::Imitated => {
                self.imitate_bind(device, &path, driver).map_err(|error| BindingError::new(at.display(), error))
            }
        }
    }
}

fn device_link(device: PciAddress) -> String {
    format!("bus/pci/devices/{device}")
}

/// A driver of a copy may not list its devices.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
