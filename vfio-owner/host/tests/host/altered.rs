//! Bindings of which something goes otherwise.

use vfio_host::{Binding, BindingError, Bindings, Host};
use vfio_owner::iommu_core::device_model::pci::PciAddress;

/// What is changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Load,
    Override,
    Unbind,
    Bind,
}

/// What goes otherwise: nothing, unless it is said.
pub(crate) trait Alteration {
    fn host(&self, machine: &dyn Bindings) -> Result<Host, BindingError> {
        machine.host()
    }

    fn change(&self, _: Change, make: &dyn Fn() -> Result<(), BindingError>) -> Result<(), BindingError> {
        make()
    }

    fn pending(&self, _: PciAddress) -> Option<u32> {
        None
    }
}

/// A machine, and what goes otherwise on it.
pub(crate) struct Altered<'a, A> {
    pub(crate) machine: &'a dyn Bindings,
    pub(crate) by: A,
}

impl<A: Alteration> Bindings for Altered<'_, A> {
    fn host(&self) -> Result<Host, BindingError> {
        self.by.host(self.machine)
    }

    fn binding(&self, device: PciAddress) -> Result<Binding, BindingError> {
        self.machine.binding(device)
    }

    fn load(&self, driver: &str) -> Result<(), BindingError> {
        self.by.change(Change::Load, &|| self.machine.load(driver))
    }

    fn set_override(&self, device: PciAddress, driver: Option<&str>) -> Result<(), BindingError> {
        self.by.change(Change::Override, &|| self.machine.set_override(device, driver))
    }

    fn unbind(&self, device: PciAddress, driver: &str) -> Result<(), BindingError> {
        self.by.change(Change::Unbind, &|| self.machine.unbind(device, driver))
    }

    fn bind(&self, device: PciAddress, driver: &str) -> Result<(), BindingError> {
        self.by.change(Change::Bind, &|| self.machine.bind(device, driver))
    }

    fn pending(&self, device: PciAddress) -> Option<u32> {
        self.by.pending(device)
    }
}
