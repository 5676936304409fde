//! Open devices.

use alloc::sync::Arc;

use iommu_core::Member;
use iommu_core::device_model::sync::UserGuard;

use crate::device::{Through, VfioDevice};
use crate::error::GetDeviceError;
use crate::group::{Attachment, OpenGroup};

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
