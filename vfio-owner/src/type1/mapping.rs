//! One mapping: memory of a process that is pinned and in the page tables of every domain, once there is one.

use alloc::sync::Arc;

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

/// Physical memory in one piece, and where in the I/O address space it is.
struct Piece {
    iova: Iova,
    run: PinnedRun,
}

/// The pieces of a range, as `domain` has them mapped.
fn pieces(domain: &Domain, range: IovaRange) -> impl Iterator<Item = Piece> {
    let mut next = Some(range.first());
    core::iter::from_fn(move || {
        let iova = next.filter(|iova| range.contains(*iova))?;
        let phys = domain.iova_to_phys(iova)?;
        let left = range.last().get() - iova.get();
        let mut bytes = PAGE_SIZE;
        while bytes <= left
            && let (Some(at), Some(follows)) = (iova.checked_add(bytes), phys.checked_add(bytes))
            && domain.iova_to_phys(at) == Some(follows)
        {
            bytes += PAGE_SIZE;
        }
        next = iova.checked_add(bytes);
        Some(Piece { iova, run: PinnedRun { phys, bytes } })
    })
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
        while made.done < range.bytes() {
            let run = self.map_piece(memory, range, made.done, domains)?;
            let backing = if run.bytes == range.bytes() { Backing::Piece } else { Backing::Pieces };
            made.behind = Behind { backing, phys: run.phys };
            made.done += run.bytes;
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

    /// Pins the next piece, `done` bytes into the range, and maps it into every domain.
    #[inline]
    fn map_piece(
        &self,
        memory: &PhysicalMemory,
        range: IovaRange,
        done: u64,
        domains: &[SharedDomain],
    ) -> Result<PinnedRun, MapDmaError> {
        let at = self.addr.checked_add(done).ok_or(MapDmaError::Wraps)?;
        let iova = range.first().checked_add(done).ok_or(MapDmaError::Wraps)?;
        let run = pin_run(self.process, at, range.bytes() - done, self.access)?;
        // Those domains that may have it.
        let mut mapped: ScopeGuard<&[SharedDomain], _> =
            scopeguard::guard(&[], |mapped| unmap_and_unpin(self.process, mapped, iova, run));
        for (before, shared) in domains.iter().enumerate() {
            *mapped = domains.get(..=before).unwrap_or(domains);
            if let Err(error) = shared.domain.map(memory, iova, run.phys, run.bytes, self.access) {
                if !matches!(error, MapError::Reachable { .. }) {
                    *mapped = domains.get(..before).unwrap_or(domains);
                }
                return Err(error.into());
            }
        }
        ScopeGuard::into_inner(mapped);
        Ok(run)
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
                unmap_and_unpin(self.process, domains, made.first(), run);
            }
            Backing::Pieces => self.give_up_pieces(made, domains),
        }
    }

    // A large page never crosses the end of a piece, for it is one piece itself.
    #[cold]
    fn give_up_pieces(&self, made: IovaRange, domains: &[SharedDomain]) {
        let Some(model) = domains.first() else { return };
        // Devices may reach it through these domains.
        let keep = |Piece { run, .. }| {
            let pinned = Pinned::shared(self.process, run);
            for shared in domains {
                shared.domain.quarantine(pinned.clone());
            }
        };
        let mut left = scopeguard::guard(pieces(&model.domain, made), |left| left.for_each(keep));
        for Piece { iova, run } in left.by_ref() {
            unmap_and_unpin(self.process, domains, iova, run);
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

    /// Maps what is mapped in `model` into `domain` as well. On failure a part of it may be there.
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
            Backing::Pieces => pieces(model, range)
                .try_for_each(|piece| domain.map(memory, piece.iova, piece.run.phys, piece.run.bytes, self.access)),
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

/// Takes a piece out of the domains, then unpins it. Where hardware does not unmap all of it, or unwinds, a device may still
/// reach it: it stays pinned for as long as that domain exists.
#[inline]
fn unmap_and_unpin(process: &Arc<dyn UserMemory>, domains: &[SharedDomain], iova: Iova, run: PinnedRun) {
    let mut unmapping = Unmapping { process, run, left: domains, kept: None };
    while let [next, left @ ..] = unmapping.left {
        if next.domain.unmap(iova, run.bytes).is_ok_and(|bytes| bytes >= run.bytes) {
            unmapping.left = left;
        } else {
            unmapping.keep();
        }
    }
}

/// A piece that some domains still have. Dropping it unpins it, unless one of them keeps it; those that are left do, should
/// hardware unwind.
struct Unmapping<'a> {
    process: &'a Arc<dyn UserMemory>,
    run: PinnedRun,
    left: &'a [SharedDomain],
    /// What domains keep.
    kept: Option<Arc<Pinned>>,
}

impl Unmapping<'_> {
    /// The next domain keeps it.
    #[cold]
    fn keep(&mut self) {
        if let Some((next, left)) = self.left.split_first() {
            self.left = left;
            let kept = self.kept.get_or_insert_with(|| Pinned::shared(self.process, self.run));
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
            self.process.unpin(self.run);
        }
    }
}

/// Pinned memory, unpinned when it is dropped.
struct Pinned {
    process: Arc<dyn UserMemory>,
    run: PinnedRun,
}

impl Pinned {
    fn shared(process: &Arc<dyn UserMemory>, run: PinnedRun) -> Arc<Self> {
        Arc::new(Self { process: process.clone(), run })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.process.unpin(self.run);
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
