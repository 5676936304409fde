//! Open devices: access to regions and interrupts, and reset.

mod hot_reset;
mod through_group;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use iommu_core::Member;
use iommu_core::device_model::Errno;

use crate::device::{Reservation, VfioDevice};
use crate::device_ops::{
    DeviceInfo, DeviceOps, Feature, FeatureError, FeatureId, FeatureSupport, Follow, IoEventfd, IoEventfdError,
    IrqAction, IrqError, IrqIndex, IrqInfo, IrqSource, Polled, RegionError, RegionIndex, RegionInfo, RegionMemory,
    ResetError,
};

pub use hot_reset::{AffectedOwner, HotResetError, HotResetInfo, HotResetProof};
pub use through_group::GetDeviceError;
pub(crate) use through_group::ThroughGroup;

/// An open device, whose DMA the user owns: opened through its group, or through its own file, which is bound to an
/// iommufd.
///
/// Unbinding its driver waits until it is closed. A clone is the same open file. Dropping the last clone closes the
/// file. With the last file of the device the driver's [`close`](DeviceOps::close) is called, with no lock held, and
/// its DMA ownership is released last.
#[derive(Clone, Debug)]
pub struct OpenDevice(Arc<Session<dyn Way>>);

/// From the driver's `open` of a device to its `close`, and then until nothing is left of its user.
#[derive(Debug)]
pub(crate) struct Session<W: Way + ?Sized> {
    pub(crate) way: W,
}

/// How a device came to be open. What it keeps is given up once the device is quiet, its claim before its
/// [`Reservation`]; last of all its user leaves.
// V30.
pub(crate) trait Way: Send + Sync + fmt::Debug {
    /// The device, which is nobody else's.
    fn reservation(&self) -> &Reservation;

    /// The iommufd that shows what the user owns; `None` if the user must pass the files of groups.
    // V55.
    #[cfg(feature = "iommufd")]
    fn shown_by(&self) -> Option<&iommufd_owner::Context>;

    /// What the device is bound to, in an iommufd.
    #[cfg(feature = "iommufd")]
    fn bound(&self) -> Option<&iommufd_owner::BoundDevice>;
}

impl<W: Way> Session<W> {
    /// Has the driver open the device. No lock is held.
    pub(crate) fn open(way: W) -> Result<Self, Errno> {
        way.reservation().device().ops().open()?;
        Ok(Self { way })
    }
}

impl<W: Way + ?Sized> Session<W> {
    pub(crate) fn device(&self) -> &VfioDevice {
        self.way.reservation().device()
    }
}

impl<W: Way + ?Sized> Drop for Session<W> {
    fn drop(&mut self) {
        self.device().ops().close();
    }
}

impl OpenDevice {
    pub(crate) fn new(session: Arc<Session<dyn Way>>) -> Self {
        Self(session)
    }

    fn device(&self) -> &VfioDevice {
        self.0.device()
    }

    fn ops(&self) -> &dyn DeviceOps {
        &**self.device().ops()
    }

    /// The device's operations, for the user to use it.
    fn resumed(&self) -> &dyn DeviceOps {
        self.ops().resume();
        self.ops()
    }

    /// Returns the name of the device.
    pub fn name(&self) -> &Arc<str> {
        self.device().name()
    }

    /// Returns the device in its IOMMU group; `None` in no-IOMMU mode.
    pub fn member(&self) -> Option<&Arc<Member>> {
        self.device().member()
    }

    /// Returns the description of the device: `VFIO_DEVICE_GET_INFO`.
    pub fn info(&self) -> DeviceInfo {
        self.resumed().info()
    }

    /// Returns the description of a region, or `None` without such a region (`EINVAL`): `VFIO_DEVICE_GET_REGION_INFO`.
    pub fn region(&self, index: RegionIndex) -> Option<RegionInfo> {
        self.resumed().region(index)
    }

    /// Reads from a region. Returns how many bytes were read.
    ///
    /// # Errors
    /// Fails as [`DeviceOps::read`] does.
    pub fn read(&self, index: RegionIndex, offset: u64, into: &mut [u8]) -> Result<usize, RegionError> {
        self.resumed().read(index, offset, into)
    }

    /// Writes to a region. Returns how many bytes were written.
    ///
    /// # Errors
    /// Fails as [`DeviceOps::write`] does.
    pub fn write(&self, index: RegionIndex, offset: u64, from: &[u8]) -> Result<usize, RegionError> {
        self.resumed().write(index, offset, from)
    }

    /// Has the device take a region from `memory`, which programs have mapped, as [`DeviceOps::follow`] does.
    pub fn follow(&self, index: RegionIndex, memory: &Arc<dyn RegionMemory>) -> Follow {
        self.ops().follow(index, memory)
    }

    /// Ends what [`follow`](Self::follow) began, as [`DeviceOps::unfollow`] does.
    pub fn unfollow(&self, index: RegionIndex) {
        self.ops().unfollow(index);
    }

    /// Does what programs asked for in the memory of regions that the device follows, as [`DeviceOps::poll`] does.
    pub fn poll(&self) -> Polled {
        self.ops().poll()
    }

    /// Returns the description of an interrupt index, or `None` without such an index (`EINVAL`):
    /// `VFIO_DEVICE_GET_IRQ_INFO`.
    pub fn irq(&self, index: IrqIndex) -> Option<IrqInfo> {
        self.resumed().irq(index)
    }

    /// Enables, masks, unmasks or triggers interrupts: `VFIO_DEVICE_SET_IRQS`.
    ///
    /// # Errors
    /// Fails as [`DeviceOps::set_irqs`] does.
    pub fn set_irqs(
        &self,
        index: IrqIndex,
        start: u32,
        action: IrqAction,
        source: IrqSource<'_>,
    ) -> Result<(), IrqError> {
        self.resumed().set_irqs(index, start, action, source)
    }

    /// Resets the device: `VFIO_DEVICE_RESET`.
    ///
    /// # Errors
    /// Fails if the device cannot be reset alone, or its driver is being unbound.
    pub fn reset(&self) -> Result<(), ResetError> {
        self.resumed().reset()
    }

    /// Returns what the user can do with a feature; `None` if the device does not have it (`ENOTTY`):
    /// `VFIO_DEVICE_FEATURE`.
    pub fn feature(&self, id: FeatureId) -> Option<FeatureSupport> {
        self.resumed().feature(id)
    }

    /// Returns the data of a feature.
    ///
    /// # Errors
    /// Fails as [`DeviceOps::get_feature`] does.
    pub fn get_feature(&self, id: FeatureId) -> Result<Vec<u8>, FeatureError> {
        self.resumed().get_feature(id)
    }

    /// Sets a feature.
    ///
    /// # Errors
    /// Fails as [`DeviceOps::set_feature`] does.
    pub fn set_feature(&self, feature: Feature) -> Result<(), FeatureError> {
        self.resumed().set_feature(feature)
    }

    /// Sets or removes a write that the device makes whenever an eventfd is signalled: `VFIO_DEVICE_IOEVENTFD`.
    ///
    /// # Errors
    /// Fails as [`DeviceOps::set_ioeventfd`] does.
    pub fn set_ioeventfd(&self, write: IoEventfd) -> Result<(), IoEventfdError> {
        self.resumed().set_ioeventfd(write)
    }
}
