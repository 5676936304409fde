//! A part of a window that other mappings, domains and accesses may have as well.

use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::address::PAGE_SIZE;
use iommu_core::user_memory::{Account, PinnedRun};
use iommu_core::{Access, UserAddr, UserMemory};

use super::pins::{Pins, Slice};
use super::{Pages, PinError, PinnedSlice};

/// The memory of a mapping, a part of a window. Dropping it ends its own pin.
#[derive(Debug)]
pub(crate) struct Shared {
    pages: Arc<Pages>,
    /// Where in the window the mapping begins, in bytes.
    offset: u64,
    /// In how many pages it lies.
    count: u64,
    /// What devices may do.
    pub(crate) permitted: Option<Access>,
    backing: Backing,
    /// Pins of accesses that lie in it.
    pub(crate) access_pins: u32,
    pub(crate) accesses: Accesses,
}

/// Whether accesses may pin a mapping.
// F23.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accesses {
    Welcome,
    /// It is being unmapped.
    Refused,
}

/// Whether it is pinned for domains, as it is for as long as one shows it.
// F29.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backing {
    Unpinned,
    Pinned,
}

impl Shared {
    pub(super) fn new(pages: Arc<Pages>, offset: u64, count: u64, permitted: Option<Access>) -> Self {
        let (backing, accesses) = (Backing::Unpinned, Accesses::Welcome);
        Self { pages, offset, count, permitted, backing, access_pins: 0, accesses }
    }

    /// So many pages, from the one on that `addr` lies in.
    pub(crate) fn window(
        process: Arc<dyn UserMemory>,
        addr: UserAddr,
        count: u64,
        access: Access,
        permitted: Option<Access>,
        account: Option<Account>,
    ) -> Self {
        let pages = Pages::new(process, addr, count, access, account, Pins::default());
        Self::new(pages, addr.get() % PAGE_SIZE, count, permitted)
    }

    /// The same, for which the window counts a pin already.
    pub(super) fn pinned(mut self) -> Self {
        self.backing = Backing::Pinned;
        self
    }

    pub(crate) fn process(&self) -> &Arc<dyn UserMemory> {
        &self.pages.process
    }

    /// Where the process sees it.
    pub(crate) fn addr(&self) -> UserAddr {
        self.pages.addr(self.offset)
    }

    /// Some bytes of it, for another mapping.
    #[inline]
    pub(crate) fn part(&self, skip: u64, bytes: u64) -> Part {
        Part { pages: self.pages.clone(), offset: self.offset + skip, bytes }
    }

    /// A mapping of some bytes of it, pinned if this is.
    pub(crate) fn cut(&self, skip: u64, bytes: u64) -> Self {
        let part = self.part(skip, bytes).mapped(self.permitted);
        if self.backing == Backing::Unpinned {
            return part;
        }
        self.pages.hold(part.slice());
        part.pinned()
    }

    fn slice(&self) -> Slice {
        Slice { first: self.offset / PAGE_SIZE, count: self.count }
    }

    /// Returns the physical memory, if it is pinned, in order, in pieces as long as possible.
    pub(crate) fn runs(&self) -> Vec<PinnedRun> {
        self.pages.pins.lock().runs(self.slice())
    }

    /// Pins it for domains, unless it is.
    pub(crate) fn pin(&mut self) -> Result<(), PinError> {
        if self.backing == Backing::Unpinned {
            self.pages.pin_rest(self.slice(), 0)?;
            self.backing = Backing::Pinned;
        }
        Ok(())
    }

    /// Ends the pin for domains.
    pub(crate) fn unpin(&mut self) {
        if core::mem::replace(&mut self.backing, Backing::Unpinned) == Backing::Pinned {
            self.pages.unpin(self.slice());
        }
    }

    /// Pins whole pages of it for an access.
    pub(crate) fn pin_part(&self, skip: u64, bytes: u64) -> Result<PinnedSlice, PinError> {
        self.pages.pin(Slice::of(self.offset + skip, bytes))
    }

    /// A further pin of its first bytes, if it is pinned.
    pub(crate) fn again(&self, bytes: u64) -> Option<PinnedSlice> {
        (self.backing == Backing::Pinned).then(|| {
            let slice = Slice::of(self.offset, bytes);
            self.pages.hold(slice);
            PinnedSlice { pages: self.pages.clone(), slice }
        })
    }
}

/// Some bytes of a window, which another mapping is to have.
pub(crate) struct Part {
    pages: Arc<Pages>,
    /// Where in the window they begin.
    offset: u64,
    pub(crate) bytes: u64,
}

impl Part {
    /// Where the process sees them.
    pub(crate) fn addr(&self) -> UserAddr {
        self.pages.addr(self.offset)
    }

    /// The most that any mapping of the window may allow.
    pub(crate) fn access(&self) -> Access {
        self.pages.access
    }

    /// A mapping of them that is not pinned, for devices to do what is permitted.
    #[inline]
    pub(crate) fn mapped(self, permitted: Option<Access>) -> Shared {
        let count = Slice::of(self.offset, self.bytes).count;
        Shared::new(self.pages, self.offset, count, permitted)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.unpin();
    }
}
