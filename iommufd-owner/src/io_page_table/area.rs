//! Mappings: parts of windows of memory, and how domains come to show them and cease to.

use alloc::sync::Arc;

use iommu_core::address::PAGE_SIZE;
use iommu_core::user_memory::PinnedRun;
use iommu_core::{Domain, Iova, IovaRange, MapError as DomainMapError, PhysAddr, PhysicalMemory, Protection};

use super::{LargePages, Shown};
use crate::pages::{Pages, PinError, PinnedSlice, Slice};

/// A mapping: a part of a window of memory.
#[derive(Debug)]
pub(crate) struct Area {
    pub(crate) pages: Arc<Pages>,
    /// Where in the window it begins, in bytes.
    pub(crate) offset: u64,
    pub(crate) protection: Protection,
    /// Its memory, pinned for domains as long as one shows it.
    // F29.
    storage: Option<PinnedSlice>,
    /// Pins of accesses that lie in it.
    pub(crate) access_pins: u32,
    pub(crate) accesses: Accesses,
}

/// Whether accesses may pin an area.
// F23.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accesses {
    Welcome,
    /// It is being unmapped.
    Refused,
}

/// Why an area was not mapped into a domain.
pub(super) enum FillError {
    Pin(PinError),
    Domain(DomainMapError),
}

/// How areas are mapped into domains.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filler<'a> {
    pub(super) memory: &'a PhysicalMemory,
    pub(super) large_pages: LargePages,
}

impl Area {
    pub(super) fn new(pages: Arc<Pages>, offset: u64, protection: Protection) -> Self {
        Self { pages, offset, protection, storage: None, access_pins: 0, accesses: Accesses::Welcome }
    }

    fn slice(&self, bytes: u64) -> Slice {
        Slice::of(self.offset, bytes)
    }

    /// Maps it into domains, or into none of them, also when one of them unwinds. Its memory is pinned then.
    pub(super) fn map<'a>(
        &mut self,
        range: IovaRange,
        domains: impl Iterator<Item = &'a Shown> + Clone,
        filler: Filler<'_>,
    ) -> Result<(), FillError> {
        let storage = match self.storage.take() {
            Some(storage) => storage,
            None => self.pages.pin(self.slice(range.bytes())).map_err(FillError::Pin)?,
        };
        let storage = self.storage.insert(storage);
        let runs = storage.runs();
        let mut undo = Undo { area: &*self, range, domains: domains.clone(), filled: 0 };
        for shown in domains {
            undo.area.fill(range, &runs, &shown.domain, filler).map_err(FillError::Domain)?;
            undo.filled += 1;
        }
        undo.filled = 0;
        Ok(())
    }

    /// Maps it into one domain, or nothing of it: each run of memory as a whole, so that large pages can be used, or page by
    /// page.
    fn fill(
        &self,
        range: IovaRange,
        runs: &[PinnedRun],
        domain: &Domain,
        filler: Filler<'_>,
    ) -> Result<(), DomainMapError> {
        let most = if filler.large_pages == LargePages::Disabled { PAGE_SIZE } else { u64::MAX };
        let mut filling = Filling { area: self, domain, range, done: 0, reachable: false };
        // With pages smaller than those of the CPU an area may begin and end inside of one.
        let mut skip = self.offset % PAGE_SIZE;
        for run in runs {
            let (mut phys, end) = (run.phys.get() + skip, run.phys.get() + run.bytes);
            skip = 0;
            while phys < end && filling.done < range.bytes() {
                let bytes = (end - phys).min(most).min(range.bytes() - filling.done);
                filling.step(filler.memory, PhysAddr::new(phys), bytes)?;
                phys += bytes;
            }
        }
        filling.done = 0;
        Ok(())
    }

    /// Takes it out of domains. What hardware refuses to unmap, a device may still reach: its memory stays pinned for as
    /// long as the domain exists.
    pub(super) fn unmap<'a>(&self, range: IovaRange, domains: impl Iterator<Item = &'a Shown>) {
        let mut left = Unmapping { area: self, range, now: None, rest: domains };
        for shown in left.rest.by_ref() {
            left.now = Some(&shown.domain);
            self.unmap_one(range, &shown.domain);
            left.now = None;
        }
    }

    fn unmap_one(&self, range: IovaRange, domain: &Domain) {
        match domain.unmap(range.first(), range.bytes()) {
            Ok(bytes) if bytes >= range.bytes() => {}
            _ => self.quarantine(range, domain),
        }
    }

    /// Keeps the memory of its first bytes, as many as the range has, pinned for as long as the domain exists.
    fn quarantine(&self, range: IovaRange, domain: &Domain) {
        if let Some(storage) = &self.storage {
            domain.quarantine(storage.again(self.slice(range.bytes())));
        }
    }

    /// Ends the pin for domains: none shows it any more.
    pub(super) fn unpin(&mut self) {
        self.storage = None;
    }

    /// Cuts it in two, `length` bytes from where it begins. Accesses have pinned nothing of it.
    pub(super) fn split(self, range: IovaRange, length: u64) -> [Self; 2] {
        let right_slice = Slice::of(self.offset + length, range.bytes() - length);
        let left_slice = self.slice(length);
        let Self { pages, offset, protection, storage, access_pins, accesses } = self;
        let [left_storage, right_storage] =
            [left_slice, right_slice].map(|part| storage.as_ref().map(|storage| storage.again(part)));
        let left = Self { pages: pages.clone(), offset, protection, storage: left_storage, access_pins, accesses };
        let right = Self { pages, offset: offset + length, protection, storage: right_storage, access_pins, accesses };
        [left, right]
    }
}

/// An area that is being mapped into a domain. Dropping it before the end takes out what was mapped.
struct Filling<'a> {
    area: &'a Area,
    domain: &'a Domain,
    range: IovaRange,
    /// How many bytes were mapped.
    done: u64,
    /// Whether a device may reach more than those.
    reachable: bool,
}

impl Filling<'_> {
    /// Maps some bytes more.
    fn step(&mut self, memory: &PhysicalMemory, phys: PhysAddr, bytes: u64) -> Result<(), DomainMapError> {
        let at = Iova::new(self.range.first().get() + self.done);
        // If the IOMMU driver unwinds, nobody knows what it has mapped.
        self.reachable = true;
        let mapped = self.domain.map(memory, at, phys, bytes, self.area.protection);
        self.reachable = matches!(mapped, Err(DomainMapError::Reachable { .. }));
        mapped?;
        self.done += bytes;
        Ok(())
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        if self.reachable {
            self.area.quarantine(self.range, self.domain);
        }
        if let Some(done) = IovaRange::sized(self.range.first(), self.done) {
            self.area.unmap_one(done, self.domain);
        }
    }
}

/// An area that domains do not all show yet. Dropping it takes it out of those that do.
struct Undo<'a, 'b, I: Iterator<Item = &'b Shown> + Clone> {
    area: &'a Area,
    range: IovaRange,
    domains: I,
    filled: usize,
}

impl<'b, I: Iterator<Item = &'b Shown> + Clone> Drop for Undo<'_, 'b, I> {
    fn drop(&mut self) {
        self.area.unmap(self.range, self.domains.clone().take(self.filled));
    }
}

/// An area that some domains still show. Dropping it keeps its memory pinned with them.
struct Unmapping<'a, 'b, I: Iterator<Item = &'b Shown>> {
    area: &'a Area,
    range: IovaRange,
    /// The one that it is being taken out of.
    now: Option<&'b Arc<Domain>>,
    rest: I,
}

impl<'b, I: Iterator<Item = &'b Shown>> Drop for Unmapping<'_, 'b, I> {
    fn drop(&mut self) {
        let now = self.now.take();
        for domain in now.into_iter().chain(self.rest.by_ref().map(|shown| &shown.domain)) {
            self.area.quarantine(self.range, domain);
        }
    }
}
