//! The memory of a process, and what it may lock of it.

use std::sync::Arc;

use scenario_player::language::MemoryKind;
use scenario_player::{BUFFER_BYTES, Errno, SCRATCH_BYTES};
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::software::{LockedPages, Memory as PhysicalMemory, Process};
use vfio_owner::iommu_core::user_memory::{Account, Limit};
use vfio_owner::iommu_core::{Access, UserAddr, UserMemory};

pub(super) const BUFFER: UserAddr = UserAddr::new(0x7f00_0000_0000);
pub(super) const SCRATCH: UserAddr = UserAddr::new(0x7e00_0000_0000);

/// Where in the scratch area bytes stand that a call reads or writes.
const BOUNCE: u64 = SCRATCH_BYTES / 2;

/// What a process may lock unless it says otherwise.
const DEFAULT_LIMIT: u64 = 8 << 20;

#[derive(Debug)]
pub(super) struct Memory {
    process: Arc<Process>,
    same: Arc<dyn UserMemory>,
    accounts: [LockedPages; 2],
}

impl Memory {
    pub(super) fn new(physical: &PhysicalMemory) -> Option<Self> {
        let accounts = [(); 2].map(|()| LockedPages::limited(DEFAULT_LIMIT));
        let [own, user] = accounts.clone();
        let process = Process::of_user(physical, own, user);
        process.set_limit(Limit::Lifted);
        process.map_at(BUFFER, BUFFER_BYTES, Access::ReadWrite)?;
        process.map_at(SCRATCH, SCRATCH_BYTES, Access::ReadWrite)?;
        Some(Self { same: process.clone(), process, accounts })
    }

    pub(super) fn as_user_memory(&self) -> &Arc<dyn UserMemory> {
        &self.same
    }

    /// Puts bytes where a call can read them, or where it can write as many.
    pub(super) fn bounce(&self, bytes: &[u8]) -> UserAddr {
        let at = UserAddr::new(SCRATCH.get() + BOUNCE);
        self.copy_in(at, bytes);
        at
    }

    /// Of the scratch area, which is always there.
    pub(super) fn copy_out(&self, at: UserAddr, into: &mut [u8]) {
        let _ = self.process.read(at, into);
    }

    pub(super) fn copy_in(&self, at: UserAddr, from: &[u8]) {
        let _ = self.process.write(at, from);
    }

    pub(super) fn change(&self, kind: MemoryKind, at: u64, bytes: u64) -> Result<(), Errno> {
        let at = UserAddr::new(at);
        let protects = matches!(kind, MemoryKind::ReadOnly | MemoryKind::NoAccess | MemoryKind::ReadWrite);
        if !at.get().is_multiple_of(PAGE_SIZE) || (bytes == 0 && !protects) {
            return Err(Errno::EINVAL);
        }
        if bytes == 0 {
            return Ok(());
        }
        let bytes = bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
        let protect = |access| self.process.protect(at, bytes, access).map_err(|_| Errno::ENOMEM);
        let map = |access| self.process.map_at(at, bytes, access).ok_or(Errno::ENOMEM);
        match kind {
            MemoryKind::ReadOnly => protect(Some(Access::Read)),
            MemoryKind::NoAccess => protect(None),
            MemoryKind::ReadWrite => protect(Some(Access::ReadWrite)),
            MemoryKind::Hole => {
                self.process.unmap_range(at, bytes);
                Ok(())
            }
            MemoryKind::Fresh | MemoryKind::Shared => map(Access::ReadWrite),
            MemoryKind::FileReadOnly => map(Access::Read),
        }
    }

    pub(super) fn set_ipc_lock(&self, held: bool) {
        self.process.set_limit(if held { Limit::Lifted } else { Limit::Enforced });
    }

    pub(super) fn set_limit(&self, bytes: Option<u64>) {
        self.accounts.iter().for_each(|account| account.set_limit(bytes));
    }

    /// `VmLck` and `VmPin`, in pages.
    pub(super) fn locked(&self) -> (u64, u64) {
        (self.process.locked(Account::Process), self.process.locked(Account::Pinned))
    }
}
