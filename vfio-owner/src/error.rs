//! Errors of VFIO, each with the error number that Linux gives.

pub use crate::backend::{AttachGroupError, DirtyError, MapDmaError, UnmapDmaError};
pub use crate::container::SetIommuError;
#[cfg(feature = "iommufd")]
pub use crate::device_file::{AttachPtError, BindIommufdError, NotBound, OpenDeviceError};
pub use crate::group::GroupGone;
pub use crate::group_file::{OpenGroupError, SetContainerError, UnsetContainerError};
pub use crate::open_device::{GetDeviceError, HotResetError};
pub use crate::vfio::RegisterError;
