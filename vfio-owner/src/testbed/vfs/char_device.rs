//! Character devices: `/dev/vfio/*` and `/dev/iommu`.

use alloc::sync::Arc;

use iommu_core::GroupId;

/// Major number of `misc` devices, and the minor of VFIO's container among them.
const MISC: u32 = 10;
const VFIO_MINOR: u32 = 196;
/// Given out by the kernel as it boots; these stand for whatever it gave.
const IOMMU_MINOR: u32 = 259;
const VFIO_GROUP: u32 = 243;
const VFIO_DEVICE: u32 = 242;

/// A character device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CharDevice {
    /// The major number, as in `st_rdev`.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
    /// The permissions, nine bits; root's.
    pub mode: u16,
    /// What opening it opens.
    pub file: CharFile,
}

/// What a character device is the file of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CharFile {
    /// `/dev/vfio/vfio`: a new container.
    Container,
    /// `/dev/iommu`: a new iommufd.
    Iommufd,
    /// `/dev/vfio/N`: a group.
    Group(GroupId),
    /// `/dev/vfio/devices/vfioX`: a device.
    Device(Arc<str>),
}

impl CharDevice {
    pub(super) const CONTAINER: Self = Self { major: MISC, minor: VFIO_MINOR, mode: 0o666, file: CharFile::Container };
    pub(super) const IOMMUFD: Self = Self { major: MISC, minor: IOMMU_MINOR, mode: 0o660, file: CharFile::Iommufd };

    pub(super) const fn group(group: GroupId, minor: u32) -> Self {
        Self { major: VFIO_GROUP, minor, mode: 0o600, file: CharFile::Group(group) }
    }

    pub(super) const fn device(name: Arc<str>, minor: u32) -> Self {
        Self { major: VFIO_DEVICE, minor, mode: 0o600, file: CharFile::Device(name) }
    }
}
