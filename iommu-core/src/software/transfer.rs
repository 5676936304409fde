//! Accesses of devices: each part of memory is translated and accessed in one step.

use super::context::Caching;
use super::domain::Translator;
use super::memory::{FRAME_SIZE, Frame};
use super::unit::Unit;
use super::{Memory, Requester};
use crate::address::{Access, Iova, IovaRange, PhysAddr};
use crate::hardware::FaultReason;

/// What is left of the device's side of an access.
pub(super) trait Buffer {
    /// What the device does.
    const ACCESS: Access;

    fn len(&self) -> usize;

    /// Transfers the next `bytes`, if so many are left, from or to a frame, from byte `start` of that on.
    fn with_frame(&mut self, bytes: usize, frame: &Frame, start: usize);

    /// Transfers the next `bytes`, if so many are left, from or to memory at `phys`.
    fn with_memory(&mut self, bytes: usize, memory: &Memory, phys: PhysAddr);
}

impl Buffer for &mut [u8] {
    const ACCESS: Access = Access::Read;

    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    #[inline]
    fn with_frame(&mut self, bytes: usize, frame: &Frame, start: usize) {
        frame.read(start, self.split_off_mut(..bytes.min(self.len())).unwrap_or_default());
    }

    fn with_memory(&mut self, bytes: usize, memory: &Memory, phys: PhysAddr) {
        memory.read(phys, self.split_off_mut(..bytes.min(self.len())).unwrap_or_default());
    }
}

impl Buffer for &[u8] {
    const ACCESS: Access = Access::Write;

    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    #[inline]
    fn with_frame(&mut self, bytes: usize, frame: &Frame, start: usize) {
        frame.write(start, self.split_off(..bytes.min(self.len())).unwrap_or_default());
    }

    fn with_memory(&mut self, bytes: usize, memory: &Memory, phys: PhysAddr) {
        memory.write(phys, self.split_off(..bytes.min(self.len())).unwrap_or_default());
    }
}

/// An access that a device makes to `memory`, through `unit`.
pub(super) struct Transfer<'a, B> {
    pub(super) unit: &'a Unit,
    pub(super) memory: &'a Memory,
    pub(super) rest: B,
}

impl<B: Buffer> Transfer<'_, B> {
    /// Makes as much of what is left, which begins at `at`, as translation keeps in one piece.
    #[inline]
    pub(super) fn step(&mut self, from: Requester, at: Iova) -> Result<(), FaultReason> {
        let unit = self.unit;
        unit.contexts.with_translator(from, |translator, caching| {
            if let Some(Caching { tlb, .. }) = &caching
                && let Some(frame) = tlb.lookup(at, B::ACCESS, self.memory)
            {
                self.in_frame(frame, at);
                return Ok(());
            }
            self.translate(at, translator, caching)
        })
    }

    /// As [`step`](Self::step), where the device has not cached the page.
    #[cold]
    fn translate(
        &mut self,
        at: Iova,
        translator: &Translator,
        caching: Option<Caching<'_>>,
    ) -> Result<(), FaultReason> {
        let limit = self.before_window(translator, at)?;
        let caching = caching.filter(|_| !self.meets_window(at));
        let memory = self.memory;
        translator.with_translation(at, B::ACCESS, memory, |translation| {
            if let Some(caching) = caching
                && translator.cached_in(caching.shard)
                && let Some(frame) = memory.frame(translation.phys, B::ACCESS)
            {
                self.in_frame(&frame, at);
                caching.tlb.fill(at, B::ACCESS, &translation, memory, frame);
            } else {
                let bytes = usize::try_from(translation.remaining.min(limit)).unwrap_or(usize::MAX);
                self.rest.with_memory(bytes, memory, translation.phys);
            }
        })
    }

    /// Transfers what lies in the frame of `at`. Pages are made of whole frames.
    #[inline]
    fn in_frame(&mut self, frame: &Frame, at: Iova) {
        let start = (at.get() & 0xfff) as usize;
        self.rest.with_frame(FRAME_SIZE - start, frame, start);
    }

    /// How many bytes from `at` on lie before the interrupt window. A blocked device raises no interrupts either.
    fn before_window(&self, translator: &Translator, at: Iova) -> Result<u64, FaultReason> {
        match (self.unit.config.window(), translator) {
            (None, _) | (_, Translator::Blocking) => Ok(u64::MAX),
            (Some(window), _) if window.contains(at) => Err(FaultReason::InterruptWindow),
            (Some(window), _) => Ok(window.first().get().checked_sub(at.get()).unwrap_or(u64::MAX)),
        }
    }

    /// Whether the window has some of the bytes that are in one frame with `at`: what a device has cached, it accesses without
    /// another look at the window.
    fn meets_window(&self, at: Iova) -> bool {
        let frame = IovaRange::sized(Iova::new(at.get() & !(FRAME_SIZE as u64 - 1)), FRAME_SIZE as u64);
        self.unit.config.window().zip(frame).is_some_and(|(window, frame)| window.overlaps(frame))
    }
}
