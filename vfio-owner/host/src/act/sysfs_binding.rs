//! Bindings through sysfs: of the running kernel, or of a copy, in which the kernel's reactions are imitated.

use std::fs::OpenOptions;
use std::io;

use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::{Tree as _, resolve};

use super::binding::{Binding, BindingError, Bindings};
use super::call::{self, CallError, DEADLINE};
use crate::read::{Confined, Place, text};
use crate::{Host, HostTree};

const DRIVERS: &str = "bus/pci/drivers";

/// The bindings of a sysfs tree.
///
/// The running kernel is changed by child processes with a deadline, since the kernel may block for as long as someone
/// has a device open. A copy is changed as the kernel would, and nothing outside it.
#[derive(Debug)]
pub struct SysfsBindings {
    tree: HostTree,
}

impl SysfsBindings {
    /// Returns the bindings of this host: those of the running kernel, or of a copy on disk.
    pub fn new(host: &HostTree) -> Self {
        // What the machine lives on is asked for as well as possible before anything is changed.
        Self { tree: host.clone().asking() }
    }

    fn device(&self, device: PciAddress) -> Result<String, BindingError> {
        let link = device_link(device);
        resolve(&self.tree, &link).ok_or_else(|| self.refused(&link, "no such device"))
    }

    fn refused(&self, path: &str, reason: impl std::fmt::Display) -> BindingError {
        BindingError::new(self.tree.sysfs().join(path).display(), reason)
    }

    /// Writes to a file, which is the running kernel's.
    fn write(&self, path: &str, contents: &str, device: PciAddress) -> Result<(), BindingError> {
        let at = self.tree.sysfs().join(path);
        let file = OpenOptions::new().write(true).open(&at).map_err(|error| self.refused(path, error))?;
        call::write(file, contents, device, DEADLINE).map_err(|error| self.failed(path, error, Some(device)))
    }

    fn failed(&self, path: &str, error: CallError, device: Option<PciAddress>) -> BindingError {
        match error {
            CallError::Refused(reason) => self.refused(path, reason),
            CallError::NoAnswer { writer } => BindingError::NoAnswer {
                at: self.tree.sysfs().join(path).display().to_string(),
                seconds: DEADLINE.as_secs(),
                writer,
                holders: device.map_or_else(Vec::new, |device| self.holders(device)),
            },
        }
    }

    /// Who holds the device, or its group.
    fn holders(&self, device: PciAddress) -> Vec<String> {
        let Ok(host) = self.host() else { return Vec::new() };
        host.holders_of(device).map(ToString::to_string).collect()
    }
}

/// What the kernel would do, done to a copy.
impl Confined {
    /// Makes a link as the copy has them: of the file system, or a text.
    fn make_link(&self, device: PciAddress, at: &str, target: &str) -> io::Result<()> {
        let up = "../".repeat(at.matches('/').count());
        let target = format!("{up}{target}");
        if self.is_symlink(&device_link(device)) { self.symlink(&target, at) } else { self.write(at, &target) }
    }

    fn unbind(&self, device: PciAddress, path: &str, driver: &str) -> io::Result<()> {
        self.remove(&format!("{DRIVERS}/{driver}/{device}"))?;
        self.remove(&format!("{path}/driver"))
    }

    fn bind(&self, device: PciAddress, path: &str, driver: &str) -> io::Result<()> {
        self.make_link(device, &format!("{path}/driver"), &format!("{DRIVERS}/{driver}"))?;
        self.make_link(device, &format!("{DRIVERS}/{driver}/{device}"), path)
    }
}

impl Bindings for SysfsBindings {
    fn host(&self) -> Result<Host, BindingError> {
        Host::of_tree(&self.tree).map_err(|error| BindingError::new("the machine cannot be read", error))
    }

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
        match self.tree.place() {
            Place::Copy(copy) => copy.create_directory(&folder).map_err(|error| self.refused(&folder, error)),
            Place::Kernel(_) => {
                call::modprobe(driver, DEADLINE).map_err(|error| self.failed(&folder, error, None))?;
                self.tree.list(&folder).map(|_| ()).map_err(|error| self.refused(&folder, error))
            }
        }
    }

    fn set_override(&self, device: PciAddress, driver: Option<&str>) -> Result<(), BindingError> {
        let path = format!("{}/driver_override", self.device(device)?);
        match self.tree.place() {
            Place::Copy(copy) => {
                let written = copy.write(&path, &format!("{}\n", driver.unwrap_or("(null)")));
                written.map_err(|error| self.refused(&path, error))
            }
            Place::Kernel(_) => self.write(&path, &format!("{}\n", driver.unwrap_or_default()), device),
        }
    }

    fn unbind(&self, device: PciAddress, driver: &str) -> Result<(), BindingError> {
        let path = self.device(device)?;
        let at = format!("{DRIVERS}/{driver}/unbind");
        if self.binding(device)?.driver.as_deref() != Some(driver) {
            return Err(self.refused(&at, format!("{device} is not on {driver}")));
        }
        match self.tree.place() {
            Place::Copy(copy) => copy.unbind(device, &path, driver).map_err(|error| self.refused(&at, error)),
            Place::Kernel(_) => self.write(&at, &device.to_string(), device),
        }
    }

    fn bind(&self, device: PciAddress, driver: &str) -> Result<(), BindingError> {
        let path = self.device(device)?;
        let at = format!("{DRIVERS}/{driver}/bind");
        if self.tree.list(&format!("{DRIVERS}/{driver}")).is_err() {
            return Err(self.refused(&at, "no such driver"));
        }
        match self.tree.place() {
            Place::Copy(copy) => copy.bind(device, &path, driver).map_err(|error| self.refused(&at, error)),
            Place::Kernel(_) => self.write(&at, &device.to_string(), device),
        }
    }

    fn pending(&self, device: PciAddress) -> Option<u32> {
        match self.tree.place() {
            Place::Copy(_) => None,
            Place::Kernel(_) => call::pending(device),
        }
    }
}

fn device_link(device: PciAddress) -> String {
    format!("bus/pci/devices/{device}")
}
