//! One mapping: memory of a process that is pinned and in the page tables of every domain, once there is one.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use iommu_core::address::PAGE_SIZE;
use iommu_core::user_memory::{Account, BadAddress, Limit, OverLimit, PinnedRun};
use iommu_core::{Access, Domain, Iova, IovaRange, MapError, PhysAddr, PhysicalMemory, UserAddr, UserMemory};
use scopeguard::ScopeGuard;

use super::attach::SharedDomain;
use super::processes::{ProcessKey, Processes};
use crate::backend::MapDmaError;

/// A mapping, besides where it is. Containers hold millions of them: it is kept small.
#[derive(Debug)]
pub(super) struct Mapping {
    /// Where the process sees the memory, while `vaddr` is valid.
    addr: UserAddr,
    /// Where the memory lies, if `backing` is one piece.
    phys: PhysAddr,
    /// Whose memory it is.
    process: ProcessKey,
    /// Who answers for the locked pages: the same, unless the memory moved to another process.
    payer: ProcessKey,
    backing: Backing,
    /// Whether its limit counted when this was mapped.
    limit: Limit,
    access: Access,
    vaddr: Vaddr,
}

/// The physical memory behind a mapping.
// As wide as the keys: where a map holds a mapping or none, this says which, and a narrow one would make the rest two parts
// that overlap when they are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Backing {
    /// Not pinned, for there is no domain yet.
    // V48.
    Unpinned,
    /// Pinned, in one piece.
    Piece,
    /// Pinned, in several pieces: the page tables know where.
    Pieces,
}

/// Whether the process sees the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vaddr {
    Valid,
    /// It was given away, and will be somewhere else.
    // Vt16.11.
    Away,
}

/// Pages in a range that is a multiple of the page size.
const fn pages(range: IovaRange) -> u64 {
    range.bytes() / PAGE_SIZE
}

/// So many pieces are pinned and mapped at once, or unmapped and unpinned.
const BATCH: usize = 256;

/// The pieces of a range, as `domain` has them mapped. No page of any domain lies across the end of one.
fn pieces(domain: &Domain, range: IovaRange) -> impl Iterator<Item = PinnedRun> {
    let mut left = Some(range);
    core::iter::from_fn(move || {
        let here = left?;
        let run = domain.iova_to_run(here)?;
        left = here.first().checked_add(run.bytes).and_then(|next| IovaRange::new(next, here.last()));
        Some(run)
    })
}

/// How many bytes pieces have.
fn bytes_of(runs: &[PinnedRun]) -> u64 {
    runs.iter().map(|run| run.bytes).sum()
}

/// Memory that is to be mapped, or was.
pub(super) struct Source<'a> {
    /// Whose memory it is.
    pub(super) process: &'a Arc<dyn UserMemory>,
    /// Who answers for the locked pages.
    pub(super) payer: &'a Arc<dyn UserMemory>,
    pub(super) limit: Limit,
    pub(super) addr: UserAddr,
    pub(super) access: Access,
}

/// What is behind a mapping, and where it lies if that is one piece.
#[derive(Debug, Clone, Copy)]
pub(super) struct Behind {
    backing: Backing,
    phys: PhysAddr,
}

impl Behind {
    const NOTHING: Self = Self { backing: Backing::Unpinned, phys: PhysAddr::new(0) };
}

impl Source<'_> {
    /// Pins what is to be at `range` and maps it into every domain, if there is any; all or nothing.
    // V48.
    pub(super) fn pin(
        &self,
        memory: &PhysicalMemory,
        range: IovaRange,
        domains: &[SharedDomain],
    ) -> Result<Behind, MapDmaError> {
        if domains.is_empty() {
            return Ok(Behind::NOTHING);
        }
        if let Err(over) = self.payer.charge(Account::Process, self.limit, pages(range)) {
            return Err(self.refused(range, over));
        }
        let mut made = Made { source: self, domains, range, behind: Behind::NOTHING, done: 0 };
        let run = pin_run(self.process, self.addr, range.bytes(), self.access)?;
        if run.bytes == range.bytes() {
            self.map_pinned(memory, range.first(), &[run], domains)?;
            made.behind = Behind { backing: Backing::Piece, phys: run.phys };
        } else {
            made.add_pieces(memory, run)?;
        }
        Ok(made.finish())
    }

    /// Why it is not mapped when it is over the limit. Linux counts page by page: what is not there below the limit is found
    /// first.
    #[cold]
    fn refused(&self, range: IovaRange, over: OverLimit) -> MapDmaError {
        let below = over.limit.saturating_sub(over.locked).saturating_add(1).min(pages(range));
        match try_pinning(self.process, self.addr, below * PAGE_SIZE, self.access) {
            Ok(()) => over.into(),
            Err(error) => error,
        }
    }

    /// Maps pieces that were just pinned into every domain, one behind the other, or unpins them.
    #[expect(clippy::inline_always, reason = "so that one piece is no list")]
    #[inline(always)]
    fn map_pinned(
        &self,
        memory: &PhysicalMemory,
        iova: Iova,
        runs: &[PinnedRun],
        domains: &[SharedDomain],
    ) -> Result<(), MapDmaError> {
        // Those domains that may have it.
        let mut mapped: ScopeGuard<&[SharedDomain], _> =
            scopeguard::guard(&[], |mapped| unmap_and_unpin(self.process, mapped, iova, runs));
        for (before, SharedDomain { domain, .. }) in domains.iter().enumerate() {
            *mapped = domains.get(..=before).unwrap_or(domains);
            if let Err(error) = domain.map_sg(memory, iova, runs.iter().copied(), self.access) {
                if !matches!(error, MapError::Reachable { .. }) {
                    *mapped = domains.get(..before).unwrap_or(domains);
                }
                return Err(error.into());
            }
        }
        ScopeGuard::into_inner(mapped);
        Ok(())
    }

    /// Takes what was `made` of it out of every domain and unpins it, and is charged for nothing any more: also if hardware
    /// unwinds.
    #[inline]
    fn give_up(&self, behind: Behind, range: IovaRange, made: IovaRange, domains: &[SharedDomain]) {
        let _charged = scopeguard::guard(self.payer, |payer| payer.uncharge(Account::Process, pages(range)));
        match behind.backing {
            Backing::Unpinned => {}
            Backing::Piece => {
                let run = PinnedRun { phys: behind.phys, bytes: made.bytes() };
                unmap_and_unpin(self.process, domains, made.first(), &[run]);
            }
            Backing::Pieces => self.give_up_pieces(made, domains),
        }
    }

    #[cold]
    fn give_up_pieces(&self, made: IovaRange, domains: &[SharedDomain]) {
        let Some(model) = domains.first() else { return };
        // Devices may reach it through these domains.
        let keep = |run| {
            let pinned = Pinned::shared(self.process, &[run]);
            for shared in domains {
                shared.domain.quarantine(pinned.clone());
            }
        };
        let mut left = scopeguard::guard(pieces(&model.domain, made), |left| left.for_each(keep));
        let mut next = Some(made.first());
        loop {
            let runs: Vec<PinnedRun> = left.by_ref().take(BATCH).collect();
            let Some(iova) = next.filter(|_| !runs.is_empty()) else { break };
            unmap_and_unpin(self.process, domains, iova, &runs);
            next = iova.checked_add(bytes_of(&runs));
        }
    }
}

/// What is made so far of a range that is charged for. Dropped, it is undone: also if a pin unwinds.
struct Made<'a> {
    source: &'a Source<'a>,
    domains: &'a [SharedDomain],
    range: IovaRange,
    behind: Behind,
    /// So many bytes are pinned and in every domain.
    done: u64,
}

impl Made<'_> {
    /// Makes what lies in several pieces, of which the first is pinned.
    #[cold]
    fn add_pieces(&mut self, memory: &PhysicalMemory, first: PinnedRun) -> Result<(), MapDmaError> {
        let Self { source: Source { process, addr, access, .. }, range, .. } = *self;
        let unpin = |runs: Vec<PinnedRun>| runs.into_iter().for_each(|run| process.unpin(run));
        let mut runs = scopeguard::guard(vec![first], unpin);
        let mut pinned = first.bytes;
        while self.done < range.bytes() {
            while runs.len() < BATCH && pinned < range.bytes() {
                let at = addr.checked_add(pinned).ok_or(MapDmaError::Wraps)?;
                let run = pin_run(process, at, range.bytes() - pinned, *access)?;
                pinned += run.bytes;
                runs.push(run);
            }
            let iova = range.first().checked_add(self.done).ok_or(MapDmaError::Wraps)?;
            self.source.map_pinned(memory, iova, &core::mem::take(&mut *runs), self.domains)?;
            self.behind = Behind { backing: Backing::Pieces, ..Behind::NOTHING };
            self.done = pinned;
        }
        Ok(())
    }

    /// All of it is made.
    fn finish(self) -> Behind {
        let behind = self.behind;
        core::mem::forget(self);
        behind
    }
}

impl Drop for Made<'_> {
    #[cold]
    fn drop(&mut self) {
        // Of nothing, `behind` says so.
        let made = IovaRange::sized(self.range.first(), self.done).unwrap_or(self.range);
        self.source.give_up(self.behind, self.range, made, self.domains);
    }
}

impl Mapping {
    /// A mapping of memory of `process`, which is named twice for it.
    pub(super) fn new(process: ProcessKey, limit: Limit, addr: UserAddr, access: Access, behind: Behind) -> Self {
        let Behind { backing, phys } = behind;
        Self { addr, phys, process, payer: process, backing, limit, access, vaddr: Vaddr::Valid }
    }

    /// The processes that it names, each once; whoever takes the mapping out of the container must leave them.
    pub(super) fn names(&self) -> [ProcessKey; 2] {
        [self.process, self.payer]
    }

    fn source<'a>(&self, processes: &'a Processes) -> Source<'a> {
        let (process, payer) = (processes.get(self.process), processes.get(self.payer));
        Source { process, payer, limit: self.limit, addr: self.addr, access: self.access }
    }

    /// Pins what is to be at `range` and maps it into every domain, unless that was done or its memory is given away.
    // V48.
    pub(super) fn pin(
        &mut self,
        processes: &Processes,
        memory: &PhysicalMemory,
        range: IovaRange,
        domains: &[SharedDomain],
    ) -> Result<(), MapDmaError> {
        if !self.is_away() && self.backing == Backing::Unpinned {
            Behind { backing: self.backing, phys: self.phys } = self.source(processes).pin(memory, range, domains)?;
        }
        Ok(())
    }

    /// Takes the mapping out of every domain, and unpins what was behind it.
    pub(super) fn unpin(&mut self, processes: &Processes, range: IovaRange, domains: &[SharedDomain]) {
        let backing = core::mem::replace(&mut self.backing, Backing::Unpinned);
        if backing != Backing::Unpinned {
            let behind = Behind { backing, phys: self.phys };
            self.source(processes).give_up(behind, range, range, domains);
        }
    }

    /// Maps what is mapped in `model` into `domain` as well.
    // Vt14.15.
    pub(super) fn replay(
        &self,
        memory: &PhysicalMemory,
        range: IovaRange,
        model: &Domain,
        domain: &Domain,
    ) -> Result<(), MapError> {
        match self.backing {
            Backing::Unpinned => Ok(()),
            Backing::Piece => domain.map(memory, range.first(), self.phys, range.bytes(), self.access),
            Backing::Pieces => domain.map_sg(memory, range.first(), pieces(model, range), self.access),
        }
    }

    /// Whether its memory is given away.
    pub(super) fn is_away(&self) -> bool {
        self.vaddr == Vaddr::Away
    }

    /// Its memory goes away for a while.
    // Vt16.11.
    pub(super) fn give_away(&mut self) {
        self.vaddr = Vaddr::Away;
    }

    /// Its memory is there again, at another address or of another process, who answers for the locked pages from now
    /// on. A process that has them locked already is not charged again.
    // Vt15.8.
    pub(super) fn take_back(
        &mut self,
        processes: &mut Processes,
        range: IovaRange,
        process: &Arc<dyn UserMemory>,
        addr: UserAddr,
    ) -> Result<(), OverLimit> {
        let payer = processes.get(self.payer);
        if !Arc::ptr_eq(payer, process) {
            let limit = process.limit();
            if self.backing != Backing::Unpinned {
                process.charge(Account::Process, limit, pages(range))?;
                payer.uncharge(Account::Process, pages(range));
            }
            self.limit = limit;
            let unpinned = self.backing == Backing::Unpinned;
            let new = processes.enter(process, if unpinned { 2 } else { 1 });
            if unpinned {
                processes.leave(core::mem::replace(&mut self.process, new));
            }
            processes.leave(core::mem::replace(&mut self.payer, new));
        }
        self.addr = addr;
        self.vaddr = Vaddr::Valid;
        Ok(())
    }
}

/// Whether so much of the memory can be pinned.
fn try_pinning(process: &Arc<dyn UserMemory>, addr: UserAddr, bytes: u64, access: Access) -> Result<(), MapDmaError> {
    let mut done = 0;
    while done < bytes {
        let at = addr.checked_add(done).ok_or(MapDmaError::Wraps)?;
        let run = pin_run(process, at, bytes - done, access)?;
        process.unpin(run);
        done += run.bytes;
    }
    Ok(())
}

/// Takes pieces that lie one behind the other out of the domains, then unpins them. Where hardware does not unmap all of them,
/// or unwinds, a device may still reach them: they stay pinned for as long as that domain exists.
#[expect(clippy::inline_always, reason = "so that one piece is no list")]
#[inline(always)]
fn unmap_and_unpin(process: &Arc<dyn UserMemory>, domains: &[SharedDomain], iova: Iova, runs: &[PinnedRun]) {
    let bytes = bytes_of(runs);
    let mut unmapping = Unmapping { process, runs, left: domains, kept: None };
    while let [next, left @ ..] = unmapping.left {
        if next.domain.unmap(iova, bytes).is_ok_and(|unmapped| unmapped >= bytes) {
            unmapping.left = left;
        } else {
            unmapping.keep();
        }
    }
}

/// Pieces that some domains still have. Dropping it unpins them, unless one of the domains keeps them; those that are left do,
/// should hardware unwind.
struct Unmapping<'a> {
    process: &'a Arc<dyn UserMemory>,
    runs: &'a [PinnedRun],
    left: &'a [SharedDomain],
    /// What domains keep.
    kept: Option<Arc<Pinned>>,
}

impl Unmapping<'_> {
    /// The next domain keeps them.
    #[cold]
    fn keep(&mut self) {
        if let Some((next, left)) = self.left.split_first() {
            self.left = left;
            let kept = self.kept.get_or_insert_with(|| Pinned::shared(self.process, self.runs));
            next.domain.quarantine(kept.clone());
        }
    }
}

impl Drop for Unmapping<'_> {
    #[inline]
    fn drop(&mut self) {
        while !self.left.is_empty() {
            self.keep();
        }
        if self.kept.is_none() {
            self.runs.iter().for_each(|run| self.process.unpin(*run));
        }
    }
}

/// Pinned memory, unpinned when it is dropped.
struct Pinned {
    process: Arc<dyn UserMemory>,
    runs: Vec<PinnedRun>,
}

impl Pinned {
    fn shared(process: &Arc<dyn UserMemory>, runs: &[PinnedRun]) -> Arc<Self> {
        Arc::new(Self { process: process.clone(), runs: runs.to_vec() })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.runs.iter().for_each(|run| self.process.unpin(*run));
    }
}

/// Pins as much as lies in one piece from `at` on. A run that is not what `pin` promises is given back, and is as good as no
/// memory.
fn pin_run(process: &Arc<dyn UserMemory>, at: UserAddr, bytes: u64, access: Access) -> Result<PinnedRun, BadAddress> {
    let run = process.pin(at, bytes, access).or_else(|_| process.pin_registers(at, bytes, access))?;
    let fits = (1..=bytes).contains(&run.bytes) && (run.bytes | run.phys.get()).is_multiple_of(PAGE_SIZE);
    if fits && run.phys.checked_add(run.bytes - 1).is_some() {
        return Ok(run);
    }
    if run.bytes > 0 {
        process.unpin(run);
    }
    Err(BadAddress { at })
}
