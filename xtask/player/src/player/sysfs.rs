//! Steps that go through sysfs.

use nix::errno::Errno;

use super::{Answer, Or, PATIENCE, Player};
use crate::language::{MachineStep, Run};
use crate::system::{Access, Fd, System};

const PCI: &str = "/sys/bus/pci";

/// The most that an attribute says.
const PAGE: usize = 4096;

fn path_of(device: &str, file: &str) -> String {
    format!("{PCI}/devices/{device}/{file}")
}

/// A device that is not there, rather than a file.
fn no_device(errno: Errno) -> Errno {
    if errno == Errno::ENOENT { Errno::ENODEV } else { errno }
}

impl<S: System> Player<S> {
    pub(super) fn play_machine(&mut self, step: &MachineStep, run: Run) -> Or<Answer> {
        match step {
            MachineStep::Bind { device, driver } => {
                let only = path_of(device, "driver_override");
                self.write_to(&only, driver).map_err(no_device)?;
                let bound = self.write_to(&format!("{PCI}/drivers/{driver}/bind"), device);
                self.write_to(&only, "\n").map_err(no_device)?;
                Ok(bound.into())
            }
            MachineStep::Unbind { device } => {
                let file = self.open_attribute(&path_of(device, "driver/unbind"), Access::Write).map_err(no_device)?;
                Ok(self.write_or_wait(file, device, run))
            }
            MachineStep::Probe { device } => Ok(self.write_to(&format!("{PCI}/drivers_probe"), device).into()),
            MachineStep::Driver { device } => Ok(Answer::Value(match self.link(&path_of(device, "driver")) {
                Ok(name) => name,
                Err(Errno::ENOENT) => "none".to_owned(),
                Err(errno) => return Err(errno.into()),
            })),
            MachineStep::Group { device } => self.listed(&path_of(device, "iommu_group/devices")),
            MachineStep::Devices => self.listed(&format!("{PCI}/devices")),
            MachineStep::Type { device } => self.said(&path_of(device, "iommu_group/type")),
            MachineStep::Reserved { device } => self.said(&path_of(device, "iommu_group/reserved_regions")),
            MachineStep::SetType { device, kind } => {
                Ok(self.write_to(&path_of(device, "iommu_group/type"), kind).into())
            }
            MachineStep::Rescan => Ok(self.write_to(&format!("{PCI}/rescan"), "1").into()),
            MachineStep::Remove { device } => {
                let file = self.open_attribute(&path_of(device, "remove"), Access::Write)?;
                Ok(self.write_or_wait(file, "1", run))
            }
            MachineStep::Sriov { device, count } => {
                let file = self.open_attribute(&path_of(device, "sriov_numvfs"), Access::Write)?;
                Ok(self.write_or_wait(file, count, run))
            }
        }
    }

    /// Opens `/dev/vfio/N` of the device's group.
    pub(super) fn open_group(&mut self, device: &str) -> Or<Fd> {
        let group = self.link(&path_of(device, "iommu_group"))?;
        self.open(&format!("/dev/vfio/{group}"))
    }

    /// Opens `/dev/vfio/devices/vfioN` of the device.
    pub(super) fn open_device_file(&mut self, device: &str) -> Or<Fd> {
        self.calls += 1;
        let names = self.system.list(&path_of(device, "vfio-dev"))?;
        let name = names.first().ok_or(Errno::ENOENT)?;
        self.open(&format!("/dev/vfio/devices/{name}"))
    }

    fn open_attribute(&mut self, path: &str, access: Access) -> Result<Fd, Errno> {
        self.calls += 1;
        self.system.open(path, access)
    }

    fn write_to(&mut self, path: &str, text: &str) -> Result<(), Errno> {
        let file = self.open_attribute(path, Access::Write)?;
        self.write_and_close(file, text)
    }

    fn write_and_close(&mut self, file: Fd, text: &str) -> Result<(), Errno> {
        let written = self.system.write(file, text.as_bytes());
        self.system.close(file)?;
        written.map(drop)
    }

    /// Writes, in the background if it is to be so.
    fn write_or_wait(&mut self, file: Fd, text: &str, run: Run) -> Answer {
        if run == Run::Foreground {
            return self.write_and_close(file, text).into();
        }
        let mut write = self.system.begin_write(file, text.as_bytes());
        if let Some(result) = self.system.ended(&mut write, PATIENCE) {
            return result.map(drop).into();
        }
        self.waiting.push_back(write);
        Answer::Blocked
    }

    /// The last name of where a link leads.
    fn link(&mut self, path: &str) -> Result<String, Errno> {
        self.calls += 1;
        let target = self.system.read_link(path)?;
        Ok(target.rsplit('/').next().unwrap_or_default().to_owned())
    }

    /// The names in a directory, sorted.
    fn listed(&mut self, path: &str) -> Or<Answer> {
        self.calls += 1;
        let mut names = self.system.list(path)?;
        names.sort();
        Ok(Answer::Value(names.join(" ")))
    }

    /// The words of an attribute.
    fn said(&mut self, path: &str) -> Or<Answer> {
        let file = self.open_attribute(path, Access::Read)?;
        let mut text = vec![0; PAGE];
        let read = self.system.read(file, &mut text);
        self.system.close(file)?;
        text.truncate(read?);
        let text = String::from_utf8_lossy(&text);
        Ok(Answer::Value(text.split_whitespace().collect::<Vec<_>>().join(" ")))
    }
}
