//! User memory that can be pinned for DMA.

use core::fmt;

use device_model::Errno;

use crate::address::{Access, PhysAddr, UserAddr};

/// The memory of a user-space process.
///
/// Called with sleeping locks of the consumers held, and without spinning ones: pinning may sleep. Implementations must not
/// call back into the consumers.
pub trait UserMemory: Send + Sync + fmt::Debug {
    /// Pins pages for DMA, for as long as it takes: they stay where they are even if the process unmaps them.
    ///
    /// It begins at `at` and pins what lies there in *one piece* of physical memory: `bytes` bytes, or fewer, but at
    /// least to the end of the page. The caller goes on behind that. `at` and `bytes` are multiples of
    /// [`PAGE_SIZE`](crate::address::PAGE_SIZE), and `bytes` is not 0. Pins of a page are counted.
    ///
    /// # Errors
    /// Nothing is mapped at `at`, or not for this access. Nothing is pinned.
    fn pin(&self, at: UserAddr, bytes: u64, access: Access) -> Result<PinnedRun, BadAddress>;

    /// Ends one pin of each page of the run, which may be a part of what one `pin` returned, or parts of several that touch.
    /// Cannot fail.
    fn unpin(&self, run: PinnedRun);

    /// Fills `into` with what the process sees at `at`.
    ///
    /// # Errors
    /// Some of it is not mapped for reading. `into` may have been filled in part.
    fn read(&self, at: UserAddr, into: &mut [u8]) -> Result<(), BadAddress>;

    /// Stores `from` at `at`.
    ///
    /// # Errors
    /// Some of it is not mapped for writing. A part may have been stored.
    fn write(&self, at: UserAddr, from: &[u8]) -> Result<(), BadAddress>;

    /// Counts `pages` more as locked, on behalf of `account`.
    ///
    /// # Errors
    /// That would be more than its limit (`RLIMIT_MEMLOCK`). Nothing is counted.
    fn charge(&self, account: Account, pages: u64) -> Result<(), OverLimit>;

    /// Counts `pages` fewer.
    fn uncharge(&self, account: Account, pages: u64);
}

/// Physical memory in one piece, pinned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinnedRun {
    /// Its first address; a multiple of the page size.
    pub phys: PhysAddr,
    /// Its length in bytes; a multiple of the page size, not 0.
    pub bytes: u64,
}

/// Whose limit locked pages count against.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Account {
    /// The process, as for VFIO's type1 and iommufd in its mode 1.
    Process,
    /// The user whose process it is, with all its other processes, as for iommufd in its mode 0.
    User,
}

/// The process has no such memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the process has nothing mapped at {at} that permits this access")]
pub struct BadAddress {
    /// The first address that failed.
    pub at: UserAddr,
}

impl BadAddress {
    /// Returns `EFAULT`.
    pub const fn errno(&self) -> Errno {
        Errno::EFAULT
    }
}

/// Too much memory would be locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{locked} pages are locked, the limit is {limit}, {wanted} more are wanted")]
pub struct OverLimit {
    /// Pages that are locked.
    pub locked: u64,
    /// Pages that may be.
    pub limit: u64,
    /// Pages that were to be added.
    pub wanted: u64,
}

impl OverLimit {
    /// Returns `ENOMEM`.
    pub const fn errno(&self) -> Errno {
        Errno::ENOMEM
    }
}
