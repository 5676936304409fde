//! User memory that can be pinned for DMA.

use alloc::sync::Arc;
use core::fmt;

use device_model::Errno;

use crate::address::{Access, Iova, PhysRun, UserAddr};

/// The memory of a user-space process.
///
/// Called with sleeping locks of the consumers held, but no spinning ones: pinning may sleep. Implementations must not
/// call back into the consumers.
pub trait UserMemory: Send + Sync + fmt::Debug {
    /// Pins pages for DMA: they stay in place until they are unpinned, even if the process unmaps them.
    ///
    /// Pins physically contiguous memory from `at` on: `bytes` bytes, or fewer, but at least up to the end of the page.
    /// The caller continues behind that. `at` and `bytes` are multiples of [`PAGE_SIZE`](crate::address::PAGE_SIZE),
    /// and `bytes` is not 0. A page may be pinned several times.
    ///
    /// # Errors
    /// Fails if nothing is mapped at `at`, or not for this access. Nothing is pinned.
    fn pin(&self, at: UserAddr, bytes: u64, access: Access) -> Result<PinnedRun, BadAddress>;

    /// Pins registers of devices that the process has mapped, as [`pin`](Self::pin) pins memory, which does not take them. VFIO
    /// type1 maps them for devices that speak to each other; iommufd refuses them.
    ///
    /// # Errors
    /// Fails if no registers are mapped at `at`, or not for this access. Nothing is pinned. Always fails unless an
    /// implementation says otherwise.
    fn pin_registers(&self, at: UserAddr, bytes: u64, access: Access) -> Result<PinnedRun, BadAddress> {
        let _ = (bytes, access);
        Err(BadAddress { at })
    }

    /// Releases one pin of each page of the run. The run may be a part of what one `pin` returned, or consist of
    /// adjacent parts of several. Cannot fail.
    fn unpin(&self, run: PinnedRun);

    /// Reads the memory of the process at `at`.
    ///
    /// # Errors
    /// Fails if some of it is not mapped for reading. `into` may have been filled in part.
    fn read(&self, at: UserAddr, into: &mut [u8]) -> Result<(), BadAddress>;

    /// Writes to the memory of the process at `at`.
    ///
    /// # Errors
    /// Fails if some of it is not mapped for writing. A part may have been written.
    fn write(&self, at: UserAddr, from: &[u8]) -> Result<(), BadAddress>;

    /// Returns whether the process that calls now is bound by limits. A consumer asks when memory is mapped, and charges
    /// accordingly for as long as the mapping lives. Enforced unless an implementation says otherwise.
    fn limit(&self) -> Limit {
        Limit::Enforced
    }

    /// Adds `pages` to the locked pages of `account`. Cannot fail where the limit is lifted, or the account has none.
    ///
    /// # Errors
    /// Fails if that would exceed its limit (`RLIMIT_MEMLOCK`). Nothing is added.
    fn charge(&self, account: Account, limit: Limit, pages: u64) -> Result<(), OverLimit>;

    /// Subtracts `pages` from the locked pages of `account`.
    fn uncharge(&self, account: Account, pages: u64);
}

/// Physically contiguous, pinned memory. Address and length are multiples of the page size, and the length is not 0.
pub type PinnedRun = PhysRun;

/// Memory of a process that is to be mapped for devices.
///
/// `P` is where: an [`Iova`], or what else a consumer lets its callers say.
#[derive(Clone, Debug)]
pub struct MapRequest<P = Iova> {
    /// Where devices see it.
    pub iova: P,
    /// Size in bytes.
    pub bytes: u64,
    /// The process whose memory is mapped.
    pub process: Arc<dyn UserMemory>,
    /// Address of the memory in the process.
    pub addr: UserAddr,
    /// Access that devices get.
    pub access: Access,
}

impl<P> MapRequest<P> {
    /// Returns the same request for another place.
    pub fn at<Q>(self, iova: Q) -> MapRequest<Q> {
        let Self { bytes, process, addr, access, .. } = self;
        MapRequest { iova, bytes, process, addr, access }
    }
}

/// An account of locked pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Account {
    /// The process (`VmLck`), as for VFIO type1 and iommufd's process accounting (mode 1).
    Process,
    /// The user of the process, with all other processes of that user, as for iommufd's user accounting (mode 0).
    User,
    /// What the process has pinned (`VmPin`), without a limit: iommufd counts here whatever it pins, beside another account.
    Pinned,
}

/// Whether the limit of an account binds whoever locks pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Limit {
    /// It does.
    #[default]
    Enforced,
    /// It does not: the process has `CAP_IPC_LOCK`.
    Lifted,
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

/// The limit of locked memory would be exceeded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{locked} pages are locked, the limit is {limit}, {wanted} more are wanted")]
pub struct OverLimit {
    /// Pages that are locked.
    pub locked: u64,
    /// The limit, in pages.
    pub limit: u64,
    /// Pages to be added.
    pub wanted: u64,
}

impl OverLimit {
    /// Returns `ENOMEM`.
    pub const fn errno(&self) -> Errno {
        Errno::ENOMEM
    }
}
