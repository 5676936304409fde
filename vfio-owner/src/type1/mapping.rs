//! One mapping: memory of a process that is pinned and in the page tables of every domain.

use alloc::sync::Arc;

use iommu_core::address::PAGE_SIZE;
use iommu_core::user_memory::{Account, PinnedRun};
use iommu_core::{Access, Domain, Iova, IovaRange, PhysAddr, UserAddr, UserMemory};

use crate::error::MapDmaError;

/// A mapping, besides where it is.
#[derive(Debug)]
pub(super) struct Mapping {
    /// Whose memory is pinned.
    process: Arc<dyn UserMemory>,
    /// Who answers for the locked pages: the same, unless the memory moved to another process.
    pub(super) payer: Arc<dyn UserMemory>,
    pub(super) access: Access,
    pub(super) vaddr: Vaddr,
    /// Where it lies, if in one piece; otherwise the page tables know.
    pub(super) phys: Option<PhysAddr>,
}

/// Where the process sees the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vaddr {
    At(UserAddr),
    /// It was given away, and will be somewhere else (Vt16.11).
    Away,
}

/// Pages in a range that is a multiple of the page size.
pub(super) const fn pages(range: IovaRange) -> u64 {
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
        let phys = domain.translate(iova)?;
        let left = range.last().get() - iova.get();
        let mut bytes = PAGE_SIZE;
        while bytes <= left
            && let (Some(at), Some(follows)) = (iova.checked_add(bytes), phys.checked_add(bytes))
            && domain.translate(at) == Some(follows)
        {
            bytes += PAGE_SIZE;
        }
        next = iova.checked_add(bytes);
        Some(Piece { iova, run: PinnedRun { phys, bytes } })
    })
}

impl Mapping {
    /// Pins what is to be at `range` and maps it into every domain; all or nothing (V48).
    pub(super) fn establish<'a>(
        range: IovaRange,
        process: &Arc<dyn UserMemory>,
        addr: UserAddr,
        access: Access,
        domains: impl Iterator<Item = &'a Domain> + Clone,
    ) -> Result<Self, MapDmaError> {
        process.charge(Account::Process, pages(range))?;
        let mut done = 0;
        let mut phys = None;
        while done < range.bytes() {
            let run = match map_piece(range, done, process, addr, access, domains.clone()) {
                Ok(run) => run,
                Err(error) => {
                    if let Some(made) = IovaRange::sized(range.first(), done) {
                        withdraw(made, None, process, domains);
                    }
                    process.uncharge(Account::Process, pages(range));
                    return Err(error);
                }
            };
            phys = if run.bytes == range.bytes() { Some(run.phys) } else { None };
            done += run.bytes;
        }
        Ok(Self { process: process.clone(), payer: process.clone(), access, vaddr: Vaddr::At(addr), phys })
    }

    /// Takes the mapping out of every domain, and unpins what was behind it.
    pub(super) fn dissolve<'a>(self, range: IovaRange, domains: impl Iterator<Item = &'a Domain> + Clone) {
        withdraw(range, self.phys, &self.process, domains);
        self.payer.uncharge(Account::Process, pages(range));
    }

    /// Maps what is mapped in `model` into `domain` as well; all or nothing (Vt14.15).
    pub(super) fn replay(&self, range: IovaRange, model: &Domain, domain: &Domain) -> Result<(), iommu_core::MapError> {
        if let Some(phys) = self.phys {
            return domain.map(range.first(), phys, range.bytes(), self.access);
        }
        for piece in pieces(model, range) {
            if let Err(error) = domain.map(piece.iova, piece.run.phys, piece.run.bytes, self.access) {
                domain.unmap(range.first(), piece.iova.get() - range.first().get());
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Pins the next piece, `done` bytes into the range, and maps it into every domain.
fn map_piece<'a>(
    range: IovaRange,
    done: u64,
    process: &Arc<dyn UserMemory>,
    addr: UserAddr,
    access: Access,
    domains: impl Iterator<Item = &'a Domain> + Clone,
) -> Result<PinnedRun, MapDmaError> {
    let at = addr.checked_add(done).ok_or(MapDmaError::Wraps)?;
    let iova = range.first().checked_add(done).ok_or(MapDmaError::Wraps)?;
    let run = process.pin(at, range.bytes() - done, access)?;
    for (earlier, domain) in domains.clone().enumerate() {
        if let Err(error) = domain.map(iova, run.phys, run.bytes, access) {
            for domain in domains.take(earlier) {
                domain.unmap(iova, run.bytes);
            }
            process.unpin(run);
            return Err(error.into());
        }
    }
    Ok(run)
}

fn withdraw<'a>(
    range: IovaRange,
    phys: Option<PhysAddr>,
    process: &Arc<dyn UserMemory>,
    mut domains: impl Iterator<Item = &'a Domain> + Clone,
) {
    match (phys, domains.clone().next()) {
        (Some(phys), _) => process.unpin(PinnedRun { phys, bytes: range.bytes() }),
        (None, Some(domain)) => pieces(domain, range).for_each(|piece| process.unpin(piece.run)),
        (None, None) => {}
    }
    domains.by_ref().for_each(|domain| {
        domain.unmap(range.first(), range.bytes());
    });
}
