//! Mappings: parts of windows of memory, and how domains come to show them and cease to.

use alloc::sync::Arc;

use iommu_core::address::{PAGE_SIZE, PhysRun};
use iommu_core::user_memory::{Account, Limit, PinnedRun};
use iommu_core::{
    Access, Domain, Iova, IovaRange, MapError as DomainMapError, PhysAddr, PhysicalMemory, Protection, UserAddr,
    UserMemory,
};

use super::{LargePages, Shown};
pub(crate) use crate::pages::Accesses;
use crate::pages::{PinError, Pinned, Shared, Slice, Sole};

/// A mapping: a part of a window of memory. Address spaces hold millions of them: it is kept small.
#[derive(Debug)]
pub(crate) enum Area {
    /// It has the window for itself, and all of it.
    Sole(Sole),
    Shared(Shared),
}

const _: () = assert!(size_of::<Option<Area>>() == 40 || cfg!(not(target_pointer_width = "64")));

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
    /// A mapping of memory that no other mapping has, for devices to do what is permitted.
    pub(crate) fn new(
        process: Arc<dyn UserMemory>,
        addr: UserAddr,
        bytes: u64,
        access: Access,
        permitted: Option<Access>,
        account: Account,
    ) -> Self {
        let account = (process.limit() == Limit::Enforced).then_some(account);
        let count = Slice::of(addr.get() % PAGE_SIZE, bytes).count;
        match u32::try_from(count) {
            Ok(count) => Self::Sole(Sole::new(process, addr, count, access, permitted, account)),
            Err(_) => Self::Shared(Shared::window(process, addr, count, access, permitted, account)),
        }
    }

    /// Its memory, which others may have as well from now on.
    pub(crate) fn share(&mut self) -> &mut Shared {
        if let Self::Sole(sole) = self {
            *self = Self::Shared(sole.share());
        }
        match self {
            Self::Shared(shared) => shared,
            Self::Sole(_) => unreachable!("it was made shared just now"),
        }
    }

    pub(crate) fn process(&self) -> &Arc<dyn UserMemory> {
        match self {
            Self::Sole(sole) => sole.process(),
            Self::Shared(shared) => shared.process(),
        }
    }

    /// Where the process sees it.
    pub(crate) fn addr(&self) -> UserAddr {
        match self {
            Self::Sole(sole) => sole.addr(),
            Self::Shared(shared) => shared.addr(),
        }
    }

    /// What devices may do.
    pub(crate) fn permitted(&self) -> Option<Access> {
        match self {
            Self::Sole(sole) => sole.permitted,
            Self::Shared(shared) => shared.permitted,
        }
    }

    /// How many pins of accesses lie in it.
    pub(crate) fn access_pins(&self) -> u32 {
        match self {
            Self::Sole(_) => 0,
            Self::Shared(shared) => shared.access_pins,
        }
    }

    /// Whether accesses may pin it.
    pub(crate) fn accesses(&self) -> Accesses {
        match self {
            Self::Sole(_) => Accesses::Welcome,
            Self::Shared(shared) => shared.accesses,
        }
    }

    fn pin(&mut self) -> Result<(), PinError> {
        match self {
            Self::Sole(sole) => {
                if let Pinned::Begun(run) = sole.pin()? {
                    *self = Self::Shared(sole.share_begun(run)?);
                }
                Ok(())
            }
            Self::Shared(shared) => shared.pin(),
        }
    }

    /// Maps it into domains, or into none of them, also when one of them unwinds. Its memory is pinned then.
    pub(super) fn map<'a>(
        &mut self,
        range: IovaRange,
        domains: impl Iterator<Item = &'a Shown> + Clone,
        filler: Filler<'_>,
    ) -> Result<(), FillError> {
        self.pin().map_err(FillError::Pin)?;
        let (one, many);
        let runs: &[PinnedRun] = match self {
            Self::Sole(sole) => {
                one = [sole.run()];
                &one
            }
            Self::Shared(shared) => {
                many = shared.runs();
                &many
            }
        };
        let mut undo = Undo { area: self, range, domains: domains.clone(), filled: 0 };
        for shown in domains {
            undo.area.fill(range, runs, &shown.domain, filler).map_err(FillError::Domain)?;
            undo.filled += 1;
        }
        undo.filled = 0;
        Ok(())
    }

    /// Maps it into one domain, or nothing of it: as a whole, so that large pages can be used, or page by page.
    fn fill(
        &mut self,
        range: IovaRange,
        runs: &[PinnedRun],
        domain: &Domain,
        filler: Filler<'_>,
    ) -> Result<(), DomainMapError> {
        let protection = self.permitted().map_or(Protection::empty(), Protection::from);
        // With pages smaller than those of the CPU an area may begin and end inside of one.
        let pieces = part(runs, self.addr().get() % PAGE_SIZE, range.bytes());
        let mut filling = Filling { area: self, protection, domain, range, done: 0, reachable: false };
        match filler.large_pages {
            LargePages::Enabled => filling.step(filler.memory, range.bytes(), pieces)?,
            LargePages::Disabled => {
                for page in pieces.flat_map(pages) {
                    filling.step(filler.memory, page.bytes, [page])?;
                }
            }
        }
        filling.done = 0;
        Ok(())
    }

    /// Takes it out of domains. What hardware refuses to unmap, a device may still reach: its memory stays pinned for as
    /// long as the domain exists.
    pub(super) fn unmap<'a>(&mut self, range: IovaRange, domains: impl Iterator<Item = &'a Shown>) {
        let mut left = Unmapping { area: self, range, now: None, rest: domains };
        for shown in left.rest.by_ref() {
            left.now = Some(&shown.domain);
            left.area.unmap_one(range, &shown.domain);
            left.now = None;
        }
    }

    fn unmap_one(&mut self, range: IovaRange, domain: &Domain) {
        match domain.unmap(range.first(), range.bytes()) {
            Ok(bytes) if bytes >= range.bytes() => {}
            _ => self.quarantine(range, domain),
        }
    }

    /// Keeps the memory of its first bytes, as many as the range has, pinned for as long as the domain exists.
    fn quarantine(&mut self, range: IovaRange, domain: &Domain) {
        if let Some(pinned) = self.share().again(range.bytes()) {
            domain.quarantine(pinned);
        }
    }

    /// Ends the pin for domains: none shows it any more.
    pub(super) fn unpin(&mut self) {
        match self {
            Self::Sole(sole) => sole.unpin(),
            Self::Shared(shared) => shared.unpin(),
        }
    }

    /// Cuts it in two, `length` bytes from where it begins. Accesses have pinned nothing of it.
    pub(super) fn split(mut self, range: IovaRange, length: u64) -> [Self; 2] {
        let shared = self.share();
        [(0, length), (length, range.bytes() - length)].map(|(skip, bytes)| Self::Shared(shared.cut(skip, bytes)))
    }
}

/// So many bytes of memory that is pinned, without the first ones.
fn part(runs: &[PinnedRun], mut skip: u64, bytes: u64) -> impl Iterator<Item = PhysRun> {
    let mut left = bytes;
    runs.iter().map_while(move |run| {
        let bytes = (run.bytes - skip).min(left);
        let phys = PhysAddr::new(run.phys.get() + skip);
        (skip, left) = (0, left - bytes);
        (bytes > 0).then_some(PhysRun { phys, bytes })
    })
}

/// A piece in pieces of a page.
fn pages(piece: PhysRun) -> impl Iterator<Item = PhysRun> {
    let pages = 0..piece.bytes.div_ceil(PAGE_SIZE);
    pages.map(move |page| page * PAGE_SIZE).map(move |done| PhysRun {
        phys: PhysAddr::new(piece.phys.get() + done),
        bytes: PAGE_SIZE.min(piece.bytes - done),
    })
}

/// An area that is being mapped into a domain. Dropping it before the end takes out what was mapped.
struct Filling<'a> {
    area: &'a mut Area,
    protection: Protection,
    domain: &'a Domain,
    range: IovaRange,
    /// How many bytes were mapped.
    done: u64,
    /// Whether a device may reach more than those.
    reachable: bool,
}

impl Filling<'_> {
    /// Maps some bytes more.
    fn step(
        &mut self,
        memory: &PhysicalMemory,
        bytes: u64,
        pieces: impl IntoIterator<Item = PhysRun>,
    ) -> Result<(), DomainMapError> {
        let at = Iova::new(self.range.first().get() + self.done);
        // If the IOMMU driver unwinds, nobody knows what it has mapped.
        self.reachable = true;
        let mapped = self.domain.map_sg(memory, at, pieces, self.protection);
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
    area: &'a mut Area,
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
    area: &'a mut Area,
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
