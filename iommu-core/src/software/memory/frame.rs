//! One frame of physical memory.

// Not those of `sync`: what devices and processors store here is data, and no step of a protocol.
use core::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a frame.
pub(in crate::software) const FRAME_SIZE: usize = 0x1000;

const WORD: usize = size_of::<usize>();

/// 4 KiB of memory, zero at first.
///
/// As on a bus, an access is atomic within an aligned word and no further; whoever sees a word sees what was written before
/// it.
#[derive(Debug)]
pub(in crate::software) struct Frame([AtomicUsize; FRAME_SIZE / WORD]);

impl Frame {
    pub(super) const fn new() -> Self {
        Self([const { AtomicUsize::new(0) }; FRAME_SIZE / WORD])
    }

    /// Fills `into` from byte `start` on; what lies past the end of the frame stays as it is.
    #[inline]
    pub(in crate::software) fn read(&self, start: usize, into: &mut [u8]) {
        let (within, first) = (start % WORD, start.div_ceil(WORD));
        let mut into = into;
        if within > 0 {
            let (head, rest) = into.split_at_mut(into.len().min(WORD - within));
            self.read_part(start / WORD, within, head);
            into = rest;
        }
        let (whole, tail) = into.as_chunks_mut::<WORD>();
        let from = self.0.get(first..).unwrap_or_default();
        for (part, word) in whole.iter_mut().zip(from) {
            *part = word.load(Ordering::Acquire).to_ne_bytes();
        }
        if !tail.is_empty() {
            self.read_part(first + whole.len(), 0, tail);
        }
    }

    /// Stores `from` from byte `start` on; what would lie past the end of the frame is dropped.
    #[inline]
    pub(in crate::software) fn write(&self, start: usize, from: &[u8]) {
        let (within, first) = (start % WORD, start.div_ceil(WORD));
        let mut from = from;
        if within > 0 {
            let (head, rest) = from.split_at(from.len().min(WORD - within));
            self.write_part(start / WORD, within, head);
            from = rest;
        }
        let (whole, tail) = from.as_chunks::<WORD>();
        let to = self.0.get(first..).unwrap_or_default();
        for (part, word) in whole.iter().zip(to) {
            word.store(usize::from_ne_bytes(*part), Ordering::Release);
        }
        if !tail.is_empty() {
            self.write_part(first + whole.len(), 0, tail);
        }
    }

    /// Fills `into` with a part of a word.
    #[inline(never)]
    fn read_part(&self, word: usize, start: usize, into: &mut [u8]) {
        if let Some(word) = self.0.get(word) {
            let bytes = word.load(Ordering::Acquire).to_ne_bytes();
            into.iter_mut().zip(bytes.iter().skip(start)).for_each(|(to, byte)| *to = *byte);
        }
    }

    /// Stores a part of a word, and leaves the rest of it to whoever writes there meanwhile.
    #[inline(never)]
    fn write_part(&self, word: usize, start: usize, from: &[u8]) {
        let Some(word) = self.0.get(word) else { return };
        let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
            let mut bytes = old.to_ne_bytes();
            bytes.iter_mut().skip(start).zip(from).for_each(|(to, byte)| *to = *byte);
            Some(usize::from_ne_bytes(bytes))
        });
    }
}
