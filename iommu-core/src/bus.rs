//! The subsystem on a bus: devices are grouped as they come, and kernel drivers counted as they bind.

use alloc::sync::Arc;
use core::any::Any;

use device_model::pci::PciFunction;
use device_model::sync::SpinMutex;
use device_model::{Awaits, DmaConfigure, DmaDevice, DmaError, Errno};

use crate::error::{AddError, UseError};
use crate::hardware::{Endpoint, RequesterId};
use crate::kernel_use::KernelUse;
use crate::member::Member;
use crate::subsystem::IommuSubsystem;

/// What a device of a bus keeps for the subsystem: its membership of a group.
#[derive(Debug, Default)]
pub struct MemberSlot(SpinMutex<Option<Arc<Member>>>);

impl MemberSlot {
    /// Returns the device as a member of its group; `None` when no IOMMU serves it, or not any more.
    pub fn member(&self) -> Option<Arc<Member>> {
        let member = self.0.lock().clone();
        member.filter(|member| member.is_present())
    }

    fn set(&self, member: Option<Arc<Member>>) {
        let displaced = core::mem::replace(&mut *self.0.lock(), member);
        drop(displaced);
    }
}

/// Why the subsystem does not let a driver bind.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DmaRefusal {
    /// The device is in no group, and cannot be added to one.
    #[error("the device could not be added to an IOMMU group")]
    Add(#[source] AddError),
    /// The group does not admit the driver.
    #[error(transparent)]
    Use(UseError),
}

impl DmaError for DmaRefusal {
    fn errno(&self) -> Errno {
        match self {
            Self::Add(error) => error.errno(),
            Self::Use(error) => error.errno(),
        }
    }

    fn awaits(&self) -> Option<&Awaits> {
        matches!(self, Self::Use(UseError::NoDefaultDomain { .. })).then_some(&Awaits::Anything)
    }
}

impl IommuSubsystem {
    fn group_device<T: Any + Send + Sync>(&self, dev: DmaDevice<'_, T, MemberSlot>) -> Result<(), AddError> {
        if dev.slot.member().is_none() {
            dev.slot.set(self.add_device(&endpoint(dev))?);
        }
        Ok(())
    }
}

/// The device as its IOMMU sees it.
fn endpoint<T: Any + Send + Sync>(dev: DmaDevice<'_, T, MemberSlot>) -> Endpoint {
    let endpoint = Endpoint::new(dev.id(), dev.name().clone()).with_description(dev.description.clone());
    match (&**dev.description as &dyn Any).downcast_ref::<PciFunction>() {
        Some(function) => endpoint.with_requesters([RequesterId::Pci(function.address)]),
        None => endpoint,
    }
}

impl<T: Any + Send + Sync> DmaConfigure<T> for IommuSubsystem {
    type Slot = MemberSlot;

    /// One kernel use of the device's group; `None` when no IOMMU serves the device, whose DMA nothing guards then.
    type Use = Option<KernelUse>;

    type Error = DmaRefusal;

    /// Adds the device to its group. That it could not be added is tried again when a driver binds to it.
    fn device_added(&self, dev: DmaDevice<'_, T, MemberSlot>) {
        let _ = self.group_device(dev);
    }

    /// Removes the device from its group.
    fn device_removed(&self, dev: DmaDevice<'_, T, MemberSlot>) {
        let member = dev.slot.0.lock().take();
        let endpoint = match member {
            Some(member) => {
                self.remove(&member);
                member.endpoint().clone()
            }
            None => endpoint(dev),
        };
        self.placement().device_removed(&endpoint);
    }

    /// Adds the device to its group, unless it is in one.
    fn dma_configure(&self, dev: DmaDevice<'_, T, MemberSlot>) -> Result<(), DmaRefusal> {
        self.group_device(dev).map_err(DmaRefusal::Add)
    }

    /// Begins a kernel use.
    fn use_default_domain(
        &self,
        dev: DmaDevice<'_, T, MemberSlot>,
        driver: &Arc<str>,
    ) -> Result<Option<KernelUse>, DmaRefusal> {
        let member = dev.slot.0.lock().clone();
        member.map(|member| KernelUse::begin(member, driver)).transpose().map_err(DmaRefusal::Use)
    }
}
