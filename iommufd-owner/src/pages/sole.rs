//! Memory that one mapping has for itself, in one piece: no lock, no list of pins, little room.

use alloc::sync::Arc;

use iommu_core::address::PAGE_SIZE;
use iommu_core::user_memory::{Account, PinnedRun};
use iommu_core::{Access, PhysAddr, UserAddr, UserMemory};

use super::pins::{Pins, Slice};
use super::{Pages, PinError, Shared, charge, pin_run, uncharge};

/// The memory of a mapping that nobody shares. Dropping it unpins it.
#[derive(Debug)]
pub(crate) struct Sole {
    process: Arc<dyn UserMemory>,
    /// Where the mapping begins, which may be inside of a page.
    addr: UserAddr,
    /// Where the first page lies, if it is pinned.
    phys: PhysAddr,
    pages: u32,
    /// What it was mapped for: the most that any mapping of it may allow.
    // Ft5.9.
    access: Access,
    /// What devices may do.
    pub(crate) permitted: Option<Access>,
    /// Whose limit counts; `None` where the limit was lifted when this was mapped.
    // F27.
    account: Option<Account>,
    backing: Backing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backing {
    Unpinned,
    /// Pinned, but not counted yet.
    Uncounted,
    Pinned,
}

/// How much of it was pinned.
pub(crate) enum Pinned {
    Whole,
    /// Its first pages only, for the next lie elsewhere: it must be [shared](Sole::share_begun).
    Begun(PinnedRun),
}

impl Sole {
    /// So many pages, from the one on that `addr` lies in.
    pub(crate) fn new(
        process: Arc<dyn UserMemory>,
        addr: UserAddr,
        pages: u32,
        access: Access,
        permitted: Option<Access>,
        account: Option<Account>,
    ) -> Self {
        let (phys, backing) = (PhysAddr::new(0), Backing::Unpinned);
        Self { process, addr, phys, pages, access, permitted, account, backing }
    }

    pub(crate) fn process(&self) -> &Arc<dyn UserMemory> {
        &self.process
    }

    /// Where the process sees it.
    pub(crate) fn addr(&self) -> UserAddr {
        self.addr
    }

    fn slice(&self) -> Slice {
        Slice { first: 0, count: self.pages.into() }
    }

    /// The physical memory, if it is pinned.
    pub(crate) fn run(&self) -> PinnedRun {
        PinnedRun { phys: self.phys, bytes: u64::from(self.pages) * PAGE_SIZE }
    }

    /// Pins it, unless it is pinned.
    pub(crate) fn pin(&mut self) -> Result<Pinned, PinError> {
        if self.backing == Backing::Pinned {
            return Ok(Pinned::Whole);
        }
        let wanted = u64::from(self.pages);
        let first = UserAddr::new(self.addr.get() & !(PAGE_SIZE - 1));
        let (phys, pages) = pin_run(&self.process, first, wanted, self.access)?;
        if pages < wanted {
            return Ok(Pinned::Begun(PinnedRun { phys, bytes: pages * PAGE_SIZE }));
        }
        self.phys = phys;
        self.backing = Backing::Uncounted;
        charge(&self.process, self.account, wanted).inspect_err(|_| self.unpin())?;
        self.backing = Backing::Pinned;
        Ok(Pinned::Whole)
    }

    /// Unpins it, if it is pinned.
    pub(crate) fn unpin(&mut self) {
        let backing = core::mem::replace(&mut self.backing, Backing::Unpinned);
        if backing != Backing::Unpinned {
            self.process.unpin(self.run());
        }
        if backing == Backing::Pinned {
            uncharge(&self.process, self.account, self.pages.into());
        }
    }

    /// The same memory, which others can have as well from now on; pinned if this was, which is not any more.
    #[inline(never)]
    pub(crate) fn share(&mut self) -> Shared {
        let pinned = core::mem::replace(&mut self.backing, Backing::Unpinned) == Backing::Pinned;
        let slice = self.slice();
        let mut pins = Pins::default();
        if pinned {
            pins.insert(slice.first, slice.count, self.phys);
        }
        let shared = Shared::new(self.window(pins), self.addr.get() % PAGE_SIZE, slice.count, self.permitted);
        if pinned { shared.pinned() } else { shared }
    }

    /// As that, where it was pinned in part: pins the rest.
    pub(crate) fn share_begun(&mut self, begun: PinnedRun) -> Result<Shared, PinError> {
        let (slice, fresh) = (self.slice(), begun.bytes / PAGE_SIZE);
        let mut pins = Pins::default();
        pins.insert(slice.first, fresh, begun.phys);
        let window = self.window(pins);
        window.pin_rest(slice, fresh)?;
        Ok(Shared::new(window, self.addr.get() % PAGE_SIZE, slice.count, self.permitted).pinned())
    }

    fn window(&self, pins: Pins) -> Arc<Pages> {
        Pages::new(self.process.clone(), self.addr, self.pages.into(), self.access, self.account, pins)
    }
}

impl Drop for Sole {
    fn drop(&mut self) {
        self.unpin();
    }
}
