//! Mock devices, bound to an iommufd and attached.

use alloc::format;
use alloc::sync::Arc;

use iommu_core::device_group::generic_device_group;
use iommu_core::device_model::{DeviceId, Errno};
use iommu_core::hardware::{Endpoint, IommuDriver};
use iommu_core::{IommuSubsystem, Member};
use iommufd_owner::{BoundDevice, Context};

use super::Support;
use super::mock_iommu::DeviceFlags;

/// Ids of mock devices begin here: far from those of real ones.
const FIRST_ID: u64 = 1 << 62;

/// A mock device. Dropping it detaches and unbinds it, and ends it.
#[derive(Debug)]
pub(super) struct MockDevice {
    pub(super) bound: BoundDevice,
    /// Dropped after the binding.
    _present: Present,
}

/// A mock device in its group.
#[derive(Debug)]
struct Present {
    subsystem: IommuSubsystem,
    member: Arc<Member>,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.subsystem.remove(&self.member);
    }
}

impl MockDevice {
    /// Makes a device and binds it.
    pub(super) fn new(support: &Support, context: &Context, flags: DeviceFlags) -> Result<Self, Errno> {
        let number = support.next_number();
        let endpoint = Endpoint::new(DeviceId::new(FIRST_ID + u64::from(number)), format!("iommufd_mock{number}"));
        let endpoint = endpoint.with_description(Arc::new(flags));
        let iommu: Arc<dyn IommuDriver> = support.iommu.clone();
        let subsystem = support.subsystem.clone();
        let member = subsystem.add_device_to(&endpoint, generic_device_group(&iommu)).map_err(|error| error.errno())?;
        let present = Present { subsystem, member };
        let bound = context.bind(&present.member).map_err(|error| error.errno())?;
        Ok(Self { bound, _present: present })
    }
}
