//! A device's own file, which an iommufd makes usable (table Vt11 to V36).

use alloc::sync::Arc;

use iommu_core::device_model::sync::UserGuard;
use iommu_core::device_model::sync::atomic::{AtomicBool, Ordering};
use iommufd_owner::{BoundDevice, Context, ObjectId};

use super::{DeviceFile, OpenDevice, Path};
use crate::device::{Through, VfioDevice};
use crate::error::{AttachPtError, BindIommufdError, NotBound};
use crate::group::VfioGroup;

impl DeviceFile {
    pub(crate) fn open_alone(device: Arc<VfioDevice>, user: UserGuard) -> Self {
        Self(Arc::new(OpenDevice { device, path: Path::Alone, granted: AtomicBool::new(false), _user: user }))
    }

    /// `VFIO_DEVICE_BIND_IOMMUFD`: claims the device's group for the context, for this device; the device's id there. One
    /// file of a device is bound at a time (V34), until it is closed.
    ///
    /// # Errors
    /// The file came through the group, the group's file is open, the device is bound, or the context does not get it.
    /// Nothing has changed.
    pub fn bind_iommufd(&self, context: &Context) -> Result<ObjectId, BindIommufdError> {
        let device = &self.0.device;
        if self.0.path == Path::Group {
            return Err(BindIommufdError::ThroughGroup { device: device.name().clone() });
        }
        {
            let mut state = device.group().state.lock();
            if VfioGroup::is_open(&state) {
                return Err(BindIommufdError::GroupOpen { group: device.group().id() });
            }
            state.device_files.push(device.name().clone());
        }
        self.bind_first(context).inspect_err(|_| self.0.unblock_group())
    }

    fn bind_first(&self, context: &Context) -> Result<ObjectId, BindIommufdError> {
        let device = &self.0.device;
        let mut set = device.lock_set();
        if set.get_mut(device).is_some() {
            return Err(BindIommufdError::Bound { device: device.name().clone() });
        }
        let bound = context.bind(device.member())?;
        device.ops().open().map_err(|errno| BindIommufdError::Driver { device: device.name().clone(), errno })?;
        let id = bound.id();
        set.add(device, Through::Iommufd(bound));
        self.0.granted.store(true, Ordering::Release);
        Ok(id)
    }

    /// Runs `call` on the device as it is bound by this file.
    fn bound<R>(&self, call: impl FnOnce(&BoundDevice) -> R) -> Result<R, AttachPtError> {
        let device = &self.0.device;
        if self.0.path == Path::Group {
            return Err(AttachPtError::ThroughGroup { device: device.name().clone() });
        }
        let not_bound = NotBound { device: device.name().clone() };
        if !self.0.granted.load(Ordering::Acquire) {
            return Err(not_bound.into());
        }
        let mut set = device.lock_set();
        match set.get_mut(device).map(|open| &open.through) {
            Some(Through::Iommufd(bound)) => Ok(call(bound)),
            _ => Err(not_bound.into()),
        }
    }

    /// The device's id in the iommufd that it is bound to.
    ///
    /// # Errors
    /// It is bound to none, or came through its group.
    pub fn iommufd_id(&self) -> Result<ObjectId, AttachPtError> {
        self.bound(BoundDevice::id)
    }

    /// `VFIO_DEVICE_ATTACH_IOMMUFD_PT`: attaches the device to an address space or a page table, or moves it there from
    /// another without a moment in between (table Vt12); the page table's id.
    ///
    /// # Errors
    /// It is not bound, came through its group, or the iommufd refuses. Nothing has changed.
    pub fn attach_iommufd_pt(&self, to: ObjectId) -> Result<ObjectId, AttachPtError> {
        let attached = self.bound(|bound| if bound.is_attached() { bound.replace(to) } else { bound.attach(to) })?;
        Ok(attached?)
    }

    /// `VFIO_DEVICE_DETACH_IOMMUFD_PT` (V59); nothing happens if it is not attached.
    ///
    /// # Errors
    /// It is not bound, or came through its group.
    pub fn detach_iommufd_pt(&self) -> Result<(), AttachPtError> {
        self.bound(BoundDevice::detach)
    }
}

impl OpenDevice {
    fn unblock_group(&self) {
        let mut state = self.device.group().state.lock();
        if let Some(place) = state.device_files.iter().position(|name| name == self.device.name()) {
            state.device_files.swap_remove(place);
        }
    }

    /// V36: one that never was bound just goes.
    pub(super) fn close_alone(&self) {
        if !self.granted.load(Ordering::Acquire) {
            return;
        }
        let mut set = self.device.lock_set();
        let last = set.close(&self.device);
        self.device.ops().close();
        drop(last);
        drop(set);
        self.unblock_group();
    }
}
