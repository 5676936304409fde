//! A simulated process: memory that can be pinned, and a limit on locked pages.

use alloc::vec::Vec;
use core::fmt;

use device_model::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use device_model::sync::{Arc, Mutex};

use super::Memory;
use crate::address::{Access, PAGE_SIZE, PhysAddr, UserAddr};
use crate::user_memory::{Account, BadAddress, Limit, OverLimit, PinnedRun, UserMemory};

/// Where the first mapping of a process lies.
const BASE: u64 = 0x1000_0000;

/// An account of locked pages, with its limit (`RLIMIT_MEMLOCK`).
///
/// Clones are the same account. The processes of one user share one.
#[derive(Clone, Debug)]
pub struct LockedPages(Arc<Locked>);

/// The numbers belong to nothing else in memory, so that no order is needed between them.
#[derive(Debug)]
struct Locked {
    pages: AtomicUsize,
    /// In pages; [`NO_LIMIT`](Self::NO_LIMIT) for none.
    most: AtomicUsize,
}

impl Locked {
    const NO_LIMIT: usize = usize::MAX;
}

impl LockedPages {
    fn new(limit: Option<u64>) -> Self {
        Self(Arc::new(Locked { pages: AtomicUsize::new(0), most: AtomicUsize::new(most(limit)) }))
    }

    /// Creates an account without a limit.
    pub fn unlimited() -> Self {
        Self::new(None)
    }

    /// Creates an account with a limit in bytes, rounded down to whole pages.
    pub fn limited(bytes: u64) -> Self {
        Self::new(Some(bytes))
    }

    /// Returns how many pages are locked.
    pub fn pages(&self) -> u64 {
        self.0.pages.load(Ordering::Relaxed) as u64
    }

    /// Sets the limit in bytes, rounded down to whole pages; `None` for no limit. What is locked stays locked.
    pub fn set_limit(&self, bytes: Option<u64>) {
        self.0.most.store(most(bytes), Ordering::Relaxed);
    }

    /// Adds `wanted` pages.
    ///
    /// # Errors
    /// Fails if that would exceed the limit, and it is enforced. Nothing is added.
    pub fn charge(&self, limit: Limit, wanted: u64) -> Result<(), OverLimit> {
        let most = match limit {
            Limit::Enforced => self.0.most.load(Ordering::Relaxed),
            Limit::Lifted => Locked::NO_LIMIT,
        };
        let add = |locked: usize| {
            let sum = locked.saturating_add(counted(wanted));
            (most == Locked::NO_LIMIT || sum <= most).then_some(sum)
        };
        let charged = self.0.pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        charged.map(|_| ()).map_err(|locked| OverLimit { locked: locked as u64, limit: most as u64, wanted })
    }

    /// Subtracts `pages` pages.
    pub fn uncharge(&self, pages: u64) {
        let subtract = |locked: usize| Some(locked.saturating_sub(counted(pages)));
        // It never refuses.
        let _ = self.0.pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, subtract);
    }
}

/// A limit in bytes, in pages.
fn most(bytes: Option<u64>) -> usize {
    bytes.map_or(Locked::NO_LIMIT, |bytes| counted(bytes / PAGE_SIZE))
}

/// More pages than the processor can address are never locked.
fn counted(pages: u64) -> usize {
    usize::try_from(pages).unwrap_or(usize::MAX)
}

/// A process whose memory lies in a [`Memory`], so that what a device writes there can be read here.
///
/// Each [`allocate`](Self::allocate) and [`map_at`](Self::map_at) is one piece of physical memory of its own. Pins are
/// counted for each page, so that a test can ask at its end whether any is [left](Self::pinned).
#[derive(Debug)]
pub struct Process {
    memory: Memory,
    own: LockedPages,
    user: LockedPages,
    pinned: LockedPages,
    /// Whether limits do not bind it. Concerns nothing else in memory.
    lifted: AtomicBool,
    /// Leaf lock.
    mappings: Mutex<Mappings>,
}

/// Both lists are in order of address: there are few of either, and each pin searches them.
#[derive(Default)]
struct Mappings {
    mapped: Vec<Mapping>,
    /// Pieces of physical memory that are pinned or mapped.
    pieces: Vec<Piece>,
    next: u64,
}

#[derive(Debug, Clone, Copy)]
struct Mapping {
    at: UserAddr,
    phys: PhysAddr,
    bytes: u64,
    /// `None` for memory that is there, but not to be touched (`PROT_NONE`).
    access: Option<Access>,
}

struct Piece {
    phys: PhysAddr,
    /// Pins of each page, up to the last one that was ever pinned.
    pins: Vec<u32>,
    /// Sum over the pages.
    pinned: u64,
    /// Pages that are mapped.
    mapped: u64,
}

impl Piece {
    /// Whether it is neither pinned nor mapped any more.
    fn is_unused(&self) -> bool {
        self.pinned == 0 && self.mapped == 0
    }
}

impl Process {
    /// Creates a process without memory, whose user has no other; `locked` counts for both.
    pub fn new(memory: &Memory, locked: LockedPages) -> Arc<Self> {
        Self::of_user(memory, locked.clone(), locked)
    }

    /// Creates a process without memory, of a user who may have others.
    pub fn of_user(memory: &Memory, own: LockedPages, user: LockedPages) -> Arc<Self> {
        let mappings = Mappings { next: BASE, ..Mappings::default() };
        Arc::new(Self {
            memory: memory.clone(),
            own,
            user,
            pinned: LockedPages::unlimited(),
            lifted: AtomicBool::new(false),
            mappings: Mutex::new(mappings),
        })
    }

    /// Sets whether limits bind the process: [`Limit::Lifted`] gives it `CAP_IPC_LOCK`. Concerns what is mapped from now on.
    pub fn set_limit(&self, limit: Limit) {
        self.lifted.store(limit == Limit::Lifted, Ordering::Release);
    }

    /// Returns how many pages an account of the process has.
    pub fn locked(&self, account: Account) -> u64 {
        self.account(account).pages()
    }

    /// Maps `bytes` bytes of fresh memory, rounded up to whole pages, all zero, and returns its address. `None` for no bytes,
    /// or for more than is left of the 64-bit space.
    pub fn allocate(&self, bytes: u64, access: Access) -> Option<UserAddr> {
        let bytes = bytes.checked_next_multiple_of(PAGE_SIZE).filter(|bytes| *bytes > 0)?;
        let phys = self.memory.allocate(bytes)?;
        let mut mappings = self.mappings.lock();
        let at = UserAddr::new(mappings.next);
        // A page that nobody has lies behind each mapping.
        mappings.next = at.checked_add(bytes)?.checked_add(PAGE_SIZE)?.get();
        mappings.insert(Mapping { at, phys, bytes, access: Some(access) });
        Some(at)
    }

    /// Maps `bytes` bytes of fresh memory at `at`, in the place of whatever is there: `mmap` with `MAP_FIXED`. `None` if
    /// `at` or `bytes` is not a multiple of the page size, or there is not so much left of the address space.
    pub fn map_at(&self, at: UserAddr, bytes: u64, access: Access) -> Option<()> {
        let end = end_of(at, bytes)?;
        let phys = self.memory.allocate(bytes)?;
        let mut mappings = self.mappings.lock();
        mappings.remove(at.get(), end);
        mappings.insert(Mapping { at, phys, bytes, access: Some(access) });
        mappings.next = mappings.next.max(end.saturating_add(PAGE_SIZE));
        Some(())
    }

    /// Changes what may be done with the `bytes` bytes at `at`, `None` being nothing: `mprotect`.
    ///
    /// # Errors
    /// Fails if something of it is not mapped; what lies before has changed. Also if `at` or `bytes` is not a multiple of
    /// the page size.
    pub fn protect(&self, at: UserAddr, bytes: u64, access: Option<Access>) -> Result<(), BadAddress> {
        let end = end_of(at, bytes).ok_or(BadAddress { at })?;
        let mut mappings = self.mappings.lock();
        mappings.cut(at.get());
        mappings.cut(end);
        let first = mappings.first_from(at.get());
        let mut next = at.get();
        for mapping in mappings.mapped.iter_mut().skip(first).take_while(|mapping| mapping.at.get() < end) {
            if mapping.at.get() != next {
                break;
            }
            mapping.access = access;
            next += mapping.bytes;
        }
        if next < end {
            return Err(BadAddress { at: UserAddr::new(next) });
        }
        Ok(())
    }

    /// Unmaps whatever is mapped in the `bytes` bytes at `at`: `munmap`. Pinned pages stay where they are. Does nothing if
    /// `at` or `bytes` is not a multiple of the page size.
    pub fn unmap_range(&self, at: UserAddr, bytes: u64) {
        if let Some(end) = end_of(at, bytes) {
            self.mappings.lock().remove(at.get(), end);
        }
    }

    /// Unmaps the mapping that begins at `at`, if any. Pinned pages stay where they are.
    pub fn unmap(&self, at: UserAddr) {
        let mut mappings = self.mappings.lock();
        if let Some(mapping) = mappings.mapping_of(at).filter(|mapping| mapping.at == at) {
            let end = at.get() + mapping.bytes;
            mappings.remove(at.get(), end);
        }
    }

    /// Returns how many pins are held, over all pages.
    pub fn pinned(&self) -> u64 {
        self.mappings.lock().pieces.iter().map(|piece| piece.pinned).sum()
    }

    fn account(&self, account: Account) -> &LockedPages {
        match account {
            Account::Process => &self.own,
            Account::User => &self.user,
            Account::Pinned => &self.pinned,
        }
    }

    /// Calls `touch` for each piece of physical memory behind the `bytes` bytes at `at`, with how many bytes come before.
    fn pieces(
        &self,
        at: UserAddr,
        bytes: usize,
        access: Access,
        mut touch: impl FnMut(PhysAddr, core::ops::Range<usize>),
    ) -> Result<(), BadAddress> {
        let mut done = 0;
        while done < bytes {
            let at = at.checked_add(done as u64).ok_or(BadAddress { at })?;
            let (phys, left) = self.mappings.lock().find(at, access)?;
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(bytes - done);
            touch(phys, done..done + length);
            done += length;
        }
        Ok(())
    }
}

/// Where a range of whole pages ends.
fn end_of(at: UserAddr, bytes: u64) -> Option<u64> {
    let whole = bytes > 0 && (at.get() | bytes).is_multiple_of(PAGE_SIZE);
    at.get().checked_add(bytes).filter(|_| whole)
}

impl Mappings {
    /// The place of the first mapping that begins at `at` or above.
    fn first_from(&self, at: u64) -> usize {
        self.mapped.partition_point(|mapping| mapping.at.get() < at)
    }

    /// The mapping that begins at `at`, or the last one below.
    fn mapping_of(&self, at: UserAddr) -> Option<&Mapping> {
        self.mapped.get(..self.mapped.partition_point(|mapping| mapping.at <= at))?.last()
    }

    /// Maps a piece that is new.
    fn insert(&mut self, mapping: Mapping) {
        self.mapped.insert(self.first_from(mapping.at.get()), mapping);
        let place = self.pieces.partition_point(|piece| piece.phys < mapping.phys);
        let piece = Piece { phys: mapping.phys, pins: Vec::new(), pinned: 0, mapped: mapping.bytes / PAGE_SIZE };
        self.pieces.insert(place, piece);
    }

    /// Makes a mapping that goes across `at` two.
    fn cut(&mut self, at: u64) {
        let place = self.first_from(at);
        let Some(mapping) = self.mapped.get_mut(..place).and_then(<[_]>::last_mut) else { return };
        let before = at - mapping.at.get();
        if before < mapping.bytes
            && let Some(phys) = mapping.phys.checked_add(before)
        {
            let rest = Mapping { at: UserAddr::new(at), phys, bytes: mapping.bytes - before, ..*mapping };
            mapping.bytes = before;
            self.mapped.insert(place, rest);
        }
    }

    fn remove(&mut self, first: u64, end: u64) {
        self.cut(first);
        self.cut(end);
        let inside = self.first_from(first)..self.first_from(end);
        for mapping in self.mapped.drain(inside) {
            let Some((place, _)) = piece_of(&self.pieces, mapping.phys) else { continue };
            let Some(piece) = self.pieces.get_mut(place) else { continue };
            piece.mapped -= mapping.bytes / PAGE_SIZE;
            if piece.is_unused() {
                self.pieces.remove(place);
            }
        }
    }

    /// What lies at `at`, and how many bytes of it there are.
    fn find(&self, at: UserAddr, access: Access) -> Result<(PhysAddr, u64), BadAddress> {
        let inside = self.mapping_of(at).and_then(|mapping| {
            let offset = at.get() - mapping.at.get();
            let left = mapping.bytes.checked_sub(offset).filter(|left| *left > 0)?;
            let phys = mapping.phys.checked_add(offset)?;
            mapping.access?.permits(access).then_some((phys, left))
        });
        inside.ok_or(BadAddress { at })
    }
}

/// The place of the piece that has `phys`, and which page of it that is.
fn piece_of(pieces: &[Piece], phys: PhysAddr) -> Option<(usize, usize)> {
    let place = pieces.partition_point(|piece| piece.phys <= phys).checked_sub(1)?;
    let page = (phys.get() - pieces.get(place)?.phys.get()) / PAGE_SIZE;
    Some((place, usize::try_from(page).ok()?))
}

impl UserMemory for Process {
    fn pin(&self, at: UserAddr, bytes: u64, access: Access) -> Result<PinnedRun, BadAddress> {
        let bad = BadAddress { at };
        if bytes == 0 || !(at.get() | bytes).is_multiple_of(PAGE_SIZE) {
            return Err(bad);
        }
        let mut mappings = self.mappings.lock();
        let (phys, left) = mappings.find(at, access)?;
        let bytes = bytes.min(left);
        let pages = bytes / PAGE_SIZE;
        let (place, first) = piece_of(&mappings.pieces, phys).ok_or(bad)?;
        let piece = mappings.pieces.get_mut(place).ok_or(bad)?;
        let end = usize::try_from(pages).ok().and_then(|pages| first.checked_add(pages)).ok_or(bad)?;
        if piece.pins.len() < end {
            piece.pins.resize(end, 0);
        }
        for count in piece.pins.get_mut(first..end).unwrap_or_default() {
            *count = count.saturating_add(1);
        }
        piece.pinned += pages;
        Ok(PinnedRun { phys, bytes })
    }

    fn unpin(&self, run: PinnedRun) {
        let mut mappings = self.mappings.lock();
        let (mut phys, mut left) = (run.phys, run.bytes / PAGE_SIZE);
        while left > 0 {
            let Some((place, first)) = piece_of(&mappings.pieces, phys) else { return };
            let Some(piece) = mappings.pieces.get_mut(place) else { return };
            let Some(counts) = piece.pins.get_mut(first..).filter(|counts| !counts.is_empty()) else { return };
            let pages = left.min(counts.len() as u64);
            let pinned = counts.iter_mut().take(counted(pages)).filter(|count| **count > 0);
            piece.pinned -= pinned.map(|count| *count -= 1).count() as u64;
            if piece.is_unused() {
                mappings.pieces.remove(place);
            }
            left -= pages;
            let Some(next) = phys.checked_add(pages * PAGE_SIZE) else { return };
            phys = next;
        }
    }

    fn read(&self, at: UserAddr, into: &mut [u8]) -> Result<(), BadAddress> {
        self.pieces(at, into.len(), Access::Read, |phys, part| {
            if let Some(part) = into.get_mut(part) {
                self.memory.read(phys, part);
            }
        })
    }

    fn write(&self, at: UserAddr, from: &[u8]) -> Result<(), BadAddress> {
        self.pieces(at, from.len(), Access::Write, |phys, part| {
            if let Some(part) = from.get(part) {
                self.memory.write(phys, part);
            }
        })
    }

    fn limit(&self) -> Limit {
        if self.lifted.load(Ordering::Acquire) { Limit::Lifted } else { Limit::Enforced }
    }

    fn charge(&self, account: Account, limit: Limit, pages: u64) -> Result<(), OverLimit> {
        self.account(account).charge(limit, pages)
    }

    fn uncharge(&self, account: Account, pages: u64) {
        self.account(account).uncharge(pages);
    }
}

impl fmt::Debug for Mappings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.mapped).finish()
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
