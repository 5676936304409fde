//! What a VFIO driver does for the devices that it hands out.

mod irq;
mod region;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use iommu_core::device_model::Errno;

pub use irq::{IrqAction, IrqError, IrqIndex, IrqInfo, IrqMasking, IrqSource, Trigger};
pub use region::{RegionError, RegionIndex, RegionInfo};

/// One device, as its VFIO driver serves it. A device that says nothing of itself has no regions and no interrupts.
///
/// Called with no lock of this crate held. [`open`](Self::open) and [`close`](Self::close) are called in turn; every other
/// call but [`request`](Self::request) and [`hot_reset`](Self::hot_reset) comes in between, from any thread.
pub trait DeviceOps: Send + Sync + fmt::Debug {
    /// The device is opened, after nobody had it open; its DMA is owned already.
    ///
    /// # Errors
    /// It is not opened; the caller gets this number.
    fn open(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// Nobody has the device open any more: it must be quiet when this returns. Its DMA is given up after.
    // V30.
    fn close(&self) {}

    /// Its users are asked to let it go, for the `attempt`th time from 0 on: its driver is to be unbound. Called without the
    /// device lock, by whoever waits for the users; whether or not the device is open.
    fn request(&self, attempt: u32) {
        let _ = attempt;
    }

    /// What the device is: `VFIO_DEVICE_GET_INFO`.
    fn info(&self) -> DeviceInfo {
        DeviceInfo::default()
    }

    /// What the region is: `VFIO_DEVICE_GET_REGION_INFO`. `None` (`EINVAL` of the call) if the device has none of this
    /// index; one that is there but empty has size 0.
    fn region(&self, index: RegionIndex) -> Option<RegionInfo> {
        let _ = index;
        None
    }

    /// Reads from `offset` of the region on: as much as there is before its end. How many bytes that are.
    ///
    /// # Errors
    /// Nothing was read: no such region, nothing at the offset, or the region cannot be read (now).
    fn read(&self, index: RegionIndex, offset: u64, into: &mut [u8]) -> Result<usize, RegionError> {
        let _ = (offset, into);
        Err(RegionError::NoSuchRegion { index })
    }

    /// Writes from `offset` of the region on: as much as fits before its end. How many bytes that are.
    ///
    /// # Errors
    /// Nothing was written: no such region, nothing at the offset, or the region cannot be written (now).
    fn write(&self, index: RegionIndex, offset: u64, from: &[u8]) -> Result<usize, RegionError> {
        let _ = (offset, from);
        Err(RegionError::NoSuchRegion { index })
    }

    /// What the interrupts of this index are: `VFIO_DEVICE_GET_IRQ_INFO`. `None` (`EINVAL` of the call) if the device
    /// has no such index; one that is there but empty has count 0.
    fn irq(&self, index: IrqIndex) -> Option<IrqInfo> {
        let _ = index;
        None
    }

    /// Does `action` to the interrupts of this index from `start` on, as `source` says: `VFIO_DEVICE_SET_IRQS`. So
    /// [`IrqAction::Trigger`] with [`IrqSource::Eventfd`] sets them up, and with `None { count: 0 }` tears the whole
    /// index down.
    ///
    /// # Errors
    /// Nothing was changed.
    fn set_irqs(&self, index: IrqIndex, start: u32, action: IrqAction, source: IrqSource<'_>) -> Result<(), IrqError> {
        let _ = (start, action, source);
        Err(IrqError::NoSuchIrq { index })
    }

    /// Brings the device back to its state after power-on: `VFIO_DEVICE_RESET`. Interrupts stay set up.
    ///
    /// # Errors
    /// It cannot be reset alone, as [`DeviceInfo::resettable`] says; or not now.
    fn reset(&self) -> Result<(), ResetError> {
        Err(ResetError::NotResettable)
    }

    /// The devices that are reset with this one, by name, registered with VFIO or not; the device itself need not be among
    /// them.
    fn reset_with(&self) -> Vec<Arc<str>> {
        Vec::new()
    }

    /// The same, as part of a reset of all its [set](crate::vfio_pci::ResetScope), which every device undergoes.
    // V55.
    fn hot_reset(&self) {}
}

/// What a device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceInfo {
    /// What its regions and interrupts follow.
    pub kind: DeviceKind,
    /// Whether it can be reset alone.
    pub resettable: bool,
    /// How many region indexes there are; each below this number may be asked for.
    pub regions: u32,
    /// How many interrupt indexes there are; each below this number may be asked for.
    pub irqs: u32,
}

/// Which convention the regions and interrupts of a device follow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum DeviceKind {
    /// None.
    #[default]
    Unspecified,
    /// That of PCI: `VFIO_DEVICE_FLAGS_PCI`.
    Pci,
    /// That of platform devices: `VFIO_DEVICE_FLAGS_PLATFORM`.
    Platform,
}

/// Why a device was not reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResetError {
    /// It cannot be reset alone.
    #[error("the device cannot be reset alone")]
    NotResettable,
    /// Its driver is being unbound, which holds the device lock until the device is closed.
    #[error("the driver of the device is being unbound")]
    Leaving,
}

impl ResetError {
    /// Returns the number that Linux gives.
    pub const fn errno(self) -> Errno {
        match self {
            Self::NotResettable => Errno::EINVAL,
            Self::Leaving => Errno::EAGAIN,
        }
    }
}
