//! How much is given away together.

use std::collections::BTreeSet;

use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::SysfsDevice;

use crate::judge::refusal;
use crate::{Host, NoSuchDevice};

/// How much is given to user space together with a device.
///
/// What is given away is bound to vfio-pci with its `driver_override` set, so no other driver takes it back; what merely
/// leaves its driver can be bound again by anyone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Extent {
    /// The device alone. Others of its group leave their drivers if they have to.
    #[default]
    Device,
    /// The whole card: every function in its slot.
    Card,
    /// Everything in its group.
    Group,
}

impl Extent {
    /// Returns `devices` and what else belongs to them, without bridges and other devices that vfio-pci does not take.
    ///
    /// # Errors
    /// One of the devices is not there.
    pub fn of(self, host: &Host, devices: &[PciAddress]) -> Result<Vec<PciAddress>, NoSuchDevice> {
        let mut all: BTreeSet<PciAddress> = BTreeSet::new();
        for address in devices {
            let device = host.device(*address)?;
            let mates = host.pci.devices.iter().filter(|other| self.joins(device, other));
            all.extend(mates.filter(|other| refusal(host, other).is_none()).map(|other| other.function.address));
            all.insert(*address);
        }
        Ok(all.into_iter().collect())
    }

    fn joins(self, device: &SysfsDevice, other: &SysfsDevice) -> bool {
        let slot = |device: &SysfsDevice| {
            let address = device.function.address;
            (address.domain(), address.bus(), address.slot())
        };
        // Virtual functions may have the slot of others, and are cards of their own.
        let is_virtual = [device, other].iter().any(|device| device.function.physical_function.is_some());
        match self {
            Self::Device => false,
            Self::Card => slot(device) == slot(other) && !is_virtual,
            Self::Group => device.group.is_some() && device.group == other.group,
        }
    }
}
