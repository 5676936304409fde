//! Open devices: access to regions and interrupts, and reset.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::{MutexGuard, UserGuard};
use iommu_core::{Group, Member};

use crate::device::{Occupant, OpenDevices, Reservation, VfioDevice};
use crate::device_ops::{
    DeviceInfo, DeviceOps, IrqAction, IrqError, IrqIndex, IrqInfo, IrqSource, RegionError, RegionIndex, RegionInfo,
    ResetError,
};
use crate::error::{GetDeviceError, HotResetError};
use crate::group::{Attachment, GroupFile, InUse, OpenGroup};

/// An open device, whose DMA the user owns: opened through its group, or through its own file, which is bound to an
/// iommufd.
///
/// Unbinding its driver waits until it is closed. A clone is the same open file. Dropping the last clone closes the
/// file. With the last file of the device the driver's [`close`](DeviceOps::close) is called, with no lock held, and
/// its DMA ownership is released last.
#[derive(Clone, Debug)]
pub struct OpenDevice(Arc<OpenFile>);

#[derive(Debug)]
struct OpenFile {
    session: Arc<Session<dyn Way>>,
    /// Leaves after everything else is given back.
    _user: Arc<UserGuard>,
}

/// From the driver's `open` of a device to its `close`, and then until nothing is left of its user.
#[derive(Debug)]
pub(crate) struct Session<W: Way + ?Sized> {
    pub(crate) device: Arc<VfioDevice>,
    pub(crate) way: W,
}

/// How a device came to be open. What it keeps is given up once the device is quiet, its [`Reservation`] last.
// V30.
pub(crate) trait Way: Send + Sync + fmt::Debug {
    /// Whether the user owns `group`, if this way of opening can tell; `None` if the user must pass the group's file.
    // V55.
    fn owns(&self, group: &Group) -> Option<bool>;
}

/// A device is open through its group, once or more often.
// V9.
#[derive(Debug)]
pub(crate) struct ThroughGroup {
    _attachment: Through,
    reservation: Reservation,
}

/// What the group was in.
#[derive(Debug)]
enum Through {
    /// A container. The group's file stays open with the device.
    // V7.
    Container { _in_use: InUse, _keeps: Arc<OpenGroup> },
    /// An iommufd in the container's place: one claim for the device.
    #[cfg(feature = "iommufd")]
    Iommufd { _claim: Arc<iommufd_owner::BoundDevice> },
}

impl Way for ThroughGroup {
    fn owns(&self, _group: &Group) -> Option<bool> {
        None
    }
}

impl<W: Way> Session<W> {
    /// Has the driver open the device. No lock is held.
    pub(crate) fn open(device: &Arc<VfioDevice>, way: W) -> Result<Self, Errno> {
        device.ops().open()?;
        Ok(Self { device: device.clone(), way })
    }
}

impl<W: Way + ?Sized> Drop for Session<W> {
    fn drop(&mut self) {
        self.device.ops().close();
    }
}

impl OpenDevice {
    pub(crate) fn new(session: Arc<Session<dyn Way>>, user: Arc<UserGuard>) -> Self {
        Self(Arc::new(OpenFile { session, _user: user }))
    }

    /// Opens the device through its group, or adds a file to it if it is open that way.
    pub(crate) fn through_group(
        file: &Arc<OpenGroup>,
        device: &Arc<VfioDevice>,
        user: UserGuard,
    ) -> Result<Self, GetDeviceError> {
        let session = loop {
            let state = device.group().state.lock();
            let set = device.lock_set();
            let group = device.group().id();
            let attachment = state.attachment.as_ref().ok_or(GetDeviceError::NoContainer { group })?;
            let Some(occupant) = set.occupant(device) else {
                let first = First::of(attachment, file, device, set)?;
                drop(state);
                break first.open(device)?;
            };
            if let Occupant::Group(session) = occupant
                && let Some(session) = session.upgrade()
            {
                break session;
            }
            drop(state);
            device.wait_for_change(set);
        };
        Ok(Self::new(session, Arc::new(user)))
    }

    fn device(&self) -> &VfioDevice {
        &self.0.session.device
    }

    fn ops(&self) -> &dyn DeviceOps {
        &**self.device().ops()
    }

    /// Returns the name of the device.
    pub fn name(&self) -> &Arc<str> {
        self.device().name()
    }

    /// Returns the device in its IOMMU group.
    pub fn member(&self) -> &Arc<Member> {
        self.device().member()
    }

    /// Returns the description of the device: `VFIO_DEVICE_GET_INFO`.
    pub fn info(&self) -> DeviceInfo {
        self.ops().info()
    }

    /// Returns the description of a region, or `None` without such a region (`EINVAL`): `VFIO_DEVICE_GET_REGION_INFO`.
    pub fn region(&self, index: RegionIndex) -> Option<RegionInfo> {
        self.ops().region(index)
    }

    /// Reads from a region. Returns how many bytes were read.
    ///
    /// # Errors
    /// Fails as [`DeviceOps::read`] does.
    pub fn read(&self, index: RegionIndex, offset: u64, into: &mut [u8]) -> Result<usize, RegionError> {
        self.ops().read(index, offset, into)
    }

    /// Writes to a region. Returns how many bytes were written.
    ///
    /// # Errors
    /// Fails as [`DeviceOps::write`] does.
    pub fn write(&self, index: RegionIndex, offset: u64, from: &[u8]) -> Result<usize, RegionError> {
        self.ops().write(index, offset, from)
    }

    /// Returns the description of an interrupt index, or `None` without such an index (`EINVAL`):
    /// `VFIO_DEVICE_GET_IRQ_INFO`.
    pub fn irq(&self, index: IrqIndex) -> Option<IrqInfo> {
        self.ops().irq(index)
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
        self.ops().set_irqs(index, start, action, source)
    }

    /// Resets the device: `VFIO_DEVICE_RESET`.
    ///
    /// # Errors
    /// Fails if the device cannot be reset alone, or its driver is being unbound.
    pub fn reset(&self) -> Result<(), ResetError> {
        self.ops().reset()
    }

    /// Returns the names of the devices that [`hot_reset`](Self::hot_reset) resets, this one included:
    /// `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO`. Takes the lock of the device set for a moment.
    pub fn hot_reset_devices(&self) -> Vec<Arc<str>> {
        let members: Vec<_> = self.device().lock_set().members().collect();
        let mut names: Vec<_> =
            members.iter().map(|member| member.name().clone()).chain(self.ops().reset_with()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Resets all devices that are reset together, whoever has them open: `VFIO_DEVICE_PCI_HOT_RESET`. The caller
    /// proves ownership of every affected group: by passing the groups' files, or, for a file that is bound to an
    /// iommufd, by having a device of each group bound there; it then passes no files.
    ///
    /// # Errors
    /// Fails if one of the devices is not registered with VFIO or its ownership was not proved, or if group files are
    /// passed where none are allowed. Nothing was reset.
    pub fn hot_reset(&self, groups: &[&GroupFile]) -> Result<(), HotResetError> {
        let way = &self.0.session.way;
        if !groups.is_empty() && way.owns(self.member().group()).is_some() {
            return Err(HotResetError::WrongList { device: self.name().clone() });
        }
        let members: Vec<_> = self.device().lock_set().members().collect();
        let peers = self.ops().reset_with();
        if let Some(stranger) = peers.into_iter().find(|name| members.iter().all(|member| member.name() != name)) {
            return Err(HotResetError::NotRegistered { device: stranger });
        }
        for member in &members {
            let shown = way.owns(member.member().group());
            if !shown.unwrap_or_else(|| groups.iter().any(|file| file.is_of(member.group()))) {
                return Err(HotResetError::NotOwned { device: member.name().clone(), group: member.group().id() });
            }
        }
        for member in members {
            member.ops().hot_reset();
        }
        Ok(())
    }
}

/// The first file of a device through its group: the device is reserved, and what it will be open through is known.
enum First {
    Container {
        way: ThroughGroup,
    },
    #[cfg(feature = "iommufd")]
    Iommufd {
        context: iommufd_owner::Context,
        reservation: Reservation,
    },
}

impl First {
    fn of(
        attachment: &Attachment,
        file: &Arc<OpenGroup>,
        device: &Arc<VfioDevice>,
        mut set: MutexGuard<'_, OpenDevices>,
    ) -> Result<Self, GetDeviceError> {
        match attachment {
            Attachment::Container { container, in_use } => {
                if !container.has_iommu() {
                    return Err(GetDeviceError::NoIommu { group: device.group().id() });
                }
                Ok(Self::Container {
                    way: ThroughGroup {
                        _attachment: Through::Container { _in_use: in_use.clone(), _keeps: file.clone() },
                        reservation: device.reserve(&mut set),
                    },
                })
            }
            #[cfg(feature = "iommufd")]
            Attachment::Iommufd(context) => {
                Ok(Self::Iommufd { context: context.clone(), reservation: device.reserve(&mut set) })
            }
        }
    }

    /// With no lock held. What fails frees the device again.
    fn open(self, device: &Arc<VfioDevice>) -> Result<Arc<Session<ThroughGroup>>, GetDeviceError> {
        let refused = |errno| GetDeviceError::Driver { device: device.name().clone(), errno };
        let session = match self {
            Self::Container { way } => Session::open(device, way).map_err(refused)?,
            #[cfg(feature = "iommufd")]
            Self::Iommufd { context, reservation } => {
                let bound = Arc::new(context.bind(device.member()).map_err(GetDeviceError::Bind)?);
                let way = ThroughGroup { _attachment: Through::Iommufd { _claim: bound.clone() }, reservation };
                let session = Session::open(device, way).map_err(refused)?;
                let ioas = context.compat_ioas().ok_or(GetDeviceError::NoIoas { group: device.group().id() });
                let attached = ioas.and_then(|ioas| bound.attach(ioas).map_err(GetDeviceError::Attach));
                drop(bound);
                attached.map(|_| session)?
            }
        };
        let session = Arc::new(session);
        session.way.reservation.occupy(Occupant::Group(Arc::downgrade(&session)));
        Ok(session)
    }
}
