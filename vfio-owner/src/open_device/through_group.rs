//! Devices that are opened through their groups.

use alloc::string::String;
use alloc::sync::Arc;

use iommu_core::GroupId;
use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::{MutexGuard, UserGuard};

use super::{OpenDevice, Session, Way};
use crate::device::{Occupant, OpenDevices, Reservation, VfioDevice};
use crate::group::{Attachment, InUse, OpenGroup};

/// A device is open through its group, once or more often.
// V9.
#[derive(Debug)]
pub(crate) struct ThroughGroup {
    #[cfg_attr(not(feature = "iommufd"), expect(dead_code, reason = "kept until the device is quiet"))]
    through: Through,
    reservation: Reservation,
    _user: UserGuard,
}

/// What the group was in.
#[derive(Debug)]
enum Through {
    /// A container. The group's file stays open with the device.
    // V7.
    Container { _in_use: InUse, _keeps: Arc<OpenGroup> },
    /// An iommufd in the container's place: one claim for the device.
    #[cfg(feature = "iommufd")]
    Iommufd { claim: Arc<iommufd_owner::BoundDevice> },
    /// An iommufd in no-IOMMU mode, which claims nothing.
    // V35.
    #[cfg(feature = "iommufd")]
    NoIommu,
}

impl Way for ThroughGroup {
    fn reservation(&self) -> &Reservation {
        &self.reservation
    }

    #[cfg(feature = "iommufd")]
    fn shown_by(&self) -> Option<&iommufd_owner::Context> {
        None
    }

    #[cfg(feature = "iommufd")]
    fn bound(&self) -> Option<&iommufd_owner::BoundDevice> {
        match &self.through {
            Through::Container { .. } | Through::NoIommu => None,
            Through::Iommufd { claim } => Some(claim),
        }
    }
}

impl OpenDevice {
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
                break first.open(device, user)?;
            };
            if let Occupant::Group(session) = occupant
                && let Some(session) = session.upgrade()
            {
                break session;
            }
            drop(state);
            device.wait_for_change(set);
        };
        Ok(Self::new(session))
    }
}

/// The first file of a device through its group: the device is reserved, and what it will be open through is known.
enum First {
    Container {
        through: Through,
        reservation: Reservation,
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
            Attachment::Container(contained) => {
                if !contained.container().has_iommu() {
                    return Err(GetDeviceError::NoIommu { group: device.group().id() });
                }
                let through = Through::Container { _in_use: file.group().in_use.clone(), _keeps: file.clone() };
                Ok(Self::Container { through, reservation: device.reserve(&mut set) })
            }
            #[cfg(feature = "iommufd")]
            Attachment::Iommufd(context) => {
                Ok(Self::Iommufd { context: context.clone(), reservation: device.reserve(&mut set) })
            }
        }
    }

    /// With no lock held. What fails frees the device again.
    fn open(self, device: &Arc<VfioDevice>, user: UserGuard) -> Result<Arc<Session<ThroughGroup>>, GetDeviceError> {
        let refused = |errno| GetDeviceError::Driver { device: device.name().clone(), errno };
        let session = match self {
            Self::Container { through, reservation } => {
                Session::open(ThroughGroup { through, reservation, _user: user }).map_err(refused)?
            }
            #[cfg(feature = "iommufd")]
            Self::Iommufd { context, reservation } => {
                let Some(member) = device.member() else {
                    return Self::open_without_iommu(device, &context, reservation, user);
                };
                let bound = Arc::new(context.bind(member).map_err(GetDeviceError::Bind)?);
                let way = ThroughGroup { through: Through::Iommufd { claim: bound.clone() }, reservation, _user: user };
                let session = Session::open(way).map_err(refused)?;
                let ioas = context.compat_ioas().ok_or(GetDeviceError::NoIoas { group: device.group().id() });
                let attached = ioas.and_then(|ioas| bound.attach(ioas).map_err(GetDeviceError::Attach));
                drop(bound);
                attached.map(|_| session)?
            }
        };
        Ok(Self::opened(session))
    }

    // Vt6.6, V35.
    #[cfg(feature = "iommufd")]
    fn open_without_iommu(
        device: &Arc<VfioDevice>,
        context: &iommufd_owner::Context,
        reservation: Reservation,
        user: UserGuard,
    ) -> Result<Arc<Session<ThroughGroup>>, GetDeviceError> {
        if context.compat_ioas().is_some() {
            return Err(GetDeviceError::Mixed { group: device.group().id() });
        }
        let refused = |errno| GetDeviceError::Driver { device: device.name().clone(), errno };
        let way = ThroughGroup { through: Through::NoIommu, reservation, _user: user };
        Ok(Self::opened(Session::open(way).map_err(refused)?))
    }

    fn opened(session: Session<ThroughGroup>) -> Arc<Session<ThroughGroup>> {
        let session = Arc::new(session);
        session.way.reservation.occupy(Occupant::Group(Arc::downgrade(&session)));
        session
    }
}

/// Why a device was not opened.
// Table Vt6.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GetDeviceError {
    /// No device of that name in the group is bound to a VFIO driver, or it is being unbound.
    #[error("group {group} has no device {device} that is bound to a VFIO driver")]
    NoDevice {
        /// The group.
        group: GroupId,
        /// The name.
        device: String,
    },
    /// The driver does not accept what follows the name.
    // Vt6.3.
    #[error("the driver of {device} does not accept what follows its name ({errno})")]
    Name {
        /// The device.
        device: Arc<str>,
        /// The driver's error.
        errno: Errno,
    },
    /// The group has no container.
    #[error("group {group} has no container")]
    NoContainer {
        /// The group.
        group: GroupId,
    },
    /// The group's container has no IOMMU.
    #[error("the container of group {group} has no IOMMU set")]
    NoIommu {
        /// The group.
        group: GroupId,
    },
    /// The iommufd refuses to bind the device.
    // Vt6.10.
    #[cfg(feature = "iommufd")]
    #[error(transparent)]
    Bind(iommufd_owner::BindError),
    /// The iommufd has no compatibility address space.
    // Vt6.12.
    #[cfg(feature = "iommufd")]
    #[error("the iommufd of group {group} has no compatibility address space")]
    NoIoas {
        /// The group.
        group: GroupId,
    },
    /// The device has no IOMMU, and the iommufd has a compatibility address space.
    // Vt6.6.
    #[cfg(feature = "iommufd")]
    #[error("the devices of group {group} have no IOMMU, and its iommufd has an address space")]
    Mixed {
        /// The group.
        group: GroupId,
    },
    /// The device cannot be attached to the compatibility address space.
    // Vt6.13.
    #[cfg(feature = "iommufd")]
    #[error(transparent)]
    Attach(iommufd_owner::AttachError),
    /// The driver refuses to open the device.
    #[error("the driver of {device} refuses to open it ({errno})")]
    Driver {
        /// The device.
        device: Arc<str>,
        /// The driver's error.
        errno: Errno,
    },
}

impl GetDeviceError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoDevice { .. } => Errno::ENODEV,
            Self::NoContainer { .. } | Self::NoIommu { .. } => Errno::EINVAL,
            #[cfg(feature = "iommufd")]
            Self::Bind(error) => error.errno(),
            #[cfg(feature = "iommufd")]
            Self::Mixed { .. } => Errno::EPERM,
            #[cfg(feature = "iommufd")]
            Self::NoIoas { .. } => Errno::ENODEV,
            #[cfg(feature = "iommufd")]
            Self::Attach(error) => error.errno(),
            Self::Driver { errno, .. } | Self::Name { errno, .. } => *errno,
        }
    }
}
