//! Proofs: a plan is executed on the model, and then its devices are opened.

use std::collections::BTreeSet;
use std::fmt;

use vfio_owner::GroupFile;
use vfio_owner::backend::Extension;
use vfio_owner::iommu_core::device_model::Progress;
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::{Snapshot, SysfsGroup};
use vfio_owner::testbed::Machine;
use vfio_owner::vfio_pci;

use super::binding::{Binding, BindingError, Bindings};
use super::plan::Step;
use crate::Host;

/// The bindings of a simulated machine.
#[derive(Debug)]
pub struct ModelBindings {
    machine: Machine,
    host: Host,
}

impl ModelBindings {
    /// Creates the machine of a host as found: each device in its group and bound to its driver.
    pub fn of(host: &Host) -> Self {
        Self { machine: Machine::as_found(&host.pci), host: host.clone() }
    }

    /// Returns the machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }
}

impl Bindings for ModelBindings {
    /// Returns the host that the model was made of, with the drivers that devices are on now.
    fn host(&self) -> Result<Host, BindingError> {
        let mut host = self.host.clone();
        for device in &mut host.pci.devices {
            let now = self.binding(device.function.address)?;
            (device.driver, device.driver_override) = (now.driver, now.driver_override);
        }
        Ok(host)
    }

    fn binding(&self, device: PciAddress) -> Result<Binding, BindingError> {
        let found = self.machine.device(&device.to_string()).map_err(|error| BindingError::new(device, error))?;
        Ok(Binding {
            driver: found.driver_hint().map(|name| name.to_string()),
            driver_override: found.driver_override().map(|name| name.to_string()),
        })
    }

    fn load(&self, driver: &str) -> Result<(), BindingError> {
        if driver == vfio_pci::NAME { Ok(()) } else { Err(BindingError::new(driver, "the model has no such driver")) }
    }

    fn set_override(&self, device: PciAddress, driver: Option<&str>) -> Result<(), BindingError> {
        let found = self.machine.device(&device.to_string()).map_err(|error| BindingError::new(device, error))?;
        found.set_driver_override(driver);
        Ok(())
    }

    fn unbind(&self, device: PciAddress, driver: &str) -> Result<(), BindingError> {
        let unbind = self.machine.pci().sysfs().unbind(driver, &device.to_string());
        match unbind.map_err(|error| BindingError::new(device, error))?.try_finish() {
            Progress::Done => Ok(()),
            Progress::Waiting { .. } => Err(BindingError::new(device, "it is in use")),
        }
    }

    fn bind(&self, device: PciAddress, driver: &str) -> Result<(), BindingError> {
        self.machine.pci().sysfs().bind(driver, &device.to_string()).map_err(|error| BindingError::new(device, error))
    }
}

/// Proof that a plan works on the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proof;

/// Why a plan does not work on the model.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// A step failed.
    #[error("{step}: {error}")]
    Step {
        /// The step.
        step: Step,
        /// Why.
        error: BindingError,
    },
    /// After all steps, user space still cannot open the device.
    #[error("{device} cannot be had {way}: {error}")]
    Refused {
        /// The device.
        device: PciAddress,
        /// How the device was opened.
        way: Way,
        /// Why.
        error: String,
    },
}

/// How user space opens a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Through its VFIO group (group file).
    Group,
    /// As a VFIO device (cdev, iommufd).
    Device,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Group => "through its group",
            Self::Device => "through its own file",
        })
    }
}

impl Proof {
    /// Executes the steps on a model of the targets' groups, as `host` has them, then opens the targets each way.
    ///
    /// # Errors
    /// Fails if a step or an open is refused.
    pub fn play(host: &Host, steps: &[Step], targets: &[PciAddress]) -> Result<Self, ProofError> {
        let bindings = ModelBindings::of(&Host::of_snapshot(groups_of(host, targets)));
        for step in steps {
            step.take(&bindings).map_err(|error| ProofError::Step { step: step.clone(), error })?;
        }
        Self::of(bindings.machine(), targets)
    }

    /// Opens the targets on a machine, each way.
    ///
    /// # Errors
    /// Fails if one of them is refused.
    pub fn of(machine: &Machine, targets: &[PciAddress]) -> Result<Self, ProofError> {
        by_group(machine, targets)?;
        by_device(machine, targets)?;
        Ok(Self)
    }
}

/// The groups of these devices, with their members and what those are behind or functions of. Whatever becomes of them
/// touches no other device.
fn groups_of(host: &Host, devices: &[PciAddress]) -> Snapshot {
    let numbers: BTreeSet<u32> = devices.iter().filter_map(|device| host.pci.device(*device)?.group).collect();
    let groups: Vec<SysfsGroup> = numbers.into_iter().filter_map(|number| host.pci.group(number)).cloned().collect();
    let members = groups.iter().flat_map(|group| &group.members);
    let owners = members.clone().filter_map(|member| host.pci.device(*member)?.function.physical_function);
    let mut needed: BTreeSet<PciAddress> = members.copied().chain(owners).collect();
    let bridges = needed.iter().flat_map(|device| host.topology.bridges_above(*device)).map(|bridge| bridge.address);
    needed.extend(bridges.collect::<Vec<_>>());
    let devices = needed.into_iter().filter_map(|device| host.pci.device(device)).cloned();
    Snapshot { devices: devices.collect(), groups, ..Snapshot::default() }
}

fn refused(device: PciAddress, way: Way) -> impl Fn(&dyn fmt::Display) -> ProofError {
    move |error| ProofError::Refused { device, way, error: error.to_string() }
}

fn by_group(machine: &Machine, targets: &[PciAddress]) -> Result<(), ProofError> {
    let container = machine.vfio().open_container();
    let mut files: Vec<GroupFile> = Vec::new();
    for target in targets {
        let (name, refused) = (target.to_string(), refused(*target, Way::Group));
        let id = machine.group(&name).map_err(|error| refused(&error))?.id();
        if files.iter().any(|file| file.id() == id) {
            continue;
        }
        let file = machine.open_group(&name).map_err(|error| refused(&error))?;
        file.set_container(&container).map_err(|error| refused(&error))?;
        if files.is_empty() {
            container.set_iommu(Extension::TYPE1_V2).map_err(|error| refused(&error))?;
        }
        files.push(file);
    }
    let mut devices = Vec::new();
    for target in targets {
        let opened = files.iter().find_map(|file| file.device(&target.to_string()).ok());
        devices.push(opened.ok_or_else(|| refused(*target, Way::Group)(&"its group does not hand it out"))?);
    }
    Ok(())
}

fn by_device(machine: &Machine, targets: &[PciAddress]) -> Result<(), ProofError> {
    let context = machine.open_iommufd("proof");
    let mut ioas = None;
    let mut devices = Vec::new();
    for target in targets {
        let refused = refused(*target, Way::Device);
        let file = machine.open_device(&target.to_string()).map_err(|error| refused(&error))?;
        let bound = file.bind_iommufd(&context).map_err(|error| refused(&error))?;
        // Devices of one group are attached to one address space, so all are.
        let to = match ioas {
            Some(ioas) => ioas,
            None => *ioas.insert(context.ioas_alloc().map_err(|error| refused(&error))?),
        };
        bound.attach_iommufd_pt(to).map_err(|error| refused(&error))?;
        devices.push(bound);
    }
    Ok(())
}
