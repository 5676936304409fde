//! Memory of a process that address spaces share: pinned once, however many map it (F12, F20).

use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::sync::{LockClass, Mutex};
use iommu_core::user_memory::{Account, PinnedRun};
use iommu_core::{Access, PhysAddr, UserAddr, UserMemory};

use crate::error::PinError;

const PAGES_LOCK: LockClass = LockClass::new("pages", 640);

/// A window of a process's memory, in whole pages.
#[derive(Debug)]
pub(crate) struct Pages {
    process: Arc<dyn UserMemory>,
    first: UserAddr,
    count: u64,
    /// What it was mapped for: the most that any mapping of it may allow (Ft5.9).
    pub(crate) access: Access,
    account: Account,
    /// The pages lock: inside every other of this crate.
    pins: Mutex<Pins>,
}

/// What is pinned of a window.
#[derive(Debug, Default)]
struct Pins {
    /// From the first page on, as far as anything was ever pinned.
    pages: Vec<Pin>,
}

/// A page, and how many want it pinned.
#[derive(Debug, Clone, Copy)]
struct Pin {
    phys: PhysAddr,
    count: u32,
}

const UNPINNED: Pin = Pin { phys: PhysAddr::new(0), count: 0 };

/// A part of a window, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) first: u64,
    pub(crate) count: u64,
}

impl Slice {
    /// The pages that `bytes` bytes from `offset` of a window on lie in.
    pub(crate) fn of(offset: u64, bytes: u64) -> Self {
        let first = offset / PAGE_SIZE;
        let end = offset.saturating_add(bytes).div_ceil(PAGE_SIZE);
        Self { first, count: end.saturating_sub(first) }
    }
}

impl Pages {
    /// The window of the pages that `bytes` bytes at `addr` lie in. The sum must not wrap.
    pub(crate) fn new(
        process: Arc<dyn UserMemory>,
        addr: UserAddr,
        bytes: u64,
        access: Access,
        account: Account,
    ) -> Arc<Self> {
        let first = UserAddr::new(addr.get() & !(PAGE_SIZE - 1));
        let count = Slice::of(addr.get() - first.get(), bytes).count;
        Arc::new(Self { process, first, count, access, account, pins: Mutex::of(PAGES_LOCK, Pins::default()) })
    }

    pub(crate) fn process(&self) -> &Arc<dyn UserMemory> {
        &self.process
    }

    /// Where the process sees a byte of the window.
    pub(crate) fn addr(&self, offset: u64) -> UserAddr {
        UserAddr::new(self.first.get().wrapping_add(offset))
    }

    /// Pins the pages of a slice once more; all or none (F27: the limit is looked at after pinning).
    pub(crate) fn pin(&self, slice: Slice) -> Result<(), PinError> {
        let mut pins = self.pins.lock();
        let end = slice.first.saturating_add(slice.count).min(self.count);
        let Some(length) = usize::try_from(end).ok() else { return Err(PinError::TooLong) };
        if pins.pages.len() < length {
            let more = length - pins.pages.len();
            pins.pages.try_reserve_exact(more).map_err(|_| PinError::TooLong)?;
            pins.pages.resize(length, UNPINNED);
        }
        let mut fresh = 0;
        let mut page = slice.first;
        while page < end {
            match self.pin_next(&mut pins, page, end) {
                Ok((pages, new)) => {
                    page += pages;
                    fresh += new;
                }
                Err(error) => {
                    self.unpin_pages(&mut pins, Slice { first: slice.first, count: page - slice.first });
                    return Err(error);
                }
            }
        }
        if let Err(over) = self.process.charge(self.account, fresh) {
            self.unpin_pages(&mut pins, slice);
            return Err(PinError::OverLimit(over));
        }
        Ok(())
    }

    /// Pins some pages from `page` on: how many, and how many of them were not pinned before.
    fn pin_next(&self, pins: &mut Pins, page: u64, end: u64) -> Result<(u64, u64), PinError> {
        let slots = pins.pages.get_mut(whole(page)..whole(end)).ok_or(PinError::TooLong)?;
        let pinned = slots.iter().take_while(|pin| pin.count > 0).count();
        if pinned > 0 {
            for pin in slots.iter_mut().take(pinned) {
                pin.count = pin.count.saturating_add(1);
            }
            return Ok((pinned as u64, 0));
        }
        let wanted = slots.iter().take_while(|pin| pin.count == 0).count() as u64;
        let run = self.process.pin(self.addr(page * PAGE_SIZE), wanted * PAGE_SIZE, self.access)?;
        let got = (run.bytes / PAGE_SIZE).clamp(1, wanted);
        for (index, pin) in (0..got).zip(slots) {
            *pin = Pin { phys: PhysAddr::new(run.phys.get() + index * PAGE_SIZE), count: 1 };
        }
        Ok((got, got))
    }

    /// Ends one pin of each page of a slice.
    pub(crate) fn unpin(&self, slice: Slice) {
        let mut pins = self.pins.lock();
        let freed = self.unpin_pages(&mut pins, slice);
        self.process.uncharge(self.account, freed);
    }

    /// How many pages are pinned no more.
    fn unpin_pages(&self, pins: &mut Pins, slice: Slice) -> u64 {
        let mut freed = 0;
        let mut run: Option<PinnedRun> = None;
        for pin in pins.pages.iter_mut().skip(whole(slice.first)).take(whole(slice.count)) {
            if pin.count == 0 {
                continue;
            }
            pin.count -= 1;
            if pin.count > 0 {
                continue;
            }
            freed += 1;
            match &mut run {
                Some(run) if run.phys.checked_add(run.bytes) == Some(pin.phys) => run.bytes += PAGE_SIZE,
                _ => {
                    if let Some(run) = run.replace(PinnedRun { phys: pin.phys, bytes: PAGE_SIZE }) {
                        self.process.unpin(run);
                    }
                }
            }
        }
        if let Some(run) = run {
            self.process.unpin(run);
        }
        freed
    }

    /// The physical memory behind a slice that is pinned, in pieces as long as possible.
    pub(crate) fn runs(&self, slice: Slice) -> Vec<PinnedRun> {
        let pins = self.pins.lock();
        let mut runs: Vec<PinnedRun> = Vec::new();
        for pin in pins.pages.iter().skip(whole(slice.first)).take(whole(slice.count)) {
            match runs.last_mut() {
                Some(run) if run.phys.checked_add(run.bytes) == Some(pin.phys) => run.bytes += PAGE_SIZE,
                _ => runs.push(PinnedRun { phys: pin.phys, bytes: PAGE_SIZE }),
            }
        }
        runs
    }
}

/// As an index into memory; what does not fit is beyond any memory.
fn whole(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
