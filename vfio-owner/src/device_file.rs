//! Open devices.

use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::Member;
use iommu_core::device_model::sync::UserGuard;
use iommu_core::device_model::sync::atomic::{AtomicBool, Ordering};

use crate::device::{OpenDevices, Through, VfioDevice};
use crate::device_ops::{
    DeviceInfo, DeviceOps, IrqAction, IrqError, IrqIndex, IrqInfo, IrqSource, NotResettable, RegionError, RegionIndex,
    RegionInfo,
};
use crate::error::{GetDeviceError, HotResetError, NotBound};
use crate::group::{Attachment, GroupFile, GroupState, OpenGroup};

#[cfg(feature = "iommufd")]
mod iommufd;

/// An open device.
///
/// While it is, unbinding its driver waits (V13, V15). A clone is the same open file, as a mapping of one of its regions
/// is in Linux. Dropping the last clone closes it: with the last file of the device the driver makes it quiet first, and
/// its ownership goes last (V30).
///
/// One that was opened through its group answers at once; one that was opened alone, once it is bound to an iommufd (V10).
#[derive(Clone, Debug)]
pub struct DeviceFile(Arc<OpenDevice>);

#[derive(Debug)]
struct OpenDevice {
    device: Arc<VfioDevice>,
    #[cfg(feature = "iommufd")]
    path: Path,
    /// Whether it answers.
    granted: AtomicBool,
    /// Leaves after everything else is given back.
    _user: UserGuard,
}

/// Through what a file came about.
#[cfg(feature = "iommufd")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Group,
    Alone,
}

impl DeviceFile {
    /// Table Vt6 from row 5 on.
    pub(crate) fn open_in_group(
        file: &Arc<OpenGroup>,
        device: Arc<VfioDevice>,
        user: UserGuard,
    ) -> Result<Self, GetDeviceError> {
        let mut state = device.group().state.lock();
        if state.attachment.is_none() {
            return Err(GetDeviceError::NoContainer { group: device.group().id() });
        }
        let mut set = device.lock_set();
        if let Some(open) = set.get_mut(&device) {
            open.count += 1;
        } else {
            open_first(file, &device, &mut state, &mut set)?;
        }
        drop(set);
        drop(state);
        Ok(Self(Arc::new(OpenDevice {
            device,
            #[cfg(feature = "iommufd")]
            path: Path::Group,
            granted: AtomicBool::new(true),
            _user: user,
        })))
    }

    /// The name of the device.
    pub fn name(&self) -> &Arc<str> {
        self.0.device.name()
    }

    /// The device in its IOMMU group.
    pub fn member(&self) -> &Arc<Member> {
        self.0.device.member()
    }

    fn ops(&self) -> Result<&dyn DeviceOps, NotBound> {
        if self.0.granted.load(Ordering::Acquire) {
            Ok(&**self.0.device.ops())
        } else {
            Err(NotBound { device: self.name().clone() })
        }
    }

    /// `VFIO_DEVICE_GET_INFO`.
    ///
    /// # Errors
    /// It is bound to no iommufd yet.
    pub fn info(&self) -> Result<DeviceInfo, NotBound> {
        Ok(self.ops()?.info())
    }

    /// `VFIO_DEVICE_GET_REGION_INFO`; `None` without such a region, or before it is bound (`EINVAL`).
    pub fn region(&self, index: RegionIndex) -> Option<RegionInfo> {
        self.ops().ok()?.region(index)
    }

    /// Reads from a region; how many bytes.
    ///
    /// # Errors
    /// As for [`DeviceOps::read`]; no region is there before it is bound.
    pub fn read(&self, index: RegionIndex, offset: u64, into: &mut [u8]) -> Result<usize, RegionError> {
        self.ops().map_err(|_| RegionError::NoSuchRegion { index })?.read(index, offset, into)
    }

    /// Writes to a region; how many bytes.
    ///
    /// # Errors
    /// As for [`DeviceOps::write`]; no region is there before it is bound.
    pub fn write(&self, index: RegionIndex, offset: u64, from: &[u8]) -> Result<usize, RegionError> {
        self.ops().map_err(|_| RegionError::NoSuchRegion { index })?.write(index, offset, from)
    }

    /// `VFIO_DEVICE_GET_IRQ_INFO`; `None` without such interrupts, or before it is bound (`EINVAL`).
    pub fn irq(&self, index: IrqIndex) -> Option<IrqInfo> {
        self.ops().ok()?.irq(index)
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
        self.ops().map_err(|_| IrqError::NotOpen)?.set_irqs(index, start, action, source)
    }

    /// `VFIO_DEVICE_RESET`.
    ///
    /// # Errors
    /// The device cannot be reset alone, or is not bound yet.
    pub fn reset(&self) -> Result<(), NotResettable> {
        self.ops().map_err(|_| NotResettable)?.reset()
    }

    /// `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO`: the devices that [`hot_reset`](Self::hot_reset) resets, this one included, by
    /// name. Takes the lock of the device set.
    pub fn hot_reset_devices(&self) -> Vec<Arc<str>> {
        let set = self.0.device.lock_set();
        let registered = set.members().map(|member| member.name().clone());
        let mut names: Vec<_> = registered.chain(self.0.device.ops().reset_with()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// `VFIO_DEVICE_PCI_HOT_RESET`: resets all devices that are reset together, whoever has them open. So whoever asks
    /// shows that they are his: by the files of their groups, or, for a file that is bound to an iommufd, by having a
    /// device of each group bound there (V55).
    ///
    /// # Errors
    /// A device of them is not registered with VFIO, or was not shown. Nothing was reset.
    pub fn hot_reset(&self, groups: &[&GroupFile]) -> Result<(), HotResetError> {
        let mut set = self.0.device.lock_set();
        let members: Vec<_> = set.members().collect();
        let peers = self.0.device.ops().reset_with();
        if let Some(stranger) = peers.into_iter().find(|name| members.iter().all(|member| member.name() != name)) {
            return Err(HotResetError::NotRegistered { device: stranger });
        }
        for member in &members {
            let shown = groups.iter().any(|file| file.is_of(member.group())) || self.owns(&mut set, member);
            if !shown {
                return Err(HotResetError::NotOwned { device: member.name().clone(), group: member.group().id() });
            }
        }
        for member in members {
            member.ops().hot_reset();
        }
        Ok(())
    }

    /// Whether the iommufd that this file is bound to has a device of `other`'s group.
    fn owns(&self, set: &mut OpenDevices, other: &VfioDevice) -> bool {
        match set.get_mut(&self.0.device).map(|open| &open.through) {
            #[cfg(feature = "iommufd")]
            Some(Through::Iommufd(bound)) if self.0.path == Path::Alone => bound.context().owns(other.member().group()),
            _ => {
                let _ = other;
                false
            }
        }
    }
}

/// The first open of a device through its group.
fn open_first(
    file: &Arc<OpenGroup>,
    device: &Arc<VfioDevice>,
    state: &mut GroupState,
    set: &mut OpenDevices,
) -> Result<(), GetDeviceError> {
    let group = device.group().id();
    let refused = |errno| GetDeviceError::Driver { device: device.name().clone(), errno };
    match &mut state.attachment {
        Some(Attachment::Container { container, devices }) => {
            if !container.has_iommu() {
                return Err(GetDeviceError::NoIommu { group });
            }
            device.ops().open().map_err(refused)?;
            *devices += 1;
            set.add(device, Through::Container { _keeps: file.clone() });
            Ok(())
        }
        #[cfg(feature = "iommufd")]
        Some(Attachment::Iommufd(context)) => {
            let bound = context.bind(device.member()).map_err(GetDeviceError::Bind)?;
            device.ops().open().map_err(refused)?;
            let ioas = context.compat_ioas().ok_or(GetDeviceError::NoIoas { group });
            let attached = ioas.and_then(|ioas| bound.attach(ioas).map_err(GetDeviceError::Attach));
            if let Err(error) = attached {
                device.ops().close();
                return Err(error);
            }
            set.add(device, Through::Iommufd(bound));
            Ok(())
        }
        None => Err(GetDeviceError::NoContainer { group }),
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        #[cfg(feature = "iommufd")]
        if self.path == Path::Alone {
            self.close_alone();
            return;
        }
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
