//! Nested domains: page tables of user space, whose output a paging domain translates once more.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::{Endpoint, HardwareDomain, HardwareError};

/// Bytes from user space in a format that one IOMMU driver knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserData<'a> {
    /// Identifies the format; not 0.
    pub kind: u32,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// What a driver tells user space of the IOMMU that serves a device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Description {
    /// Identifies the format of the bytes; 0 for none.
    pub kind: u32,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Role of a paging domain on which others can be nested.
pub trait NestingParent {
    /// Creates a [`DomainKind::Nested`](super::DomainKind::Nested) domain, whose output this one translates. It is dropped
    /// before this one. Called without the group lock.
    ///
    /// # Errors
    /// `EINVAL` or `EOPNOTSUPP` for data that the driver does not understand.
    fn nest(&self, data: UserData<'_>, dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError>;
}

/// Role of a nested domain.
pub trait Nested {
    /// Checks that entries of this format can be [invalidated](Self::invalidate); called before the first, also where there
    /// is none.
    ///
    /// # Errors
    /// `EINVAL` or `EOPNOTSUPP` for a format that the driver does not know; by default every format is known.
    fn check_format(&self, kind: u32) -> Result<(), HardwareError> {
        let _ = kind;
        Ok(())
    }

    /// Drops what is cached of the page tables of user space, as one entry of an array from user space says. When it
    /// returns no access under what was dropped is still on its way. Called without the group lock.
    ///
    /// # Errors
    /// `EINVAL` or `EOPNOTSUPP` for an entry that the driver does not understand.
    fn invalidate(&self, entry: UserData<'_>) -> Result<(), HardwareError>;
}
