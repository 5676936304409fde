//! A user's memory whose pages say which they are.

use alloc::vec::Vec;
use core::ops::Range;

use device_model::sync::Arc;

use super::{LockedPages, Memory, Process, SimulatedDevice};
use crate::address::{Access, Iova, PAGE_SIZE, UserAddr};
use crate::failing::FailingMemory;
use crate::user_memory::UserMemory as _;

/// Memory of a process in which every page begins with its number, counted from 1, so that a test can tell which page a
/// device reaches. Pins fail on command, and pin one page at a time; no page touches the next in physical memory, so that
/// several are mapped in several pieces.
#[derive(Clone, Debug)]
pub struct NumberedMemory {
    process: Arc<Process>,
    failing: Arc<FailingMemory>,
    locked: LockedPages,
    start: UserAddr,
}

impl NumberedMemory {
    /// Creates a process with `pages` pages of memory; `None` for none, or more than there can be.
    pub fn new(memory: &Memory, pages: u64, locked: LockedPages) -> Option<Self> {
        let process = Process::new(memory, locked.clone());
        let start = process.allocate(pages.checked_mul(PAGE_SIZE)?, Access::ReadWrite)?;
        let failing = FailingMemory::new(process.clone());
        let numbered = Self { process, failing, locked, start };
        // The last one first: memory is allocated at ascending addresses.
        for page in (0..pages).rev() {
            numbered.process.map_at(numbered.page(page)?, PAGE_SIZE, Access::ReadWrite)?;
            numbered.process.write(numbered.page(page)?, &(page + 1).to_le_bytes()).ok()?;
        }
        Some(numbered)
    }

    /// Returns the address of a page, counted from 0; `None` where no address is.
    pub fn page(&self, page: u64) -> Option<UserAddr> {
        self.start.checked_add(page.checked_mul(PAGE_SIZE)?)
    }

    /// Returns the address of the first page.
    pub fn start(&self) -> UserAddr {
        self.start
    }

    /// Returns the process.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Returns the process's memory as mappings should pin it, so that pins fail on command.
    pub fn failing(&self) -> &Arc<FailingMemory> {
        &self.failing
    }

    /// Returns the account of locked pages.
    pub fn locked(&self) -> &LockedPages {
        &self.locked
    }

    /// Returns the number of the page that `device` reads at `iova`; `None` if the access faults. 0 is memory in which no
    /// number was written.
    pub fn seen(device: &SimulatedDevice, iova: Iova) -> Option<u64> {
        let mut number = [0; 8];
        device.read(iova, &mut number).ok()?;
        Some(u64::from_le_bytes(number))
    }

    /// Returns what [`seen`](Self::seen) returns at each of these pages of the device's address space.
    pub fn view(device: &SimulatedDevice, pages: Range<u64>) -> Vec<Option<u64>> {
        pages.map(|page| Self::seen(device, Iova::new(page.checked_mul(PAGE_SIZE)?))).collect()
    }
}
