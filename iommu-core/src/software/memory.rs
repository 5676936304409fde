//! Simulated physical memory.

mod frame;
mod window;

use alloc::collections::BTreeMap;
use core::fmt;
use core::ops::Range;

use device_model::sync::{Arc, SpinMutex};
use hashbrown::HashMap;

pub(super) use self::frame::{FRAME_SIZE, Frame};
use self::window::Pane;
pub use self::window::{Contents, Window};
use crate::address::{Access, PhysAddr};

/// Where memory that is [allocated](Memory::allocate) begins: below, tests put things where they like.
const ALLOCATED_FROM: u64 = 1 << 40;

#[derive(Default)]
struct Stored {
    frames: HashMap<u64, Arc<Frame>>,
    allocated: u64,
    /// By their first address.
    windows: BTreeMap<u64, Pane>,
}

/// All 64 bits of physical memory, zero where nobody has written.
///
/// Clones share the memory, which is freed with the last of them. Frames of 4 KiB come into being when they
/// are first written. As on a bus, an access is atomic within an aligned word and no further, and whoever sees a word
/// sees what was written before it. One lock guards which frames there are; it is the innermost lock.
#[derive(Clone, Default)]
pub struct Memory(Arc<SpinMutex<Stored>>);

impl Memory {
    /// Creates memory that nobody has written.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fills `into` from `at` on; with zeros past the last address of the 64-bit space.
    pub fn read(&self, at: PhysAddr, into: &mut [u8]) {
        into.fill(0);
        for piece in pieces(at, into.len()) {
            let Some(part) = into.get_mut(piece.buffer) else { return };
            let stored = self.0.lock();
            if let Some(opened) = stored.opened(piece.frame) {
                drop(stored);
                opened.contents.read(opened.offset + piece.inside.start as u64, part);
            } else if let Some(frame) = stored.frames.get(&piece.frame) {
                frame.read(piece.inside.start, part);
            }
        }
    }

    /// Stores `from` at `at`. Drops what would lie past the last address of the 64-bit space.
    pub fn write(&self, at: PhysAddr, from: &[u8]) {
        for piece in pieces(at, from.len()) {
            let Some(part) = from.get(piece.buffer) else { return };
            let mut stored = self.0.lock();
            if let Some(opened) = stored.opened(piece.frame) {
                drop(stored);
                opened.contents.write(opened.offset + piece.inside.start as u64, part);
                continue;
            }
            stored.frame_to_write(piece.frame).write(piece.inside.start, part);
        }
    }

    /// Returns the `N` bytes at `at`, as [`read`](Self::read) does.
    pub fn bytes<const N: usize>(&self, at: PhysAddr) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(at, &mut bytes);
        bytes
    }

    /// Allocates physical memory and returns its first address, at or above 2^40 and a multiple of 4 KiB; `None` when less
    /// than `bytes` is left. It is never freed.
    pub fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        let bytes = bytes.checked_next_multiple_of(FRAME_SIZE as u64)?;
        let mut contents = self.0.lock();
        let at = ALLOCATED_FROM.checked_add(contents.allocated)?;
        at.checked_add(bytes)?;
        contents.allocated += bytes;
        Some(PhysAddr::new(at))
    }

    /// The frame that `at` lies in, for an access to it: `None` in a window, and to read what nobody has written.
    pub(super) fn frame(&self, at: PhysAddr, access: Access) -> Option<Arc<Frame>> {
        let number = at.get() / FRAME_SIZE as u64;
        let mut stored = self.0.lock();
        if stored.opened(number).is_some() {
            return None;
        }
        match access {
            Access::Read => stored.frames.get(&number).cloned(),
            Access::Write | Access::ReadWrite => Some(stored.frame_to_write(number).clone()),
        }
    }

    /// Whether both are the same memory.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns how many frames of 4 KiB have been written to.
    pub fn frames(&self) -> usize {
        self.0.lock().frames.len()
    }
}

impl Stored {
    fn frame_to_write(&mut self, number: u64) -> &Arc<Frame> {
        self.frames.entry(number).or_insert_with(|| Arc::new(Frame::new()))
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("frames", &self.frames()).finish()
    }
}

/// The part of an access that lies in one frame.
struct Piece {
    frame: u64,
    inside: Range<usize>,
    buffer: Range<usize>,
}

fn pieces(at: PhysAddr, len: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let at = at.checked_add(done as u64)?.get();
        let start = (at & 0xfff) as usize;
        let length = (FRAME_SIZE - start).min(len - done);
        let buffer = done..done + length;
        done += length;
        (length > 0).then_some(Piece { frame: at / FRAME_SIZE as u64, inside: start..start + length, buffer })
    })
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
