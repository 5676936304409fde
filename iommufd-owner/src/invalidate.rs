//! What an IOMMU has cached of the page tables of user space.
// F56.

use alloc::sync::Arc;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::Errno;
use iommu_core::hardware::{HardwareError, UserData};

use crate::context::Context;
use crate::hwpt::Hwpt;
use crate::object::Object;
use crate::object_id::{NoObjectError, ObjectId};
use crate::object_table::Use;

/// As many entries as one call takes.
pub(crate) const MOST_ENTRIES: usize = 1 << 19;

/// An array of entries in the IOMMU driver's format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalidations<'a> {
    /// Which format.
    pub kind: u32,
    /// How long an entry is, in bytes.
    pub entry_bytes: usize,
    /// The entries, one behind the other.
    pub bytes: &'a [u8],
}

/// Why not every entry was handled.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{handled} entries were handled")]
pub struct InvalidateError {
    /// How many entries were handled before; it is told to user space always.
    pub handled: usize,
    /// Why the next one was not.
    #[source]
    pub cause: InvalidateCause,
}

/// What was wrong with an array of entries, or with one of them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidateCause {
    /// There is no such page table, or it is not nested.
    #[error(transparent)]
    NoHwpt(NoObjectError),
    /// Entries are longer than a page, too many, or not as long as was said.
    #[error("{bytes} bytes are no array of entries of {entry_bytes} bytes")]
    BadArray {
        /// How long an entry was to be.
        entry_bytes: usize,
        /// How many bytes there are.
        bytes: usize,
    },
    /// The IOMMU driver refused an entry.
    #[error("the IOMMU refused an entry")]
    Hardware(#[source] HardwareError),
}

impl InvalidateError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match &self.cause {
            InvalidateCause::NoHwpt(error) => error.errno(),
            InvalidateCause::BadArray { .. } => Errno::EINVAL,
            InvalidateCause::Hardware(error) => error.errno,
        }
    }
}

impl Context {
    pub(crate) fn nested_hwpt(&self, id: ObjectId) -> Result<(Arc<Hwpt>, Use), NoObjectError> {
        match self.objects().get(id) {
            Some((Object::Hwpt(hwpt), used)) if hwpt.is_nested() => Ok((hwpt, used)),
            _ => Err(NoObjectError { id, what: "nested page table" }),
        }
    }

    /// Invalidates what the entries name (`IOMMU_HWPT_INVALIDATE`), and returns how many there were.
    ///
    /// # Errors
    /// There is no such nested page table, the array is none, or the IOMMU driver refused an entry: those before it were
    /// handled.
    pub fn hwpt_invalidate(&self, hwpt: ObjectId, entries: Invalidations<'_>) -> Result<usize, InvalidateError> {
        let Invalidations { kind, entry_bytes, bytes } = entries;
        let not_begun = |cause| InvalidateError { handled: 0, cause };
        let count = bytes.len().checked_div(entry_bytes).unwrap_or(0);
        let bad = entry_bytes as u64 > PAGE_SIZE || count > MOST_ENTRIES || count * entry_bytes != bytes.len();
        if bad {
            return Err(not_begun(InvalidateCause::BadArray { entry_bytes, bytes: bytes.len() }));
        }
        let (hwpt, _used) = self.nested_hwpt(hwpt).map_err(|error| not_begun(InvalidateCause::NoHwpt(error)))?;
        let format = hwpt.domain.check_invalidation_format(kind);
        format.map_err(|error| not_begun(InvalidateCause::Hardware(error)))?;
        for (handled, entry) in bytes.chunks(entry_bytes.max(1)).enumerate() {
            let refused = |error| InvalidateError { handled, cause: InvalidateCause::Hardware(error) };
            hwpt.domain.invalidate(UserData { kind, bytes: entry }).map_err(refused)?;
        }
        Ok(count)
    }
}
