//! A simulated process: memory that can be pinned, and a limit on locked pages.

use alloc::collections::BTreeMap;
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

#[derive(Default)]
struct Mappings {
    /// By their first address.
    by_address: BTreeMap<UserAddr, Mapping>,
    /// Pins of each page of a piece of physical memory, by its first address. Kept while pinned or mapped.
    pins: BTreeMap<PhysAddr, Pins>,
    next: u64,
}

#[derive(Debug, Clone, Copy)]
struct Mapping {
    phys: PhysAddr,
    bytes: u64,
    /// `None` for memory that is there, but not to be touched (`PROT_NONE`).
    access: Option<Access>,
}

struct Pins {
    of_page: Vec<u32>,
    /// Sum over the pages.
    total: u64,
    /// Pages that are mapped.
    mapped: u64,
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
        let at = mappings.next;
        // A page that nobody has lies behind each mapping.
        let next = at.checked_add(bytes)?.checked_add(PAGE_SIZE)?;
        mappings.next = next;
        mappings.insert(at, Mapping { phys, bytes, access: Some(access) });
        Some(UserAddr::new(at))
    }

    /// Maps `bytes` bytes of fresh memory at `at`, in the place of whatever is there: `mmap` with `MAP_FIXED`. `None` if
    /// `at` or `bytes` is not a multiple of the page size, or there is not so much left of the address space.
    pub fn map_at(&self, at: UserAddr, bytes: u64, access: Access) -> Option<()> {
        let end = end_of(at, bytes)?;
        let phys = self.memory.allocate(bytes)?;
        let mut mappings = self.mappings.lock();
        mappings.remove(at.get(), end);
        mappings.insert(at.get(), Mapping { phys, bytes, access: Some(access) });
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
        let mut next = at.get();
        while next < end {
            let hole = BadAddress { at: UserAddr::new(next) };
            let mapping = mappings.by_address.get_mut(&hole.at).ok_or(hole)?;
            mapping.access = access;
            next += mapping.bytes;
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
        let Some(mapping) = mappings.by_address.get(&at).copied() else { return };
        mappings.remove(at.get(), at.get() + mapping.bytes);
    }

    /// Returns how many pins are held, over all pages.
    pub fn pinned(&self) -> u64 {
        self.mappings.lock().pins.values().map(|pins| pins.total).sum()
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
    /// Maps a piece that is new.
    fn insert(&mut self, at: u64, mapping: Mapping) {
        self.by_address.insert(UserAddr::new(at), mapping);
        self.pins.insert(mapping.phys, Pins { of_page: Vec::new(), total: 0, mapped: mapping.bytes / PAGE_SIZE });
    }

    /// Makes a mapping that goes across `at` two.
    fn cut(&mut self, at: u64) {
        let Some((start, mapping)) = self.by_address.range_mut(..UserAddr::new(at)).next_back() else { return };
        let before = at - start.get();
        if before < mapping.bytes
            && let Some(phys) = mapping.phys.checked_add(before)
        {
            let rest = Mapping { phys, bytes: mapping.bytes - before, ..*mapping };
            mapping.bytes = before;
            self.by_address.insert(UserAddr::new(at), rest);
        }
    }

    fn remove(&mut self, first: u64, end: u64) {
        self.cut(first);
        self.cut(end);
        let inside = self.by_address.range(UserAddr::new(first)..UserAddr::new(end));
        let inside: Vec<_> = inside.map(|(at, mapping)| (*at, *mapping)).collect();
        for (at, mapping) in inside {
            self.by_address.remove(&at);
            let Some((piece, pins, _)) = self.pins_of(mapping.phys) else { continue };
            pins.mapped -= mapping.bytes / PAGE_SIZE;
            if pins.total == 0 && pins.mapped == 0 {
                self.pins.remove(&piece);
            }
        }
    }

    /// What lies at `at`, and how many bytes of it there are.
    fn find(&self, at: UserAddr, access: Access) -> Result<(PhysAddr, u64), BadAddress> {
        let found = self.by_address.range(..=at).next_back();
        let inside = found.and_then(|(start, mapping)| {
            let offset = at.get() - start.get();
            let left = mapping.bytes.checked_sub(offset).filter(|left| *left > 0)?;
            let phys = mapping.phys.checked_add(offset)?;
            mapping.access?.permits(access).then_some((phys, left))
        });
        inside.ok_or(BadAddress { at })
    }

    /// The pins of the piece that has `phys`, and which page of it that is.
    fn pins_of(&mut self, phys: PhysAddr) -> Option<(PhysAddr, &mut Pins, usize)> {
        let (start, pins) = self.pins.range_mut(..=phys).next_back()?;
        let page = usize::try_from((phys.get() - start.get()) / PAGE_SIZE).ok()?;
        Some((*start, pins, page))
    }
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
        let (_, pins, first) = mappings.pins_of(phys).ok_or(bad)?;
        let end = usize::try_from(pages).ok().and_then(|pages| first.checked_add(pages)).ok_or(bad)?;
        if pins.of_page.len() < end {
            pins.of_page.resize(end, 0);
        }
        for count in pins.of_page.get_mut(first..end).into_iter().flatten() {
            *count = count.saturating_add(1);
        }
        pins.total += pages;
        Ok(PinnedRun { phys, bytes })
    }

    fn unpin(&self, run: PinnedRun) {
        let mut mappings = self.mappings.lock();
        let (mut phys, mut left) = (run.phys, run.bytes / PAGE_SIZE);
        while left > 0 {
            let Some((start, pins, first)) = mappings.pins_of(phys) else { return };
            let Some(of_page) = pins.of_page.get_mut(first..).filter(|pages| !pages.is_empty()) else { return };
            let pages = left.min(of_page.len() as u64);
            let mut ended = 0;
            for count in of_page.iter_mut().take(counted(pages)).filter(|count| **count > 0) {
                *count -= 1;
                ended += 1;
            }
            pins.total -= ended;
            if pins.total == 0 && pins.mapped == 0 {
                mappings.pins.remove(&start);
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
        f.debug_map().entries(&self.by_address).finish()
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
