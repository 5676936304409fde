//! Open devices.

use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::Member;
use iommu_core::device_model::sync::UserGuard;

use crate::device::{Through, VfioDevice};
use crate::device_ops::{
    DeviceInfo, DeviceOps, IrqAction, IrqError, IrqIndex, IrqInfo, IrqSource, NotResettable, RegionError, RegionIndex,
    RegionInfo,
};
use crate::error::{GetDeviceError, HotResetError};
use crate::group::{Attachment, GroupFile, OpenGroup};

/// An open device.
///
/// While it is, unbinding its driver waits (V13, V15). A clone is the same open file, as a mapping of one of its regions
/// is in Linux. Dropping the last clone closes it: with the last file of the device the driver makes it quiet first, and
/// its ownership goes last (V30).
#[derive(Clone, Debug)]
pub struct DeviceFile(Arc<OpenDevice>);

#[derive(Debug)]
struct OpenDevice {
    device: Arc<VfioDevice>,
    /// Leaves after everything else is given back.
    _user: UserGuard,
}

impl DeviceFile {
    /// Table Vt6 from row 5 on.
    pub(crate) fn open_in_group(
        file: &Arc<OpenGroup>,
        device: Arc<VfioDevice>,
        user: UserGuard,
    ) -> Result<Self, GetDeviceError> {
        let group = device.group().id();
        let mut state = device.group().state.lock();
        let Some(Attachment::Container { container, devices }) = &mut state.attachment else {
            return Err(GetDeviceError::NoContainer { group });
        };
        let mut set = device.lock_set();
        if let Some(open) = set.get_mut(&device) {
            open.count += 1;
        } else {
            if !container.has_iommu() {
                return Err(GetDeviceError::NoIommu { group });
            }
            let refused = |errno| GetDeviceError::Driver { device: device.name().clone(), errno };
            device.ops().open().map_err(refused)?;
            *devices += 1;
            set.add(&device, Through::Container { _keeps: file.clone() });
        }
        drop(set);
        drop(state);
        Ok(Self(Arc::new(OpenDevice { device, _user: user })))
    }

    /// The name of the device.
    pub fn name(&self) -> &Arc<str> {
        self.0.device.name()
    }

    /// The device in its IOMMU group.
    pub fn member(&self) -> &Arc<Member> {
        self.0.device.member()
    }

    fn ops(&self) -> &dyn DeviceOps {
        &**self.0.device.ops()
    }

    /// `VFIO_DEVICE_GET_INFO`.
    pub fn info(&self) -> DeviceInfo {
        self.ops().info()
    }

    /// `VFIO_DEVICE_GET_REGION_INFO`; `None` without such a region (`EINVAL`).
    pub fn region(&self, index: RegionIndex) -> Option<RegionInfo> {
        self.ops().region(index)
    }

    /// Reads from a region; how many bytes.
    ///
    /// # Errors
    /// As for [`DeviceOps::read`].
    pub fn read(&self, index: RegionIndex, offset: u64, into: &mut [u8]) -> Result<usize, RegionError> {
        self.ops().read(index, offset, into)
    }

    /// Writes to a region; how many bytes.
    ///
    /// # Errors
    /// As for [`DeviceOps::write`].
    pub fn write(&self, index: RegionIndex, offset: u64, from: &[u8]) -> Result<usize, RegionError> {
        self.ops().write(index, offset, from)
    }

    /// `VFIO_DEVICE_GET_IRQ_INFO`; `None` without such interrupts (`EINVAL`).
    pub fn irq(&self, index: IrqIndex) -> Option<IrqInfo> {
        self.ops().irq(index)
    }

    /// `VFIO_DEVICE_SET_IRQS`.
    ///
    /// # Errors
    /// As for [`DeviceOps::set_irqs`].
    pub fn set_irqs(
        &self,
        index: IrqIndex,
        start: u32,
        action: IrqAction,
        source: IrqSource<'_>,
    ) -> Result<(), IrqError> {
        self.ops().set_irqs(index, start, action, source)
    }

    /// `VFIO_DEVICE_RESET`.
    ///
    /// # Errors
    /// The device cannot be reset alone.
    pub fn reset(&self) -> Result<(), NotResettable> {
        self.ops().reset()
    }

    /// `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO`: the devices that [`hot_reset`](Self::hot_reset) resets, this one included, by
    /// name. Takes the lock of the device set.
    pub fn hot_reset_devices(&self) -> Vec<Arc<str>> {
        let set = self.0.device.lock_set();
        let registered = set.members().map(|member| member.name().clone());
        let mut names: Vec<_> = registered.chain(self.ops().reset_with()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// `VFIO_DEVICE_PCI_HOT_RESET`: resets all devices that are reset together, whoever has them open. So whoever asks
    /// shows that their groups are his (V55).
    ///
    /// # Errors
    /// A device of them is not registered with VFIO, or its group is not among `groups`. Nothing was reset.
    pub fn hot_reset(&self, groups: &[&GroupFile]) -> Result<(), HotResetError> {
        let set = self.0.device.lock_set();
        let members: Vec<_> = set.members().collect();
        if let Some(stranger) =
            self.ops().reset_with().into_iter().find(|name| members.iter().all(|member| member.name() != name))
        {
            return Err(HotResetError::NotRegistered { device: stranger });
        }
        let shown = |device: &VfioDevice| groups.iter().any(|file| file.is_of(device.group()));
        if let Some(foreign) = members.iter().find(|member| !shown(member)) {
            return Err(HotResetError::NotOwned { device: foreign.name().clone(), group: foreign.group().id() });
        }
        for member in members {
            member.ops().hot_reset();
        }
        Ok(())
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        let mut state = self.device.group().state.lock();
        let mut set = self.device.lock_set();
        let last = set.close(&self.device);
        if last.is_some() {
            self.device.ops().close();
        }
        drop(set);
        if let (Some(Through::Container { .. }), Some(Attachment::Container { devices, .. })) =
            (&last, &mut state.attachment)
        {
            *devices -= 1;
        }
        drop(state);
        // Perhaps the last reference to the group's file, whose release takes the locks anew (V31).
        drop(last);
    }
}
