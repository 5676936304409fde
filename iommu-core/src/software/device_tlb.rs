//! The translations that a device used last.
#![expect(clippy::indexing_slicing, reason = "a place is below `PLACES`")]

use alloc::boxed::Box;

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
pub(super) struct DeviceTlb(Option<Translations>);

/// What is remembered of one memory.
#[derive(Debug)]
struct Translations {
    memory: Memory,
    places: Box<[Option<Cached>; PLACES]>,
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
        let known = self.0.as_ref().filter(|known| known.memory.is(memory))?;
        let cached = known.places[place(iova)].as_ref()?;
        (cached.number == number(iova) && cached.passes.permits(wanted)).then_some(&*cached.frame)
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
        let known = match &mut self.0 {
            Some(known) if known.memory.is(memory) => known,
            other => other.insert(Translations { memory: memory.clone(), places: Box::new([const { None }; PLACES]) }),
        };
        let Translation { page_size, protection, .. } = *translation;
        let start = Iova::new(iova.get() & !(page_size - 1));
        let Some(page) = IovaRange::sized(start, page_size) else { return };
        let unwritten = if wanted == Access::Read { Protection::WRITE } else { Protection::empty() };
        let cached = Cached { number: number(iova), page, frame, passes: protection.difference(unwritten) };
        known.places[place(iova)] = Some(cached);
    }

    /// Forgets the pages that overlap `range`.
    pub(super) fn flush(&mut self, range: IovaRange) {
        let Some(known) = &mut self.0 else { return };
        // What is no larger than a frame is one page: flushes cover whole pages.
        let places = if range.bytes() <= FRAME_SIZE as u64 {
            core::slice::from_mut(&mut known.places[place(range.first())])
        } else {
            &mut known.places[..]
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
