//! What IOMMUs offer to user space beyond mapping: nested page tables, dirty tracking, page requests.
//!
//! All of it is optional: a driver that implements none of it says `EOPNOTSUPP`.

use alloc::vec::Vec;
use core::fmt;

use device_model::DeviceId;

use crate::address::{Access, Iova};

/// Bytes from user space in a format that one IOMMU driver knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserData<'a> {
    /// Which format; not 0.
    pub kind: u32,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// What a driver tells user space of the IOMMU that serves a device (F42).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Description {
    /// Which format the bytes have; 0 for none.
    pub kind: u32,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What a paging domain must be able to do besides paging (Ft11.7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PagingFeatures {
    /// Whether domains can be nested on it.
    pub nesting: Nesting,
    /// Whether it can tell which pages were written.
    pub dirty_tracking: DirtySupport,
}

impl PagingFeatures {
    /// Whether nothing more than paging is asked for.
    pub fn is_plain(self) -> bool {
        self == Self::default()
    }
}

/// Whether domains can be nested on a domain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Nesting {
    /// They cannot.
    #[default]
    No,
    /// It can be a parent.
    Parent,
}

/// Whether a domain can tell which pages were written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum DirtySupport {
    /// It need not.
    #[default]
    No,
    /// It must.
    Required,
}

/// Whether a domain notes which pages are written (F57).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DirtyTracking {
    /// It does not.
    Off,
    /// It does.
    On,
}

/// What becomes of the notes of a domain that are read (F58).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DirtyRead {
    /// They are gone: the next read tells of later writes only.
    Clear,
    /// They stay.
    Keep,
}

/// Pages that a device wants to have mapped, in one request that is answered as a whole (I52).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageRequest {
    /// Which device.
    pub device: DeviceId,
    /// The PASID of its access, if any.
    pub pasid: Option<u32>,
    /// The device's number for it, by which it is answered.
    pub index: u32,
    /// What it wants; not empty.
    pub pages: Vec<WantedPage>,
}

/// One page of a [`PageRequest`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WantedPage {
    /// An address in it.
    pub iova: Iova,
    /// For what.
    pub access: Access,
}

/// The answer to a [`PageRequest`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PageAnswer {
    /// The pages are there: try again.
    Success,
    /// They are not.
    Invalid,
}

/// Where page requests of a device go.
pub trait PageRequestSink: Send + Sync + fmt::Debug {
    /// Takes a request, to be answered later. The IOMMU driver calls it without its locks.
    ///
    /// # Errors
    /// The request comes back where nobody wants it any more; the driver answers [`PageAnswer::Invalid`] itself.
    fn deliver(&self, request: PageRequest) -> Result<(), PageRequest>;
}
