//! The subsystem on a bus: devices are grouped as they come, and kernel drivers counted as they bind.

use alloc::sync::Arc;
use core::any::Any;

use device_model::sync::SpinMutex;
use device_model::{DmaConfigure, DmaDevice};

use crate::error::{AddError, UseError};
use crate::hardware::Endpoint;
use crate::kernel_use::KernelUse;
use crate::member::Member;
use crate::subsystem::IommuSubsystem;

/// The device as a member of its group.
type Slot = SpinMutex<Option<Arc<Member>>>;

impl<T: Any + Send + Sync> DmaConfigure<T> for IommuSubsystem {
    type Slot = Slot;
    type Use = Option<KernelUse>;
    type Error = UseError;

    fn device_added(&self, dev: DmaDevice<'_, T, Slot>) {
        let _ = group(self, dev);
    }

    fn device_removed(&self, dev: DmaDevice<'_, T, Slot>) {
        let member = dev.slot.lock().take();
        if let Some(member) = member {
            self.remove(&member);
        }
        self.placement().device_removed(&endpoint(dev));
    }

    fn dma_configure(&self, dev: DmaDevice<'_, T, Slot>) -> Result<(), UseError> {
        let _ = group(self, dev);
        Ok(())
    }

    fn use_default_domain(&self, dev: DmaDevice<'_, T, Slot>, driver: &Arc<str>) -> Result<Option<KernelUse>, UseError> {
        let member = dev.slot.lock().clone();
        member.map(|member| KernelUse::begin(member, driver)).transpose()
    }
}

impl device_model::DmaError for UseError {
    fn errno(&self) -> device_model::Errno {
        Self::errno(self)
    }
}

fn group<T: Any + Send + Sync>(iommu: &IommuSubsystem, dev: DmaDevice<'_, T, Slot>) -> Result<(), AddError> {
    let member = iommu.add_device(&endpoint(dev))?;
    *dev.slot.lock() = member;
    Ok(())
}

fn endpoint<T: Any + Send + Sync>(dev: DmaDevice<'_, T, Slot>) -> Endpoint {
    Endpoint::new(dev.id(), dev.name().clone()).with_description(dev.description.clone())
}
