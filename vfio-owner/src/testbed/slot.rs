//! What sits in the slots of a machine.

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::sync::{Arc, Weak};
use core::fmt;
use std::sync::OnceLock;

use iommu_core::device_model::Device;
use iommu_core::device_model::pci::PciFunction;
use iommu_core::device_model::sync::Mutex;
use iommu_core::software::{Memory, SimulatedDevice, SoftIommu};

use super::iommus::Iommu;
use super::machine::{MachineError, Pci};
use crate::device_ops::IrqIndex;
use crate::vfio_pci::{FunctionModel, Level, Raised, VfioPciDevice, VfioPciDriver};

/// A function of a machine as hardware: its DMA, its interrupts, and the model behind its regions.
///
/// Exists whether the function is plugged in or not. A clone is the same slot; it does not keep the machine alive, so that
/// a model may hold the slot that it is in.
#[derive(Clone)]
pub struct Slot(Arc<Wires>);

struct Wires {
    name: Arc<str>,
    function: Arc<PciFunction>,
    found: Found,
    iommu: Iommu,
    memory: Memory,
    vfio_pci: OnceLock<Weak<VfioPciDriver>>,
    /// Leaf lock. While it is plugged in.
    device: Mutex<Weak<Device<Pci>>>,
}

/// How a function comes to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A scan of the bus finds it.
    ByScan,
    /// It is virtual, and the driver of its physical function makes it.
    WhenMade,
}

impl Slot {
    pub(super) fn new(function: Arc<PciFunction>, found: Found, iommu: Iommu, memory: Memory) -> Self {
        let name = function.address.to_string().into();
        let device = Mutex::default();
        Self(Arc::new(Wires { name, function, found, iommu, memory, vfio_pci: OnceLock::new(), device }))
    }

    /// The driver through which interrupts reach a user.
    pub(super) fn connect(&self, vfio_pci: &Arc<VfioPciDriver>) {
        // Called once for each machine.
        let _ = self.0.vfio_pci.set(Arc::downgrade(vfio_pci));
    }

    pub(super) fn plug(&self, device: &Arc<Device<Pci>>) {
        *self.0.device.lock() = Arc::downgrade(device);
    }

    pub(super) fn found(&self) -> Found {
        self.0.found
    }

    /// Returns the name of the function, as in sysfs.
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// Returns the function.
    pub fn function(&self) -> &Arc<PciFunction> {
        &self.0.function
    }

    /// Returns the IOMMU that the function is behind.
    pub fn iommu(&self) -> &Arc<SoftIommu> {
        &self.0.iommu.soft
    }

    /// Returns the bus-master side of the function, which performs DMA. What is returned stays usable when the function is
    /// removed; its DMA faults then.
    ///
    /// # Errors
    /// Fails if the function is not plugged in, or is in no group.
    pub fn dma(&self) -> Result<SimulatedDevice, MachineError> {
        let name = self.name();
        let device =
            self.0.device.lock().upgrade().ok_or_else(|| MachineError::NoDevice { device: name.to_string() })?;
        let member = device.dma_slot().member().ok_or_else(|| MachineError::NoGroup { device: name.to_string() })?;
        Ok(SimulatedDevice::new(member.endpoint().clone(), self.iommu().clone(), self.0.memory.clone()))
    }

    /// Raises interrupt `vector` of `index`. Returns [`Raised::Lost`] while no user has the device open through vfio-pci,
    /// and where the user has set no trigger.
    pub fn raise(&self, index: IrqIndex, vector: u32) -> Raised {
        self.vfio_pci().map_or(Raised::Lost, |device| device.raise(index, vector))
    }

    /// Drives the interrupt line. Does nothing while no user has set up INTx through vfio-pci.
    pub fn drive_intx(&self, level: Level) {
        if let Some(device) = self.vfio_pci() {
            device.drive_intx(level);
        }
    }

    /// Returns which of INTx, MSI and MSI-X a user has set up through vfio-pci. `None` while nobody has.
    pub fn enabled_irqs(&self) -> Option<IrqIndex> {
        self.vfio_pci()?.enabled_irqs()
    }

    /// The function while it is on vfio-pci.
    fn vfio_pci(&self) -> Option<Arc<VfioPciDevice>> {
        self.0.vfio_pci.get().and_then(Weak::upgrade)?.device(self.name())
    }
}

/// Makes the model of a function, which may hold the slot that it sits in.
pub(super) type MakeModel = Box<dyn FnOnce(Slot) -> Arc<dyn FunctionModel>>;

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("name", &self.0.name).field("iommu", &self.0.iommu).finish_non_exhaustive()
    }
}
