//! A user's memory that fails on command.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::software::Process;
use vfio_owner::iommu_core::user_memory::{Account, BadAddress, OverLimit, PinnedRun, UserMemory};
use vfio_owner::iommu_core::{Access, UserAddr};

/// Memory of which a pin fails on command.
#[derive(Debug)]
pub(crate) struct Brittle {
    process: Arc<Process>,
    /// How many pins succeed before one fails; `u64::MAX` for all.
    left: AtomicU64,
}

impl Brittle {
    pub(crate) fn new(process: Arc<Process>) -> Arc<Self> {
        Arc::new(Self { process, left: AtomicU64::new(u64::MAX) })
    }

    /// Lets the pin fail that comes after so many others.
    pub(crate) fn fail_after(&self, pins: u64) {
        self.left.store(pins, Ordering::Relaxed);
    }

    pub(crate) fn heal(&self) {
        self.fail_after(u64::MAX);
    }

    /// Whether the pin that was to fail was asked for.
    pub(crate) fn has_failed(&self) -> bool {
        self.left.load(Ordering::Relaxed) > u64::MAX / 2
    }
}

impl UserMemory for Brittle {
    fn pin(&self, at: UserAddr, _bytes: u64, access: Access) -> Result<PinnedRun, BadAddress> {
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(BadAddress { at }),
            // Page by page, so that there are many pins to fail.
            _ => self.process.pin(at, PAGE_SIZE, access),
        }
    }

    fn unpin(&self, run: PinnedRun) {
        self.process.unpin(run);
    }

    fn read(&self, at: UserAddr, into: &mut [u8]) -> Result<(), BadAddress> {
        self.process.read(at, into)
    }

    fn write(&self, at: UserAddr, from: &[u8]) -> Result<(), BadAddress> {
        self.process.write(at, from)
    }

    fn charge(&self, account: Account, pages: u64) -> Result<(), OverLimit> {
        self.process.charge(account, pages)
    }

    fn uncharge(&self, account: Account, pages: u64) {
        self.process.uncharge(account, pages);
    }
}
