//! Device files (cdev): VFIO devices that are used through an iommufd.
// Table Vt11 to V36.

use alloc::string::String;
use alloc::sync::Arc;
use core::ops::Deref;

use iommu_core::GroupId;
use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::{Mutex, UserGuard};
use iommufd_owner::{BoundDevice, Context, ObjectId};

use crate::device::{Occupant, Reservation, VfioDevice};
use crate::group::DeviceFileUse;
use crate::open_device::{OpenDevice, Session, Way};

/// An open `/dev/vfio/devices/vfioX`. Gives no access to the device until it is bound to an iommufd.
///
/// A clone is the same open file. While it is open, unbinding the device's driver waits, even if the file was never
/// bound.
#[derive(Clone, Debug)]
pub struct DeviceFile(Arc<File>);

#[derive(Debug)]
struct File {
    device: Arc<VfioDevice>,
    /// Leaf lock.
    bound: Mutex<Option<BoundDeviceFile>>,
    user: UserGuard,
}

/// A [`DeviceFile`] that is bound to an iommufd. Gives access to the device, which stays open while this exists.
#[derive(Clone, Debug)]
pub struct BoundDeviceFile {
    session: Arc<Session<DeviceFileWay>>,
    open: OpenDevice,
}

/// A device is open through a file of its own.
#[derive(Debug)]
pub(crate) struct DeviceFileWay {
    bound: BoundDevice,
    reservation: Reservation,
    _group: DeviceFileUse,
    _user: UserGuard,
}

impl Way for DeviceFileWay {
    fn reservation(&self) -> &Reservation {
        &self.reservation
    }

    fn shown_by(&self) -> Option<&Context> {
        Some(self.bound.context())
    }

    fn bound(&self) -> Option<&BoundDevice> {
        Some(&self.bound)
    }
}

impl DeviceFile {
    pub(crate) fn open(device: Arc<VfioDevice>, user: UserGuard) -> Self {
        Self(Arc::new(File { device, bound: Mutex::new(None), user }))
    }

    /// Returns the name of the device.
    pub fn name(&self) -> &Arc<str> {
        self.0.device.name()
    }

    /// Returns the number N of `/dev/vfio/devices/vfioN`.
    pub fn number(&self) -> u32 {
        self.0.device.number()
    }

    /// Binds the device to an iommufd: `VFIO_DEVICE_BIND_IOMMUFD`. Claims the device's group for the context, for this
    /// device, and opens the device. Only one file of a device can be bound, until it is closed. Waits while the device
    /// is being closed.
    ///
    /// # Errors
    /// Fails if the group's file is open, the device is bound already, its driver refuses, or the claim is refused.
    /// Nothing has changed.
    pub fn bind_iommufd(&self, context: &Context) -> Result<BoundDeviceFile, BindIommufdError> {
        self.begin_bind()?.to(context)
    }

    /// Begins to bind: with what does not depend on the iommufd.
    // Vt11.4, Vt11.6.
    pub(crate) fn begin_bind(&self) -> Result<Binding<'_>, BindIommufdError> {
        let device = &self.0.device;
        let group = device.group().use_device_file(device.name())?;
        if self.0.bound.lock().is_some() {
            return Err(BindIommufdError::Bound { device: device.name().clone() });
        }
        Ok(Binding { file: self, group })
    }

    /// Undoes a bind whose caller cannot be told of it.
    // Vt11.12.
    #[cfg(feature = "uapi")]
    pub(crate) fn undo_bind(&self, bound: BoundDeviceFile) {
        let kept = self.0.bound.lock().take_if(|kept| Arc::ptr_eq(&kept.session, &bound.session));
        drop((kept, bound));
    }

    /// Returns access to the device.
    ///
    /// # Errors
    /// Fails if the file is not bound to an iommufd yet.
    pub fn bound(&self) -> Result<BoundDeviceFile, NotBound> {
        self.0.bound.lock().clone().ok_or_else(|| NotBound { device: self.name().clone() })
    }
}

/// A file that is being bound: the group's file cannot be opened meanwhile.
pub(crate) struct Binding<'a> {
    file: &'a DeviceFile,
    group: DeviceFileUse,
}

impl Binding<'_> {
    // V34, Vt11.8 to Vt11.11.
    pub(crate) fn to(self, context: &Context) -> Result<BoundDeviceFile, BindIommufdError> {
        let file = &*self.file.0;
        let device = &file.device;
        let reservation = device.reserve_for_file()?;
        // Without an IOMMU group it has no file.
        let member = device.member().ok_or_else(|| BindIommufdError::Bound { device: device.name().clone() })?;
        let (bound, user) = (context.bind(member)?, file.user.clone());
        let way = DeviceFileWay { bound, reservation, _group: self.group, _user: user };
        let refused = |errno| BindIommufdError::Driver { device: device.name().clone(), errno };
        let session = Arc::new(Session::open(way).map_err(refused)?);
        let bound = BoundDeviceFile { open: OpenDevice::new(session.clone()), session };
        *file.bound.lock() = Some(bound.clone());
        bound.session.way.reservation.occupy(Occupant::DeviceFile(Arc::downgrade(&bound.session)));
        Ok(bound)
    }
}

impl VfioDevice {
    /// Reserves the device for a file of its own, once nobody is closing it.
    fn reserve_for_file(self: &Arc<Self>) -> Result<Reservation, BindIommufdError> {
        loop {
            let mut set = self.lock_set();
            let taken = match set.occupant(self) {
                None => return Ok(self.reserve(&mut set)),
                Some(Occupant::Changing) => false,
                Some(Occupant::Group(session)) => session.strong_count() > 0,
                Some(Occupant::DeviceFile(session)) => session.strong_count() > 0,
            };
            if taken {
                return Err(BindIommufdError::Bound { device: self.name().clone() });
            }
            self.wait_for_change(set);
        }
    }
}

impl BoundDeviceFile {
    fn device(&self) -> &BoundDevice {
        &self.session.way.bound
    }

    /// Returns the device's id in the iommufd.
    pub fn iommufd_id(&self) -> ObjectId {
        self.device().id()
    }

    /// Attaches the device to an address space or a page table, or replaces its present one atomically:
    /// `VFIO_DEVICE_ATTACH_IOMMUFD_PT`. Returns the page table's id.
    ///
    /// # Errors
    /// Fails if there is no such object, or the device cannot be attached to it. Nothing has changed.
    pub fn attach_iommufd_pt(&self, to: ObjectId) -> Result<ObjectId, AttachPtError> {
        // Vt12.
        let bound = self.device();
        Ok(if bound.is_attached() { bound.replace(to) } else { bound.attach(to) }?)
    }

    /// Detaches the device: `VFIO_DEVICE_DETACH_IOMMUFD_PT`. Does nothing if it is not attached.
    pub fn detach_iommufd_pt(&self) {
        // V59.
        self.device().detach();
    }
}

impl Deref for BoundDeviceFile {
    type Target = OpenDevice;

    fn deref(&self) -> &OpenDevice {
        &self.open
    }
}

/// Why the file of a device could not be opened.
// V58.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenDeviceError {
    /// The device is not bound to a VFIO driver, or is being unbound.
    #[error("{device} is not bound to a VFIO driver, so it has no file")]
    NoFile {
        /// The name of the device.
        device: String,
    },
}

impl OpenDeviceError {
    /// Returns `ENOENT`.
    pub const fn errno(&self) -> Errno {
        Errno::ENOENT
    }
}

/// Why a device file was not bound to an iommufd.
// Table Vt11.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindIommufdError {
    /// The file of the device's group is open, even if unused.
    #[error("the file of group {group} is open")]
    GroupOpen {
        /// The group.
        group: GroupId,
    },
    /// This or another file of the device is bound already.
    #[error("{device} is bound already")]
    Bound {
        /// The device.
        device: Arc<str>,
    },
    /// The iommufd refuses to bind the device; the error names who prevents it.
    #[error(transparent)]
    Bind(#[from] iommufd_owner::BindError),
    /// The driver refuses to open the device.
    #[error("the driver of {device} refuses to open it ({errno})")]
    Driver {
        /// The device.
        device: Arc<str>,
        /// The driver's error.
        errno: Errno,
    },
}

impl BindIommufdError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Bound { .. } => Errno::EINVAL,
            Self::GroupOpen { .. } => Errno::EBUSY,
            Self::Bind(error) => error.errno(),
            Self::Driver { errno, .. } => *errno,
        }
    }
}

/// Why a device file was not attached.
// Table Vt12.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachPtError {
    /// The iommufd refuses.
    #[error(transparent)]
    Attach(#[from] iommufd_owner::AttachError),
}

impl AttachPtError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Attach(error) => error.errno(),
        }
    }
}

/// The device file is not bound to an iommufd yet, so it gives no access.
// V10.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the file of {device} is not bound to an iommufd")]
pub struct NotBound {
    /// The device.
    pub device: Arc<str>,
}

impl NotBound {
    /// Returns `EINVAL`.
    pub const fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}
