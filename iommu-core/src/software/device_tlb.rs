//! The translations that a device used last.

use alloc::vec::Vec;

use device_model::sync::Arc;

use super::Memory;
use super::memory::{FRAME_SIZE, Frame};
use super::page_table::Translation;
use crate::address::{Access, Iova, IovaRange, Protection};

/// Number of frames that are remembered.
const PLACES: usize = 64;

/// A small cache of translations, as devices and IOMMUs have: each page has one place, and the next page with that place takes
/// it.
///
/// Only what was translated is in it, so mapping changes nothing here. Who unmaps, attaches, or asks for dirty pages
/// [flushes](Self::flush) under the lock under which the device looks here.
#[derive(Debug, Default)]
pub(super) struct DeviceTlb {
    /// Empty until something is remembered.
    places: Vec<Option<Cached>>,
    /// Whose frames these are.
    memory: Option<Memory>,
}

/// The part of a page that lies in one frame.
#[derive(Debug)]
struct Cached {
    number: u64,
    /// All of the page.
    page: IovaRange,
    frame: Arc<Frame>,
    /// What passes without another walk: writes do once the page table says that the page was written, if it keeps that.
    passes: Protection,
}

impl DeviceTlb {
    /// The frame behind `iova`, if it is remembered for this access and this memory.
    #[inline]
    pub(super) fn lookup(&self, iova: Iova, wanted: Access, memory: &Memory) -> Option<&Frame> {
        let cached = self.places.get(place(iova))?.as_ref()?;
        let known = cached.number == number(iova)
            && cached.passes.permits(wanted)
            && self.memory.as_ref().is_some_and(|known| known.is(memory));
        known.then_some(&*cached.frame)
    }

    /// Remembers the frame behind `iova`, which was just translated for `wanted`.
    pub(super) fn fill(
        &mut self,
        iova: Iova,
        wanted: Access,
        translation: &Translation,
        memory: &Memory,
        frame: Arc<Frame>,
    ) {
        if !self.memory.as_ref().is_some_and(|known| known.is(memory)) {
            self.flush(IovaRange::ALL);
            self.memory = Some(memory.clone());
        }
        let Translation { page_size, protection, .. } = *translation;
        let start = Iova::new(iova.get() & !(page_size - 1));
        let Some(page) = IovaRange::sized(start, page_size) else { return };
        self.places.resize_with(PLACES, || None);
        if let Some(cached) = self.places.get_mut(place(iova)) {
            let unwritten = if wanted == Access::Read { Protection::WRITE } else { Protection::empty() };
            *cached = Some(Cached { number: number(iova), page, frame, passes: protection.difference(unwritten) });
        }
    }

    /// Forgets the pages that overlap `range`.
    pub(super) fn flush(&mut self, range: IovaRange) {
        // What is no larger than a frame is one page: flushes cover whole pages.
        let places = if range.bytes() <= FRAME_SIZE as u64 {
            let only = place(range.first());
            self.places.get_mut(only..=only).unwrap_or_default()
        } else {
            &mut self.places
        };
        for cached in places {
            cached.take_if(|cached| cached.page.overlaps(range));
        }
    }
}

const fn number(iova: Iova) -> u64 {
    iova.get() / FRAME_SIZE as u64
}

#[expect(clippy::cast_possible_truncation, reason = "only the low bits matter")]
const fn place(iova: Iova) -> usize {
    number(iova) as usize % PLACES
}
