//! Windows: physical memory whose contents lie elsewhere.

use core::fmt;

use device_model::sync::Arc;

use super::{ALLOCATED_FROM, FRAME_SIZE, Memory, Stored};
use crate::address::PhysAddr;

/// Contents of a [`Window`]. Accesses come from any thread and stay within the window. A device's come with the IOMMU's
/// locks held: they must take no lock and not wait.
pub trait Contents: Send + Sync + fmt::Debug {
    /// Fills `into` from `offset` of the window on.
    fn read(&self, offset: u64, into: &mut [u8]);

    /// Stores `from` at `offset` of the window.
    fn write(&self, offset: u64, from: &[u8]);
}

/// Physical memory whose contents lie elsewhere, such as in a real process. Dropping it leaves memory that nobody has
/// written; its addresses are not used again.
#[derive(Debug)]
pub struct Window {
    memory: Memory,
    at: PhysAddr,
}

/// A frame of a window, as an access finds it.
pub(super) struct Opened {
    pub(super) contents: Arc<dyn Contents>,
    /// Where in the window it begins.
    pub(super) offset: u64,
}

pub(super) struct Pane {
    bytes: u64,
    contents: Arc<dyn Contents>,
}

impl Window {
    /// Returns its first address, a multiple of its size.
    pub fn at(&self) -> PhysAddr {
        self.at
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let gone = self.memory.0.lock().windows.remove(&self.at.get());
        drop(gone);
    }
}

impl Memory {
    /// Allocates physical memory whose contents lie elsewhere; `None` when not so much is left. `bytes` is rounded up to a
    /// power of two, 4 KiB at least.
    pub fn window(&self, bytes: u64, contents: Arc<dyn Contents>) -> Option<Window> {
        let bytes = bytes.max(FRAME_SIZE as u64).checked_next_power_of_two()?;
        let mut memory = self.0.lock();
        let at = ALLOCATED_FROM.checked_add(memory.allocated)?.checked_next_multiple_of(bytes)?;
        memory.allocated = at.checked_add(bytes)? - ALLOCATED_FROM;
        memory.windows.insert(at, Pane { bytes, contents });
        Some(Window { memory: self.clone(), at: PhysAddr::new(at) })
    }
}

impl Stored {
    /// The window that a frame belongs to: windows are of whole frames.
    pub(super) fn opened(&self, frame: u64) -> Option<Opened> {
        let at = frame * FRAME_SIZE as u64;
        let (start, pane) = self.windows.range(..=at).next_back()?;
        let offset = at - start;
        (offset < pane.bytes).then(|| Opened { contents: pane.contents.clone(), offset })
    }
}
