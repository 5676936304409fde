//! Virtual functions: `sriov_numvfs`.

use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::device_model::pci::PciFunction;
use iommu_core::device_model::{Device, Unbind};

use super::machine::{Machine, MachineError, Pci};

/// Drivers that cannot make virtual functions. vfio-pci can, but does not by default (`enable_sriov`).
const CANNOT: [&str; 5] = ["e1000", "e1000e", "pci-stub", "pcieport", crate::vfio_pci::NAME];

impl Machine {
    /// Returns the virtual functions of a physical one that are there, in the order of their addresses.
    pub fn virtual_functions(&self, name: &str) -> Vec<Arc<Device<Pci>>> {
        let Ok(dev) = self.device(name) else { return Vec::new() };
        let physical = dev.description().address;
        let mut functions = self.pci().devices();
        functions.retain(|dev| dev.description().physical_function == Some(physical));
        functions.sort_by_key(|dev| dev.description().address);
        functions
    }

    /// Makes `count` virtual functions of a physical one, or removes those that are there with 0: a write to
    /// `sriov_numvfs`. Removing waits for the users of each: nothing happens until the returned values are driven, one
    /// after the other.
    ///
    /// # Errors
    /// Fails if there is no such device or it cannot have so many, its driver does not make any, or there are others
    /// already. Nothing is changed.
    // V101.
    pub fn set_virtual_functions(&self, name: &str, count: u16) -> Result<Vec<Unbind>, MachineError> {
        let dev = self.device(name)?;
        let device = || name.to_string();
        let total = dev.description().config.sriov().map_or(0, |sriov| sriov.total);
        if count > total {
            return Err(MachineError::TooManyVirtualFunctions { device: device(), count, total });
        }
        let _one_at_a_time = self.rescan.lock();
        let there = self.virtual_functions(name);
        if there.len() == usize::from(count) {
            return Ok(Vec::new());
        }
        if dev.driver_hint().is_none_or(|driver| CANNOT.contains(&&*driver)) {
            return Err(MachineError::NoVirtualFunctions { device: device() });
        }
        if count == 0 {
            return Ok(there.iter().map(Device::remove).collect());
        }
        if !there.is_empty() {
            return Err(MachineError::OtherVirtualFunctions { device: device(), count: there.len() });
        }
        let made = possible(dev.description()).take(count.into());
        for slot in made.filter_map(|function| self.slot(&function.address.to_string()).ok()) {
            self.add(slot);
        }
        Ok(Vec::new())
    }
}

/// The virtual functions that a function can have.
pub(super) fn possible(function: &PciFunction) -> impl Iterator<Item = PciFunction> {
    let total = function.config.sriov().map_or(0, |sriov| sriov.total);
    (0..total).filter_map(|index| function.virtual_function(index))
}
