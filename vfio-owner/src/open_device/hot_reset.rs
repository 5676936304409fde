//! Reset of all devices that are reset together.
// V54, V55, V86 to V92.

use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::GroupId;
use iommu_core::device_model::Errno;

use super::OpenDevice;
use crate::device::VfioDevice;
use crate::device_ops::{AffectedFunction, LinkState, NoHotReset};
use crate::group_file::GroupFile;

/// Answer of `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HotResetInfo {
    /// How the caller proves ownership of what is reset.
    pub proof: HotResetProof,
    /// The functions that are reset, this one included, in the order of the bus.
    pub functions: Vec<AffectedFunction>,
    /// Whose each of them is, in the same order.
    pub owners: Vec<AffectedOwner>,
}

/// How the caller of a hot reset proves ownership of what is reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HotResetProof {
    /// By passing the files of the groups: for a device that was opened through its group.
    Groups,
    /// By the iommufd to which the devices are bound: for a device file.
    Iommufd,
}

/// Whose a function is that a hot reset affects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AffectedOwner {
    /// Whoever has this group.
    Group(GroupId),
    /// The caller: bound to its iommufd as this object.
    #[cfg(feature = "iommufd")]
    Object(iommufd_owner::ObjectId),
    /// The caller: not bound, but its group is in use by the caller's iommufd.
    Owned,
    /// Somebody else, or a driver that is not of VFIO.
    NotOwned,
}

/// Why devices were not reset together.
// Table Vt27.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HotResetError {
    /// Group files were passed for a device file, or none for a device that was opened through its group.
    #[error("the owner of {device} is shown by {}", match proof {
        HotResetProof::Groups => "the files of the groups that are reset, of which none was passed",
        HotResetProof::Iommufd => "the iommufd that it is bound to: group files must not be passed",
    })]
    WrongList {
        /// The device.
        device: Arc<str>,
        /// What shows it.
        proof: HotResetProof,
    },
    /// The device is on a root bus.
    #[error("neither the slot nor the bus of {device} can be reset")]
    NoReset {
        /// The device.
        device: Arc<str>,
    },
    /// More group files were passed than functions are reset.
    #[error("{files} group files were passed for {functions} functions")]
    TooManyFiles {
        /// How many files.
        files: usize,
        /// How many functions.
        functions: usize,
    },
    /// One of the functions is in no IOMMU group, so its ownership cannot be shown.
    #[error("{device} would be reset as well, and is in no IOMMU group")]
    NoGroup {
        /// The device.
        device: Arc<str>,
    },
    /// One of them is not bound to a VFIO driver, so its ownership cannot be proved.
    #[error("{device} would be reset as well, and is not registered with VFIO")]
    NotRegistered {
        /// The device.
        device: Arc<str>,
    },
    /// The caller has not shown that it owns one of them.
    #[error("{device} would be reset as well, and nothing shows that group {group} is the caller's")]
    NotOwned {
        /// The device.
        device: Arc<str>,
        /// Its group.
        group: GroupId,
    },
    /// The driver of one of them is being unbound, which holds its device lock.
    #[error("{device} would be reset as well, and its driver is being unbound")]
    Leaving {
        /// The device.
        device: Arc<str>,
    },
    /// The devices were reset, but the link to them did not come back.
    // Vt27.12.
    #[error("the link to {device} did not come back after the reset")]
    LinkDown {
        /// The device.
        device: Arc<str>,
    },
}

impl HotResetError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::WrongList { .. } | Self::TooManyFiles { .. } | Self::NotRegistered { .. } | Self::NotOwned { .. } => {
                Errno::EINVAL
            }
            Self::NoReset { .. } => Errno::ENODEV,
            Self::NoGroup { .. } => Errno::EPERM,
            Self::Leaving { .. } => Errno::EAGAIN,
            Self::LinkDown { .. } => Errno::ENOTTY,
        }
    }
}

impl OpenDevice {
    /// Returns what a hot reset of the device resets, and whose it is: `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO`. Takes the
    /// lock of the device set for a moment.
    ///
    /// # Errors
    /// Fails if neither the slot nor the bus can be reset, or, for a device that was opened through its group, if one of
    /// the functions is in no IOMMU group.
    // V88, V89.
    pub fn hot_reset_info(&self) -> Result<HotResetInfo, HotResetError> {
        let functions = self.hot_reset_functions()?;
        let members: Vec<_> = self.device().lock_set().members().collect();
        let proof = self.hot_reset_proof();
        let owner = |function: &AffectedFunction| {
            let member = members.iter().find(|member| *member.name() == function.device);
            match proof {
                HotResetProof::Groups => {
                    let group = function.group.or_else(|| Some(member?.group().id()));
                    let group = group.ok_or_else(|| HotResetError::NoGroup { device: function.device.clone() })?;
                    Ok(AffectedOwner::Group(group))
                }
                HotResetProof::Iommufd => {
                    Ok(member.map_or(AffectedOwner::NotOwned, |member| self.owner_by_iommufd(member)))
                }
            }
        };
        let owners = functions.iter().map(owner).collect::<Result<_, _>>()?;
        Ok(HotResetInfo { proof, functions, owners })
    }

    /// Checks of a hot reset with so many group files what does not depend on the files.
    ///
    /// # Errors
    /// Fails as [`hot_reset`](Self::hot_reset) does.
    // Vt27.2, Vt27.3.
    pub fn may_hot_reset(&self, files: usize) -> Result<(), HotResetError> {
        self.admit_hot_reset(files).map(drop)
    }

    /// What a hot reset with so many group files resets, if it does not fail before the files are looked at.
    fn admit_hot_reset(&self, files: usize) -> Result<Vec<AffectedFunction>, HotResetError> {
        let proof = self.hot_reset_proof();
        if (proof == HotResetProof::Groups) == (files == 0) {
            return Err(HotResetError::WrongList { device: self.name().clone(), proof });
        }
        let functions = self.hot_reset_functions()?;
        if files > functions.len() {
            return Err(HotResetError::TooManyFiles { files, functions: functions.len() });
        }
        Ok(functions)
    }

    /// Resets all devices that are reset together, whoever has them open: `VFIO_DEVICE_PCI_HOT_RESET`. The caller
    /// proves ownership of every affected group: by passing the groups' files, or, for a file that is bound to an
    /// iommufd, by having a device of each group bound there; it then passes no files.
    ///
    /// # Errors
    /// Fails if neither the slot nor the bus can be reset; one of the devices is not registered with VFIO, is just being
    /// unbound, or its ownership was not proved; or group files are passed where none are allowed, or none where they
    /// are needed. Nothing was reset then, but if the link to the devices did not come back.
    pub fn hot_reset(&self, groups: &[&GroupFile]) -> Result<(), HotResetError> {
        let functions = self.admit_hot_reset(groups.len())?;
        let members: Vec<_> = self.device().lock_set().members().collect();
        if let Some(stranger) =
            functions.into_iter().find(|it| members.iter().all(|member| *member.name() != it.device))
        {
            return Err(HotResetError::NotRegistered { device: stranger.device });
        }
        for member in &members {
            let owned = match self.hot_reset_proof() {
                HotResetProof::Groups => groups.iter().any(|file| file.is_of(member.group())),
                HotResetProof::Iommufd => self.owner_by_iommufd(member) != AffectedOwner::NotOwned,
            };
            if !owned {
                return Err(HotResetError::NotOwned { device: member.name().clone(), group: member.group().id() });
            }
        }
        if let Some(leaving) = members.iter().find(|member| member.ops().may_hot_reset().is_err()) {
            return Err(HotResetError::Leaving { device: leaving.name().clone() });
        }
        for member in members {
            member.ops().hot_reset();
        }
        match self.ops().link_after_hot_reset() {
            LinkState::Up => Ok(()),
            LinkState::Down => Err(HotResetError::LinkDown { device: self.name().clone() }),
        }
    }

    /// Returns the functions that a hot reset of the device resets, in the order of the bus.
    ///
    /// # Errors
    /// Neither the slot nor the bus can be reset.
    // V88.
    pub fn hot_reset_functions(&self) -> Result<Vec<AffectedFunction>, HotResetError> {
        self.ops().affected().map_err(|NoHotReset| HotResetError::NoReset { device: self.name().clone() })
    }

    #[cfg(feature = "iommufd")]
    fn hot_reset_proof(&self) -> HotResetProof {
        match self.0.way.shown_by() {
            Some(_) => HotResetProof::Iommufd,
            None => HotResetProof::Groups,
        }
    }

    #[cfg(not(feature = "iommufd"))]
    fn hot_reset_proof(&self) -> HotResetProof {
        let _ = self;
        HotResetProof::Groups
    }

    /// Whose a device of the set is, as the iommufd tells that shows what the caller owns.
    #[cfg(feature = "iommufd")]
    fn owner_by_iommufd(&self, member: &VfioDevice) -> AffectedOwner {
        let Some(context) = self.0.way.shown_by() else { return AffectedOwner::NotOwned };
        let set = member.lock_set();
        let session = set.session(member);
        drop(set);
        match session.as_ref().and_then(|session| session.way.bound()) {
            Some(bound) if bound.context().is(context) => AffectedOwner::Object(bound.id()),
            _ if member.member().is_some_and(|member| context.owns(member.group())) => AffectedOwner::Owned,
            _ => AffectedOwner::NotOwned,
        }
    }

    #[cfg(not(feature = "iommufd"))]
    fn owner_by_iommufd(&self, member: &VfioDevice) -> AffectedOwner {
        let _ = (self, member);
        AffectedOwner::NotOwned
    }
}
