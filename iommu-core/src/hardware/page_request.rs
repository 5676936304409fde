//! Page requests: devices that ask for pages that are not mapped, and wait for the answer.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use device_model::DeviceId;

use super::{Endpoint, HardwareError};
use crate::address::{Access, Iova};

/// Role of an [`IommuDriver`](super::IommuDriver) that delivers page requests.
///
/// [`enable`](Self::enable) and [`disable`](Self::disable) may come with the group lock held; the caller keeps a sink that is
/// replaced or dropped alive until it has unlocked.
pub trait PageRequests {
    /// Delivers page requests of `dev` to `sink`, which replaces an earlier one.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if the device makes no page requests.
    fn enable(&self, dev: &Endpoint, sink: Arc<dyn PageRequestSink>) -> Result<(), HardwareError>;

    /// Answers page requests of `dev` with [`PageAnswer::Invalid`] from now on. Cannot fail.
    fn disable(&self, dev: &Endpoint);

    /// Answers the request that `dev` made with this number. Cannot fail.
    fn answer(&self, dev: &Endpoint, pasid: Option<u32>, index: u32, answer: PageAnswer);
}

/// Pages that a device wants to have mapped, in one request that is answered as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageRequest {
    /// The device that asks.
    pub device: DeviceId,
    /// The PASID of its access, if any.
    pub pasid: Option<u32>,
    /// The device's number for the request, by which it is answered.
    pub index: u32,
    /// The pages that it wants; not empty.
    pub pages: Vec<WantedPage>,
}

/// One page of a [`PageRequest`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WantedPage {
    /// An address in the page.
    pub iova: Iova,
    /// What the page must permit.
    pub permissions: PagePermissions,
}

bitflags::bitflags! {
    /// What a device wants to do with a page that it requests.
    ///
    /// An [`Access`] converts into the flags [`READ`](Self::READ), [`WRITE`](Self::WRITE), or both.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct PagePermissions: u32 {
        /// Read it.
        const READ = 1 << 0;
        /// Write it.
        const WRITE = 1 << 1;
        /// Fetch instructions from it.
        const EXEC = 1 << 2;
        /// Do so with privilege.
        const PRIV = 1 << 3;
    }
}

impl From<Access> for PagePermissions {
    fn from(access: Access) -> Self {
        match access {
            Access::Read => Self::READ,
            Access::Write => Self::WRITE,
            Access::ReadWrite => Self::READ | Self::WRITE,
        }
    }
}

/// The answer to a [`PageRequest`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PageAnswer {
    /// The pages are mapped: the device tries again.
    Success,
    /// The pages are not mapped.
    Invalid,
}

/// Receives the page requests of a device.
pub trait PageRequestSink: Send + Sync + fmt::Debug {
    /// Takes a request, to be answered later. The IOMMU driver calls it without its locks.
    ///
    /// # Errors
    /// Returns the request if nobody wants it any more; the driver answers it with [`PageAnswer::Invalid`].
    fn deliver(&self, request: PageRequest) -> Result<(), PageRequest>;
}
