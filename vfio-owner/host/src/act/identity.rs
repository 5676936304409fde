//! What tells a device from another one at the same address.

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::device_model::pci::ConfigSpace;
use vfio_owner::iommu_core::sysfs::SysfsDevice;

/// The capability with a device's serial number, and where in it that is.
const SERIAL_NUMBER: u16 = 0x03;
const SERIAL_NUMBER_AT: u16 = 4;

/// What is known of a device besides its address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Where it is plugged in: the bridges on the way.
    path: String,
    ids: [Option<u16>; 4],
    class: Option<u32>,
    /// `None` if it has none, or if it is not shown.
    serial: Option<u64>,
}

impl Identity {
    pub(super) fn of(device: &SysfsDevice) -> Self {
        let config = &device.function.config;
        // All ones are what is read of a device that is switched off.
        let ids = [config.vendor(), config.device(), config.subsystem_vendor(), config.subsystem_device()]
            .map(|id| id.filter(|id| *id != u16::MAX));
        Self { path: device.path.clone(), ids, class: config.class(), serial: serial(config) }
    }

    /// Whether both can be the same device: what one of them does not show does not count.
    pub(super) fn fits(&self, other: &Self) -> bool {
        let ids = self.ids.iter().zip(&other.ids);
        self.path == other.path
            && ids.into_iter().all(|(one, other)| fits(one.as_ref(), other.as_ref()))
            && fits(self.class.as_ref(), other.class.as_ref())
            && fits(self.serial.as_ref(), other.serial.as_ref())
    }
}

fn fits<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
    one.is_none() || other.is_none() || one == other
}

fn serial(config: &ConfigSpace) -> Option<u64> {
    let at = config.extended_capabilities().find(|found| found.id == SERIAL_NUMBER)?.offset;
    let [low, high] = [SERIAL_NUMBER_AT, SERIAL_NUMBER_AT + 4].map(|offset| config.read_u32(at + offset));
    Some(u64::from(high?) << 32 | u64::from(low?)).filter(|serial| ![0, u64::MAX].contains(serial))
}
