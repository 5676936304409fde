//! A device that is open, and the calls on the way there.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::calls::{ioctl, ioctl_file};
use crate::rig::open;

pub(crate) const SET_IOMMU: u32 = 0x3b66;
pub(crate) const GET_STATUS: u32 = 0x3b67;
pub(crate) const SET_CONTAINER: u32 = 0x3b68;
pub(crate) const GET_DEVICE_FD: u32 = 0x3b6a;
pub(crate) const DEVICE_GET_INFO: u32 = 0x3b6b;
pub(crate) const MAP_DMA: u32 = 0x3b71;
pub(crate) const UNMAP_DMA: u32 = 0x3b72;

/// A device that is open through its group.
pub(crate) struct Opened {
    pub(crate) device: OwnedFd,
    pub(crate) group: File,
    pub(crate) container: File,
}

impl Opened {
    pub(crate) fn through_group(group: &str, device: &str) -> Self {
        let (container, group) = (open("/dev/vfio/vfio").unwrap(), open(group).unwrap());
        let fd = container.as_raw_fd();
        ioctl(&group, SET_CONTAINER, (&raw const fd).addr()).unwrap();
        ioctl(&container, SET_IOMMU, 1).unwrap();
        let name = std::ffi::CString::new(device).unwrap();
        let device = ioctl_file(&group, GET_DEVICE_FD, name.as_ptr().addr()).unwrap();
        Self { device, group, container }
    }
}

/// Maps memory of the caller, for reading and writing unless said otherwise.
pub(crate) fn map_dma(container: &File, at: usize, iova: u64, bytes: u64) -> Result<i32, i32> {
    let request: [u64; 4] = [32 | 3 << 32, at as u64, iova, bytes];
    ioctl(container, MAP_DMA, (&raw const request).addr())
}

/// Unmaps it again.
pub(crate) fn unmap_dma(container: &File, iova: u64, bytes: u64) -> Result<i32, i32> {
    let mut request: [u64; 3] = [24, iova, bytes];
    ioctl(container, UNMAP_DMA, (&raw mut request).addr())
}
