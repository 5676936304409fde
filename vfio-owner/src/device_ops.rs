//! What a VFIO driver does for the devices that it hands out.

use core::fmt;

use iommu_core::device_model::Errno;

/// One device, as its VFIO driver serves it.
///
/// Called with the lock of the device's set held, but for [`request`](Self::request).
pub trait DeviceOps: Send + Sync + fmt::Debug {
    /// The device is opened, after nobody had it open; its DMA is owned already.
    ///
    /// # Errors
    /// It is not opened; the caller gets this number.
    fn open(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// Nobody has the device open any more: it must be quiet when this returns. Its DMA is given up after (V30).
    fn close(&self) {}

    /// Its users are asked to let it go, for the `attempt`th time from 0 on: its driver is to be unbound (V13). Called
    /// with the device lock held.
    fn request(&self, attempt: u32) {
        let _ = attempt;
    }
}
