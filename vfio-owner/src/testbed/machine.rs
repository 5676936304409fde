//! Simulated machine.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;

use iommu_core::device_model::pci::{PciAddress, PciBus, Upstream};
use iommu_core::device_model::sync::{LockClass, Mutex};
use iommu_core::device_model::{
    BusHandle, Device, DeviceSpec, DriverCore, DriversProbeError, Errno, SysfsBindError, SysfsUnbindError, Unbind,
};
use iommu_core::error::SetTypeError;
use iommu_core::failing::FailingIommu;
use iommu_core::software::{LockedPages, Memory, Process, SimulatedDevice, SoftIommu};
use iommu_core::sysfs::Snapshot;
use iommu_core::{DmaRefusal, Group, IommuSubsystem, Member, Observer, PhysicalMemory, TypeRequest, UnknownType};

use super::builder::MachineBuilder;
use super::iommus::Iommus;
use super::slot::{Found, Slot};
use super::vfs::Settings;
use crate::error::{OpenDeviceError, OpenGroupError};
use crate::vfio_pci::VfioPciDriver;
use crate::{DeviceFile, GroupFile, Vfio};

/// One rescan at a time; before every other lock.
pub(super) const RESCAN: LockClass = LockClass::new("rescan", 20);

/// The PCI bus of a machine.
pub type Pci = PciBus<IommuSubsystem>;

/// A simulated machine.
///
/// Methods take the name of a device as in sysfs (`"0000:00:04.0"`) and may be called from any thread.
#[derive(Debug)]
pub struct Machine {
    pub(super) core: DriverCore,
    pub(super) pci: BusHandle<Pci>,
    pub(super) iommu: IommuSubsystem,
    pub(super) physical_memory: PhysicalMemory,
    pub(super) iommus: Iommus,
    pub(super) memory: Memory,
    pub(super) vfio: Vfio,
    pub(super) vfio_pci: Arc<VfioPciDriver>,
    /// What sits in the machine's slots, plugged or not.
    pub(super) slots: BTreeMap<PciAddress, Slot>,
    pub(super) rescan: Mutex<()>,
    /// What programs set through files.
    pub(super) settings: Settings,
    #[cfg(feature = "iommufd-test")]
    pub(super) iommufd_test: Option<super::iommufd_test::IommufdTest>,
}

impl Machine {
    /// Begins to build a machine with the devices of `snapshot`.
    pub fn builder(snapshot: Snapshot) -> MachineBuilder {
        MachineBuilder::new(snapshot)
    }

    /// Builds the machine of `snapshot` and boots it: drivers first, then devices in the order of their addresses, so
    /// that groups get the numbers that Linux gives them.
    pub fn boot(snapshot: &Snapshot) -> Self {
        Self::builder(snapshot.clone()).build_plain()
    }

    /// Boots as [`boot`](Self::boot) does, with an observer of every change of ownership.
    pub fn boot_watched(snapshot: &Snapshot, observer: impl Observer + 'static) -> Self {
        Self::builder(snapshot.clone()).observer(observer).build_plain()
    }

    /// Builds the machine of `snapshot` as it was found, as [`MachineBuilder::as_found`] says.
    pub fn as_found(snapshot: &Snapshot) -> Self {
        Self::builder(snapshot.clone()).as_found().build_plain()
    }

    /// Returns the driver core.
    pub fn core(&self) -> &DriverCore {
        &self.core
    }

    /// Returns the PCI bus.
    pub fn pci(&self) -> &BusHandle<Pci> {
        &self.pci
    }

    /// Returns the groups.
    pub fn iommu(&self) -> &IommuSubsystem {
        &self.iommu
    }

    /// Returns the right to map the machine's memory for devices.
    pub fn physical_memory(&self) -> &PhysicalMemory {
        &self.physical_memory
    }

    /// Opens `/dev/iommu`: a context without objects. The name appears in messages (`"iommufd of qemu"`).
    pub fn open_iommufd(&self, name: impl Into<Arc<str>>) -> iommufd_owner::Context {
        iommufd_owner::Context::new(name, &self.physical_memory)
    }

    /// Returns whether `/dev/iommu` has the test calls of a kernel that was built to test itself, and faults can be injected.
    pub fn tests_iommufd(&self) -> bool {
        #[cfg(feature = "iommufd-test")]
        return self.iommufd_test.is_some();
        #[cfg(not(feature = "iommufd-test"))]
        false
    }

    /// Opens `/dev/iommu` for calls by number: with its test calls, if the machine was built with test support. The name
    /// appears in messages.
    pub fn open_iommufd_file(&self, name: &str) -> crate::uapi::File {
        let context = self.open_iommufd(name);
        #[cfg(feature = "iommufd-test")]
        if let Some(test) = &self.iommufd_test {
            return test.serve(context);
        }
        crate::uapi::File::Iommufd(context)
    }

    /// Returns the IOMMUs. The first serves the devices for which no other was built.
    pub fn iommus(&self) -> impl Iterator<Item = &Arc<SoftIommu>> {
        self.iommus.iter().map(|iommu| &iommu.soft)
    }

    /// Returns the IOMMU that serves a device, to inject failures; `None` for a device that the machine has no slot for,
    /// and unless it was built with [`failing_iommus`](MachineBuilder::failing_iommus).
    pub fn failing_iommu(&self, name: &str) -> Option<&Arc<FailingIommu>> {
        self.iommus.of(self.slot(name).ok()?.function().address).failing.as_ref()
    }

    /// Returns the memory that devices access through the IOMMUs.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Starts a process, without memory yet, whose locked pages are charged to `locked`.
    pub fn process(&self, locked: LockedPages) -> Arc<Process> {
        Process::new(&self.memory, locked)
    }

    /// Returns the function in a slot as hardware, whether it is plugged in or not.
    ///
    /// # Errors
    /// Fails if the machine has no such slot.
    pub fn slot(&self, name: &str) -> Result<&Slot, MachineError> {
        let slot = name.parse().ok().and_then(|address: PciAddress| self.slots.get(&address));
        slot.ok_or_else(|| MachineError::NoDevice { device: name.to_string() })
    }

    /// Returns VFIO, with which the machine's vfio-pci registers its devices.
    pub fn vfio(&self) -> &Vfio {
        &self.vfio
    }

    /// Returns the vfio-pci driver, for the simulated side of its functions.
    pub fn vfio_pci(&self) -> &VfioPciDriver {
        &self.vfio_pci
    }

    /// Opens the VFIO group of a device, `/dev/vfio/N`.
    ///
    /// # Errors
    /// Fails if there is no such device, or its group has no file or the file is open.
    pub fn open_group(&self, name: &str) -> Result<GroupFile, MachineError> {
        let member = self.member(name)?;
        self.vfio.open_group(member.group().id()).map_err(MachineError::OpenGroup)
    }

    /// Opens the file of a device, `/dev/vfio/devices/vfioX`.
    ///
    /// # Errors
    /// Fails if there is no such device, or it is not bound to vfio-pci.
    pub fn open_device(&self, name: &str) -> Result<DeviceFile, MachineError> {
        self.vfio.open_device(name).map_err(MachineError::OpenDevice)
    }

    /// Returns the device of this name.
    ///
    /// # Errors
    /// Fails if no such device is plugged in.
    pub fn device(&self, name: &str) -> Result<Arc<Device<Pci>>, MachineError> {
        self.pci.device(name).ok_or_else(|| MachineError::NoDevice { device: name.to_string() })
    }

    /// Returns the device as a member of its group.
    ///
    /// # Errors
    /// Fails if there is no such device, or it is in no group.
    pub fn member(&self, name: &str) -> Result<Arc<Member>, MachineError> {
        let dev = self.device(name)?;
        dev.dma_slot().member().ok_or_else(|| MachineError::NoGroup { device: name.to_string() })
    }

    /// Returns the group of a device.
    ///
    /// # Errors
    /// Fails if there is no such device, or it is in no group.
    pub fn group(&self, name: &str) -> Result<Arc<Group>, MachineError> {
        Ok(self.member(name)?.group().clone())
    }

    /// Returns the bus-master side of a device, as [`Slot::dma`] does.
    ///
    /// # Errors
    /// Fails if there is no such device, or it is in no group.
    pub fn dma(&self, name: &str) -> Result<SimulatedDevice, MachineError> {
        self.slot(name)?.dma()
    }

    /// Returns the driver that the `driver` link of the device names. The answer may be stale at once.
    pub fn driver(&self, name: &str) -> Option<Arc<str>> {
        self.pci.device(name)?.driver_hint()
    }

    /// Binds a driver through sysfs: writes its name to the device's `driver_override`, the device's name to the
    /// driver's `bind`, then clears the override.
    ///
    /// # Errors
    /// Fails if there is no such device, or the driver was not bound.
    pub fn bind(&self, name: &str, driver: &str) -> Result<(), MachineError> {
        let dev = self.device(name)?;
        dev.set_driver_override(Some(driver));
        let result = self.pci.sysfs().bind(driver, name);
        dev.set_driver_override(None);
        result.map_err(|error| MachineError::Bind(Box::new(error)))
    }

    /// Unbinds the device's driver through sysfs: writes the device's name to the `unbind` file of its driver. Nothing
    /// happens until the returned value is driven.
    ///
    /// # Errors
    /// Fails if there is no such device, or it has no driver.
    pub fn unbind(&self, name: &str) -> Result<Unbind, MachineError> {
        let dev = self.device(name)?;
        let driver = dev.driver_hint().ok_or_else(|| MachineError::NoDriver { device: name.to_string() })?;
        self.pci.sysfs().unbind(&driver, name).map_err(MachineError::Unbind)
    }

    /// Probes drivers for a device, as a write to `drivers_probe` does.
    ///
    /// # Errors
    /// Fails if there is no such device, or a driver that matches failed to bind.
    pub fn probe(&self, name: &str) -> Result<(), MachineError> {
        self.pci.sysfs().drivers_probe(name).map_err(|error| MachineError::Probe(Box::new(error)))
    }

    /// Writes to the `type` file of the device's group.
    ///
    /// # Errors
    /// Fails if there is no such device or type, or the default domain cannot be changed. The type is unchanged.
    pub fn set_type(&self, name: &str, text: &str) -> Result<(), MachineError> {
        let group = self.group(name)?;
        let request: TypeRequest = text.parse().map_err(MachineError::UnknownType)?;
        self.iommu.set_default_domain_type(&group, request).map_err(MachineError::SetType)
    }

    /// Removes the device and all below it. Nothing happens until the returned value is driven.
    ///
    /// # Errors
    /// Fails if there is no such device.
    pub fn remove(&self, name: &str) -> Result<Unbind, MachineError> {
        Ok(self.device(name)?.remove())
    }

    /// Rescans the bus: adds every function that sits in a slot below a present one, in the order of addresses, and
    /// probes drivers for it.
    pub fn rescan(&self) {
        let _one_at_a_time = self.rescan.lock();
        for slot in self.slots.values().filter(|slot| slot.found() == Found::ByScan) {
            self.add(slot);
        }
    }

    /// Adds the function in a slot, unless it is there, or what it is below is not.
    pub(super) fn add(&self, slot: &Slot) {
        let function = slot.function();
        if self.pci.device(slot.name()).is_some() {
            return;
        }
        let spec = DeviceSpec::new(slot.name().clone(), function.clone());
        let spec = match function.upstream {
            Upstream::Bridge(bridge) => match self.pci.device(&bridge.to_string()) {
                Some(parent) => spec.below(parent),
                None => return,
            },
            Upstream::ByBusNumber | Upstream::RootBus => spec,
        };
        // What cannot be added, because it or its parent is just being removed, is not there.
        if let Ok(device) = self.pci.add_device(spec) {
            slot.plug(&device);
        }
    }
}

/// Why an operation on a machine failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// No device of that name is plugged in.
    #[error("no device {device}")]
    NoDevice {
        /// The name of the device.
        device: String,
    },
    /// The device is in no IOMMU group.
    #[error("{device} is in no IOMMU group")]
    NoGroup {
        /// The name of the device.
        device: String,
    },
    /// The device has no driver.
    #[error("{device} has no driver")]
    NoDriver {
        /// The name of the device.
        device: String,
    },
    /// A physical function cannot have so many virtual ones.
    #[error("{device} has at most {total} virtual functions, not {count}")]
    TooManyVirtualFunctions {
        /// The name of the device.
        device: String,
        /// How many were asked for.
        count: u16,
        /// How many it can have.
        total: u16,
    },
    /// The device has no driver that makes virtual functions.
    #[error("{device} has no driver that makes virtual functions")]
    NoVirtualFunctions {
        /// The name of the device.
        device: String,
    },
    /// Virtual functions are there already, and are removed before others are made.
    #[error("{device} has {count} virtual functions")]
    OtherVirtualFunctions {
        /// The name of the device.
        device: String,
        /// How many there are.
        count: usize,
    },
    /// The driver could not be bound.
    #[error(transparent)]
    Bind(Box<SysfsBindError<DmaRefusal>>),
    /// The driver could not be unbound.
    #[error(transparent)]
    Unbind(SysfsUnbindError),
    /// Probing a driver failed.
    #[error(transparent)]
    Probe(Box<DriversProbeError<DmaRefusal>>),
    /// There is no such default domain type.
    #[error(transparent)]
    UnknownType(UnknownType),
    /// The default domain could not be changed.
    #[error(transparent)]
    SetType(SetTypeError),
    /// The file of the group could not be opened.
    #[error(transparent)]
    OpenGroup(OpenGroupError),
    /// The file of the device could not be opened.
    #[error(transparent)]
    OpenDevice(OpenDeviceError),
}

impl MachineError {
    /// Returns the error number that the write to sysfs gives on Linux.
    pub fn errno(&self) -> Errno {
        match self {
            Self::NoDevice { .. } | Self::NoDriver { .. } => Errno::ENODEV,
            Self::NoGroup { .. } | Self::NoVirtualFunctions { .. } => Errno::ENOENT,
            Self::TooManyVirtualFunctions { .. } => Errno::ERANGE,
            Self::OtherVirtualFunctions { .. } => Errno::EBUSY,
            Self::Bind(error) => error.errno(),
            Self::Unbind(error) => error.errno(),
            Self::Probe(error) => error.errno(),
            Self::UnknownType(error) => error.errno(),
            Self::SetType(error) => error.errno(),
            Self::OpenGroup(error) => error.errno(),
            Self::OpenDevice(error) => error.errno(),
        }
    }
}
