//! Memory of a process that address spaces share: pinned once, however many map it.
// F12, F20.

mod pins;
mod shared;
mod sole;

use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::{LockClass, Mutex};
use iommu_core::user_memory::{Account, BadAddress, Limit, OverLimit, PinnedRun};
use iommu_core::{Access, PhysAddr, UserAddr, UserMemory};

pub(crate) use pins::Slice;
use pins::{Pins, Stretch};
pub(crate) use shared::{Accesses, Part, Shared};
pub(crate) use sole::{Pinned, Sole};

const PAGES_LOCK: LockClass = LockClass::new("pages", 640);

/// Why memory was not pinned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// The process has no such memory.
    #[error(transparent)]
    BadAddress(#[from] BadAddress),
    /// It may not lock that much.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
}

impl PinError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::BadAddress(error) => error.errno(),
            Self::OverLimit(error) => error.errno(),
        }
    }
}

/// A window of a process's memory, in whole pages.
#[derive(Debug)]
pub(crate) struct Pages {
    process: Arc<dyn UserMemory>,
    first: UserAddr,
    count: u64,
    /// What it was mapped for: the most that any mapping of it may allow.
    // Ft5.9.
    pub(crate) access: Access,
    /// Whose limit counts; `None` where the limit was lifted when this was mapped.
    // F27.
    account: Option<Account>,
    /// The pages lock: inside every other of this crate. User memory is called with it held.
    pins: Mutex<Pins>,
}

impl Pages {
    /// The window of so many pages, from the one on that `addr` lies in.
    fn new(
        process: Arc<dyn UserMemory>,
        addr: UserAddr,
        count: u64,
        access: Access,
        account: Option<Account>,
        pins: Pins,
    ) -> Arc<Self> {
        let first = UserAddr::new(addr.get() & !(PAGE_SIZE - 1));
        Arc::new(Self { process, first, count, access, account, pins: Mutex::of(PAGES_LOCK, pins) })
    }

    /// Where the process sees a byte of the window.
    pub(crate) fn addr(&self, offset: u64) -> UserAddr {
        UserAddr::new(self.first.get().wrapping_add(offset))
    }

    /// Pins the pages of a slice once more; all or none, also when user memory unwinds (the limit is looked at after
    /// pinning).
    pub(crate) fn pin(self: &Arc<Self>, slice: Slice) -> Result<PinnedSlice, PinError> {
        self.pin_rest(slice, 0)?;
        Ok(PinnedSlice { pages: self.clone(), slice })
    }

    /// As that, of a slice whose first `fresh` pages were just pinned, for nobody else, and are not counted yet.
    fn pin_rest(&self, slice: Slice, mut fresh: u64) -> Result<(), PinError> {
        let mut pins = self.pins.lock();
        let mut pinning = Pinning { pages: self, pins: &mut pins, done: Slice { count: fresh, ..slice } };
        let end = slice.end().min(self.count);
        while pinning.done.end() < end {
            fresh += pinning.step(end)?;
        }
        charge(&self.process, self.account, fresh)?;
        pinning.done.count = 0;
        Ok(())
    }

    /// Pins a slice once more that is pinned, which cannot fail.
    fn hold(&self, slice: Slice) {
        self.pins.lock().hold(slice);
    }

    /// Ends one pin of each page of a slice.
    fn unpin(&self, slice: Slice) {
        let mut pins = self.pins.lock();
        let freed = self.release(&mut pins, slice);
        uncharge(&self.process, self.account, freed);
    }

    /// Ends one pin of each page of a slice; how many pages are pinned no more.
    fn release(&self, pins: &mut Pins, slice: Slice) -> u64 {
        let freed = pins.release(slice);
        for run in &freed {
            self.process.unpin(*run);
        }
        freed.iter().map(|run| run.bytes / PAGE_SIZE).sum()
    }
}

/// A slice of a window that is pinned; dropping it ends one pin of each page.
#[derive(Debug)]
#[must_use = "dropping it unpins the memory"]
pub(crate) struct PinnedSlice {
    pages: Arc<Pages>,
    slice: Slice,
}

impl PinnedSlice {
    /// Returns the physical memory, in order, in pieces as long as possible.
    pub(crate) fn runs(&self) -> Vec<PinnedRun> {
        self.pages.pins.lock().runs(self.slice)
    }
}

impl Drop for PinnedSlice {
    fn drop(&mut self) {
        self.pages.unpin(self.slice);
    }
}

/// Pins as many of the wanted pages as lie in one piece: where, and how many.
fn pin_run(
    process: &Arc<dyn UserMemory>,
    at: UserAddr,
    wanted: u64,
    access: Access,
) -> Result<(PhysAddr, u64), BadAddress> {
    let run = process.pin(at, wanted * PAGE_SIZE, access)?;
    // No more is trusted to be there than was asked for.
    Ok((run.phys, (run.bytes / PAGE_SIZE).clamp(1, wanted)))
}

/// Counts pages that were pinned: for an account, unless its limit was lifted, and as pinned.
fn charge(process: &Arc<dyn UserMemory>, account: Option<Account>, pages: u64) -> Result<(), OverLimit> {
    if let Some(account) = account {
        process.charge(account, Limit::Enforced, pages)?;
    }
    let pinned = process.charge(Account::Pinned, Limit::Lifted, pages);
    if let (Some(account), Err(_)) = (account, pinned) {
        process.uncharge(account, pages);
    }
    pinned
}

fn uncharge(process: &Arc<dyn UserMemory>, account: Option<Account>, pages: u64) {
    if let Some(account) = account {
        process.uncharge(account, pages);
    }
    process.uncharge(Account::Pinned, pages);
}

/// Pages that are being pinned. Dropping it ends the pins again.
struct Pinning<'a> {
    pages: &'a Pages,
    pins: &'a mut Pins,
    done: Slice,
}

impl Pinning<'_> {
    /// Pins some pages more, of those before `end`; how many of them were not pinned before.
    fn step(&mut self, end: u64) -> Result<u64, BadAddress> {
        let page = self.done.end();
        let (pages, fresh) = match self.pins.stretch(page, end) {
            Stretch::Pinned(pages) => {
                self.pins.hold(Slice { first: page, count: pages });
                (pages, 0)
            }
            Stretch::Unpinned(wanted) => {
                let Pages { process, access, .. } = self.pages;
                let (phys, pages) = pin_run(process, self.pages.addr(page * PAGE_SIZE), wanted, *access)?;
                self.pins.insert(page, pages, phys);
                (pages, pages)
            }
        };
        self.done.count += pages;
        Ok(fresh)
    }
}

impl Drop for Pinning<'_> {
    fn drop(&mut self) {
        self.pages.release(self.pins, self.done);
    }
}
