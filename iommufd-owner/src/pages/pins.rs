//! Which pages of a window are pinned, by run: what it costs follows the pinned memory, not the window.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

use iommu_core::PhysAddr;
use iommu_core::address::PAGE_SIZE;
use iommu_core::user_memory::PinnedRun;

/// A part of a window, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) first: u64,
    pub(crate) count: u64,
}

impl Slice {
    /// Returns the pages that `bytes` bytes from `offset` of a window on lie in.
    pub(crate) fn of(offset: u64, bytes: u64) -> Self {
        let first = offset / PAGE_SIZE;
        let end = offset.saturating_add(bytes).div_ceil(PAGE_SIZE);
        Self { first, count: end.saturating_sub(first) }
    }

    /// Returns the page behind it.
    pub(super) fn end(self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

/// Pinned pages. No two runs overlap, and two that touch differ in their count or do not touch in physical memory.
#[derive(Debug, Default)]
pub(super) struct Pins {
    runs: Runs,
}

/// Runs by their first page. Most windows are in one piece of memory and pinned as a whole, or not at all.
#[derive(Debug, Default)]
enum Runs {
    #[default]
    None,
    One(u64, Run),
    Many(BTreeMap<u64, Run>),
}

impl Runs {
    fn get(&self, first: u64) -> Option<Run> {
        match self {
            Self::None => None,
            Self::One(at, run) => (*at == first).then_some(*run),
            Self::Many(runs) => runs.get(&first).copied(),
        }
    }

    /// The last one that begins at `page` or before.
    fn at_or_before(&self, page: u64) -> Option<(u64, Run)> {
        match self {
            Self::None => None,
            Self::One(first, run) => (*first <= page).then_some((*first, *run)),
            Self::Many(runs) => runs.range(..=page).next_back().map(|(first, run)| (*first, *run)),
        }
    }

    /// The last one that begins before `page`.
    fn before_mut(&mut self, page: u64) -> Option<(u64, &mut Run)> {
        match self {
            Self::None => None,
            Self::One(first, run) => (*first < page).then_some((*first, run)),
            Self::Many(runs) => runs.range_mut(..page).next_back().map(|(first, run)| (*first, run)),
        }
    }

    /// Those that begin in a range, ascending.
    fn in_range(&self, pages: Range<u64>) -> impl Iterator<Item = (u64, Run)> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(first, run) => (pages.contains(first).then_some((*first, *run)), None),
            Self::Many(runs) => (None, Some(runs.range(pages).map(|(first, run)| (*first, *run)))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn in_range_mut(&mut self, pages: Range<u64>) -> impl Iterator<Item = (u64, &mut Run)> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(first, run) => (pages.contains(first).then_some((*first, run)), None),
            Self::Many(runs) => (None, Some(runs.range_mut(pages).map(|(first, run)| (*first, run)))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn insert(&mut self, first: u64, run: Run) {
        match self {
            Self::Many(runs) => {
                runs.insert(first, run);
            }
            Self::One(at, one) if *at != first => *self = Self::Many(BTreeMap::from([(*at, *one), (first, run)])),
            Self::None | Self::One(..) => *self = Self::One(first, run),
        }
    }

    fn remove(&mut self, first: u64) {
        match self {
            Self::Many(runs) => {
                runs.remove(&first);
            }
            Self::One(at, _) if *at == first => *self = Self::None,
            Self::None | Self::One(..) => {}
        }
    }
}

/// Pages in one piece of physical memory that are pinned equally often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    pages: u64,
    phys: PhysAddr,
    /// How many want it pinned. At its maximum it stays there, and the pages are pinned for good.
    count: u32,
}

/// What a part of a window begins with, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stretch {
    Pinned(u64),
    Unpinned(u64),
}

impl Run {
    fn phys_at(&self, page: u64) -> PhysAddr {
        PhysAddr::new(self.phys.get().wrapping_add(page.wrapping_mul(PAGE_SIZE)))
    }

    fn bytes(&self) -> u64 {
        self.pages.saturating_mul(PAGE_SIZE)
    }
}

impl Pins {
    /// Returns the run that `page` lies in, and its first page.
    fn run_at(&self, page: u64) -> Option<(u64, Run)> {
        self.runs.at_or_before(page).filter(|(first, run)| page - first < run.pages)
    }

    /// Returns how the pages from `page` to before `end` begin; `page` is before `end`.
    pub(super) fn stretch(&self, page: u64, end: u64) -> Stretch {
        match self.run_at(page) {
            Some((first, run)) => Stretch::Pinned((first + run.pages).min(end) - page),
            None => Stretch::Unpinned(self.runs.in_range(page..end).next().map_or(end, |(next, _)| next) - page),
        }
    }

    /// Notes that `pages` pages from `page` on, none of them pinned before, are pinned at `phys`.
    pub(super) fn insert(&mut self, page: u64, pages: u64, phys: PhysAddr) {
        self.runs.insert(page, Run { pages, phys, count: 1 });
        self.join(page);
        self.join(page + pages);
    }

    /// Counts those pages of a slice that are pinned once more.
    pub(super) fn hold(&mut self, slice: Slice) {
        self.split(slice.first);
        self.split(slice.end());
        for (_, run) in self.runs.in_range_mut(slice.first..slice.end()) {
            run.count = run.count.saturating_add(1);
        }
        self.join(slice.first);
        self.join(slice.end());
    }

    /// Counts those pages of a slice that are pinned once less. Returns what nobody wants pinned any more.
    pub(super) fn release(&mut self, slice: Slice) -> Vec<PinnedRun> {
        self.split(slice.first);
        self.split(slice.end());
        let mut freed = Vec::new();
        let mut ended = Vec::new();
        for (first, run) in self.runs.in_range_mut(slice.first..slice.end()) {
            match run.count {
                0 | 1 => {
                    ended.push(first);
                    append(&mut freed, run);
                }
                u32::MAX => {}
                _ => run.count -= 1,
            }
        }
        for first in ended {
            self.runs.remove(first);
        }
        self.join(slice.first);
        self.join(slice.end());
        freed
    }

    /// Returns the physical memory behind the pinned pages of a slice, in order, in pieces as long as possible.
    pub(super) fn runs(&self, slice: Slice) -> Vec<PinnedRun> {
        let mut runs = Vec::new();
        let begin = self.run_at(slice.first).map_or(slice.first, |(first, _)| first);
        for (first, run) in self.runs.in_range(begin..slice.end()) {
            let skipped = slice.first.saturating_sub(first);
            let pages = (first + run.pages).min(slice.end()) - first - skipped;
            append(&mut runs, &Run { pages, phys: run.phys_at(skipped), count: run.count });
        }
        runs
    }

    /// Makes a run begin at `page`, if one lies across.
    fn split(&mut self, page: u64) {
        let Some((first, run)) = self.run_at(page).filter(|(first, _)| *first != page) else { return };
        let left = page - first;
        self.runs.insert(first, Run { pages: left, ..run });
        self.runs.insert(page, Run { pages: run.pages - left, phys: run.phys_at(left), ..run });
    }

    /// Makes one of two runs that touch at `page`, if they are alike.
    fn join(&mut self, page: u64) {
        let Some(right) = self.runs.get(page) else { return };
        let Some((first, left)) = self.runs.before_mut(page) else { return };
        let touches = first + left.pages == page && left.phys_at(left.pages) == right.phys;
        if touches && left.count == right.count {
            left.pages += right.pages;
            self.runs.remove(page);
        }
    }
}

/// Adds a run behind others; one that touches the last in physical memory makes that longer.
fn append(runs: &mut Vec<PinnedRun>, run: &Run) {
    match runs.last_mut() {
        Some(last) if last.phys.checked_add(last.bytes) == Some(run.phys) => last.bytes += run.bytes(),
        _ => runs.push(PinnedRun { phys: run.phys, bytes: run.bytes() }),
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests;
